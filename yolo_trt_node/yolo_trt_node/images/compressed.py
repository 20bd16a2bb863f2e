"""Compressed still images: what and how large they are by their content, and their pixels."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Protocol

import cv2
import numpy as np

from yolo_trt_node.images.encodings import BAYER, Pixels
from yolo_trt_node.images.errors import ImageError, shown
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.thermal import ThermalRange


class CompressedMessage(Protocol):
    """The fields of ``sensor_msgs/CompressedImage`` and its like that are read here."""

    format: str
    data: Any


_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start of a JPEG frame, of whatever coding; C4, C8 and CC are other things.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}


def pixel_count(content: Any) -> int:
    """Return how many pixels a still image has, by its header alone; 0: it does not tell."""
    data = bytes(memoryview(content))
    _, size = _format(data)
    try:
        width, height = (0, 0) if size is None else size(data)
    except Exception:  # `decode` says what is wrong with it
        return 0
    return width * height


def decode(
    content: Any, format_: str, max_pixels: int, thermal: ThermalRange, stamp_s: float | None = None
) -> Frame:
    """Decode a still image; its content says what it is (`FORMATS`), not its format.

    Orientation tags are not followed, as image_transport does not: boxes are in the pixels as stored.

    Args:
        content: the bytes, as the message has them.
        format_: what the message says of itself.
        max_pixels: an image whose header tells of more is refused before it is decoded.
        thermal: how 16-bit counts become grays.
        stamp_s: the image's stamp in seconds.

    Raises:
        ImageError: it is of no format that is known, damaged, cut off or too large.
    """
    data = bytes(memoryview(content))
    if "compressedDepth" in format_:
        raise ImageError("depth image", f"format {shown(format_)} holds distances, not a picture")
    name, size = _format(data)
    if size is None:
        raise ImageError(
            "unknown image format",
            f"neither JPEG nor PNG nor another that is read ({', '.join(FORMATS)}): format {shown(format_)}, "
            f"{len(data)} bytes that begin with {data[:8].hex(' ') or 'nothing'}; set the camera driver or "
            "image_transport to jpeg or png",
        )
    try:
        height, width = size(data)
    except (struct.error, IndexError) as error:
        raise ImageError("damaged image", f"a {name} of {len(data)} bytes whose header is cut off") from error
    if height < 1 or width < 1:
        raise ImageError("empty image", f"its header says {width} x {height} pixels")
    if height * width > max_pixels:
        raise ImageError(
            "too large",
            f"its header says {width} x {height} pixels, {height * width / 1e6:.1f} million; at most "
            f"{max_pixels / 1e6:g} are decoded (parameter max_megapixels)",
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError("damaged image", f"{len(data)} bytes: {error.err}") from error
    if pixels is None:
        raise ImageError("damaged image", f"OpenCV cannot decode its {len(data)} bytes of {name}")
    if pixels.dtype == np.uint16 and pixels.ndim == 2 and not _bayer(format_):
        pixels = thermal.to_8_bits(pixels, stamp_s)
    elif pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    if pixels.dtype != np.uint8:
        raise ImageError("depth image", f"a {name} of {pixels.dtype} numbers holds no colors")
    return _decoded_frame(pixels, format_)


def _bayer(format_: str) -> int | None:
    """Return OpenCV's code for the Bayer mosaic that image_transport's format names."""
    return BAYER.get(format_.partition(";")[0].strip().removesuffix("8").removesuffix("16"))


def _decoded_frame(pixels: Pixels, format_: str) -> Frame:
    """Give decoded pixels their colours.

    image_transport says them in the format: ``ENCODING; CODEC compressed ENCODING``.
    """
    source, _, coded = format_.partition(";")
    height, width = pixels.shape[:2]
    if pixels.ndim == 2:
        bayer = _bayer(format_)
        if bayer is not None:
            return Frame.from_bgr(cv2.cvtColor(pixels, bayer))
        return Frame(pixels, height, width, "mono8", pixels.strides[0])
    # Old publishers hand RGB to the encoder as if it were BGR, and do not say "compressed bgr".
    swapped = source.strip().startswith("rgb") and "compressed" in coded and "compressed bgr" not in coded
    if pixels.shape[2] not in (3, 4):
        raise ImageError("unreadable image", f"{pixels.shape[2]} channels; gray, color and alpha are read")
    name = {3: ("bgr8", "rgb8"), 4: ("bgra8", "rgba8")}[pixels.shape[2]][swapped]
    return Frame(pixels, height, width, name, pixels.strides[0])


def _png_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a PNG's first chunk tells them; its last one must be there."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise ImageError("damaged image", f"a PNG of {len(data)} bytes without a header")
    at = len(_PNG)
    while data[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(data[at : at + 4], "big")
        if at + 8 > len(data):
            raise ImageError("damaged image", f"the PNG is cut off after {len(data)} bytes")
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


def _bmp_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a BMP's header tells them."""
    (length,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", data, 18)
    (start,) = struct.unpack_from("<I", data, 10)
    if start >= len(data):
        raise ImageError("damaged image", f"the BMP is cut off after {len(data)} bytes")
    return abs(height), abs(width)


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a WebP's first chunk tells them."""
    if len(data) < int.from_bytes(data[4:8], "little") + 8:
        raise ImageError("damaged image", f"the WebP is cut off after {len(data)} bytes")
    kind = data[12:16]
    if kind == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return height & 0x3FFF, width & 0x3FFF


def _tiff_size(data: bytes) -> tuple[int, int]:
    """Return height and width as the entries of a TIFF's first directory tell them."""
    order = "<" if data[:2] == b"II" else ">"
    (at,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, at)
    sides = {}
    for entry in range(at + 2, at + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", data, entry)
        if tag in (256, 257):  # width, length
            (sides[tag],) = struct.unpack_from(order + ("H" if kind == 3 else "I"), data, entry + 8)
    if len(sides) < 2:
        raise ImageError("damaged image", f"a TIFF of {len(data)} bytes that tells no size")
    return sides[257], sides[256]


def _jp2_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a JPEG 2000 code stream tells them."""
    start = data.find(_J2K)
    if start < 0 or b"\xff\xd9" not in data[-64:]:
        raise ImageError("damaged image", f"a JPEG 2000 of {len(data)} bytes that is cut off")
    right, bottom, left, top = struct.unpack_from(">IIII", data, start + 8)
    return bottom - top, right - left


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a JPEG's frame header tells them."""
    at, size = 2, None
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        else:
            if marker in _JPEG_FRAMES and at + 9 <= len(data):
                if size is not None:
                    break
                size = (
                    int.from_bytes(data[at + 5 : at + 7], "big"),
                    int.from_bytes(data[at + 7 : at + 9], "big"),
                )
            if marker == 0xDA:
                # The decoder would fill what is missing with grey; there is no end marker inside the scans.
                if data.rfind(b"\xff\xd9", at) < 0:
                    raise ImageError("damaged image", f"the JPEG is cut off after {len(data)} bytes")
                if size is not None:
                    return size
                break
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ImageError("damaged image", f"a JPEG of {len(data)} bytes whose headers cannot be read")


_J2K = b"\xff\x4f\xff\x51"
_Size = Callable[[bytes], tuple[int, int]]
_FORMATS: tuple[tuple[str, tuple[bytes, ...], _Size], ...] = (
    ("JPEG", (_JPEG,), _jpeg_size),
    ("PNG", (_PNG,), _png_size),
    ("WebP", (b"RIFF",), _webp_size),
    ("TIFF", (b"II*\0", b"MM\0*"), _tiff_size),
    ("BMP", (b"BM",), _bmp_size),
    ("JPEG 2000", (b"\0\0\0\x0cjP  ", _J2K), _jp2_size),
)
FORMATS = tuple(name for name, _, _ in _FORMATS)
"""The formats of still images that are read."""


def _format(data: bytes) -> tuple[str, _Size | None]:
    for name, beginnings, size in _FORMATS:
        if data.startswith(beginnings):
            return name, size
    return "", None
