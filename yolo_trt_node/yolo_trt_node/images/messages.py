"""From image messages to frames that the detector reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.frames import Frame

Pixels = NDArray[np.uint8]


class ImageError(ValueError):
    """An image message that cannot be read.

    The message says what is wrong with it, with its figures; ``reason`` says the same in few words without
    figures, so that it can be counted.
    """

    def __init__(self, reason: str, detail: str) -> None:
        """Join the reason and what there is to say of this one image."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


class CompressedMessage(Protocol):
    """The fields of ``sensor_msgs/CompressedImage`` that are read here."""

    format: str
    data: Any


@dataclass(frozen=True)
class _Encoding:
    """How the bytes of an encoding lie.

    Attributes:
        row_bytes: bytes of a pixel in the first plane's rows.
        native: the frame encoding that is the same; empty: ``to_bgr`` converts.
        to_bgr: makes H x W x 3 BGR of rows x step bytes, height, width and whether big endian.
        even: what must be even, because several pixels share one chroma sample.
        chroma_below: whether half as many rows of chroma follow those of the pixels.
        least: shortest side that can be converted.
    """

    row_bytes: int
    native: str = ""
    to_bgr: Callable[[Pixels, int, int, bool], Pixels] | None = None
    even: tuple[str, ...] = ()
    chroma_below: bool = False
    least: int = 1

    def rows(self, height: int) -> int:
        return height * 3 // 2 if self.chroma_below else height


def _packed(code: int, channels: int) -> Callable[[Pixels, int, int, bool], Pixels]:
    """Convert 8-bit pixels of some channels by an OpenCV code."""

    def convert(rows: Pixels, height: int, width: int, _: bool) -> Pixels:
        pixels = rows[:, : width * channels]
        return cv2.cvtColor(pixels if channels == 1 else pixels.reshape(height, width, channels), code)

    return convert


def _semiplanar(code: int) -> Callable[[Pixels, int, int, bool], Pixels]:
    """Convert a luma plane with rows of interleaved chroma below it."""
    return lambda rows, height, width, _: cv2.cvtColor(rows[:, :width], code)


def _i420(rows: Pixels, height: int, width: int, _: bool) -> Pixels:
    """Convert a luma plane and two chroma planes whose rows are half as long, and half as far apart."""
    step = rows.shape[1]
    if step != width:
        chroma = rows[height:].reshape(height, step // 2)[:, : width // 2]
        rows = np.vstack((rows[:height, :width], chroma.reshape(height // 2, width)))
    return cv2.cvtColor(rows, cv2.COLOR_YUV2BGR_I420)


def _high_bytes(rows: Pixels, width: int, big: bool) -> Pixels:
    """Scale 16-bit values of one channel to 8 bits."""
    values = rows[:, : width * 2].view(">u2" if big else "<u2")
    return cv2.convertScaleAbs(values.astype(np.uint16, copy=False), alpha=255 / 65535)


def _mono16(rows: Pixels, height: int, width: int, big: bool) -> Pixels:
    return cv2.cvtColor(_high_bytes(rows, width, big), cv2.COLOR_GRAY2BGR)


def _bayer16(code: int) -> Callable[[Pixels, int, int, bool], Pixels]:
    return lambda rows, height, width, big: cv2.cvtColor(_high_bytes(rows, width, big), code)


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's first.
_BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
_PAIRS = ("width",)
_SQUARES = ("width", "height")
_UYVY = _Encoding(2, to_bgr=_packed(cv2.COLOR_YUV2BGR_UYVY, 2), even=_PAIRS)
_YUYV = _Encoding(2, native="yuyv", even=_PAIRS)

_ENCODINGS: Mapping[str, _Encoding] = {
    "bgr8": _Encoding(3, native="bgr8"),
    "rgb8": _Encoding(3, native="rgb8"),
    "bgra8": _Encoding(4, native="bgra8"),
    "rgba8": _Encoding(4, native="rgba8"),
    "mono8": _Encoding(1, native="mono8"),
    "mono16": _Encoding(2, to_bgr=_mono16),
    # OpenCV's names: drivers that publish them mean grey and BGR.
    "8UC1": _Encoding(1, native="mono8"),
    "8UC3": _Encoding(3, native="bgr8"),
    # The older names, and those of sensor_msgs since Iron.
    "yuv422": _UYVY,
    "uyvy": _UYVY,
    "yuv422_yuy2": _YUYV,
    "yuyv": _YUYV,
    "nv12": _Encoding(1, native="nv12", even=_SQUARES, chroma_below=True),
    "nv21": _Encoding(1, to_bgr=_semiplanar(cv2.COLOR_YUV2BGR_NV21), even=_SQUARES, chroma_below=True),
    "i420": _Encoding(1, to_bgr=_i420, even=_SQUARES, chroma_below=True),
    **{f"{name}8": _Encoding(1, to_bgr=_packed(code, 1), least=3) for name, code in _BAYER.items()},
    **{f"{name}16": _Encoding(2, to_bgr=_bayer16(code), least=3) for name, code in _BAYER.items()},
}

ENCODINGS = tuple(_ENCODINGS)
"""The image encodings that can be read without cv_bridge."""


def read_image(message: ImageMessage | CompressedMessage, max_pixels: int) -> Frame:
    """Read a raw or compressed image message.

    Args:
        message: ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``.
        max_pixels: compressed images with more are refused.

    Raises:
        ImageError: it cannot be read.
    """
    if hasattr(message, "format"):
        return decode(cast(CompressedMessage, message), max_pixels)
    return raw_frame(message)


def raw_frame(message: ImageMessage) -> Frame:
    """Return a raw image message's pixels.

    Args:
        message: a ``sensor_msgs/Image``; rows may be padded (``step``). For nv12, nv21 and i420 the height
            is the image's, and half as many rows of chroma follow.

    Returns:
        The frame. For bgr8, rgb8, bgra8, rgba8, mono8, yuyv and nv12 it is a view of the message's own data;
        others are converted to BGR.

    Raises:
        ImageError: the encoding is not supported, or its fields do not fit each other.
    """
    name, height, width, step = message.encoding, message.height, message.width, message.step
    size = len(message.data)
    if not height or not width:
        raise ImageError("empty image", f"{width} x {height} pixels, {size} bytes; look at the camera driver")
    encoding = _ENCODINGS.get(name)
    if encoding is None:
        return _through_cv_bridge(message)
    row = width * encoding.row_bytes
    if step < row:
        raise ImageError(
            "corrupt image",
            f"step {step} is less than the {row} bytes of a row of {width} pixels in {name}; the publisher "
            "fills step or encoding wrongly",
        )
    for side, length in (("width", width), ("height", height)):
        if side in encoding.even and length % 2:
            raise ImageError(
                "corrupt image",
                f"{width} x {height} pixels in {name}, whose {side} is even: neighbours share their colour; "
                "the publisher fills width, height or encoding wrongly",
            )
    if min(width, height) < encoding.least:
        raise ImageError(
            "corrupt image",
            f"{width} x {height} pixels in {name}: colours cannot be told from fewer than {encoding.least} "
            "rows and columns",
        )
    if name == "i420" and step % 2:
        raise ImageError(
            "corrupt image", f"step {step} in i420 is even: that of its colour planes is half of it"
        )
    rows = encoding.rows(height)
    if size != step * rows:
        raise ImageError(
            "corrupt image",
            f"{size} bytes of data, but {rows} rows of step {step} make {step * rows}; the publisher fills "
            "step, height or data wrongly",
        )
    data = np.frombuffer(memoryview(message.data), np.uint8).reshape(rows, step)
    if encoding.native:
        return Frame(data, height, width, encoding.native, step)
    assert encoding.to_bgr is not None
    try:
        return Frame.from_bgr(encoding.to_bgr(data, height, width, bool(message.is_bigendian)))
    except cv2.error as error:
        raise ImageError(
            "unreadable image", f"OpenCV cannot convert {width} x {height} pixels in {name}: {error.err}"
        ) from error


def _through_cv_bridge(message: ImageMessage) -> Frame:
    """Read an encoding that is not ours with cv_bridge, where it is installed."""
    try:
        from cv_bridge import CvBridge
    except Exception as error:  # one built for another NumPy raises whatever it likes
        raise ImageError(
            "unsupported encoding",
            f"{_shown(message.encoding)}; supported are {', '.join(ENCODINGS)}, and more where cv_bridge is "
            f"installed (here: {error}). Change the camera driver's encoding, or convert with image_proc",
        ) from error
    size, needed = len(message.data), message.step * message.height
    if size != needed:
        raise ImageError(
            "corrupt image",
            f"{size} bytes of data, but {message.height} rows of step {message.step} make {needed}",
        )
    try:
        pixels = np.asarray(CvBridge().imgmsg_to_cv2(message, "bgr8"))
        return Frame.from_bgr(pixels)
    except Exception as error:
        raise ImageError(
            "unsupported encoding",
            f"{_shown(message.encoding)}: cv_bridge cannot convert it to bgr8 ({error}); without it, "
            f"supported are {', '.join(ENCODINGS)}",
        ) from error


def _shown(text: str) -> str:
    """Quote what a message says of itself, at a length fit for a log."""
    return repr(text if len(text) <= 40 else text[:37] + "...")


# --- Compressed images ----------------------------------------------------------------------------------

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PNG\r\n\x1a\n"
# Start of a JPEG frame, of whatever coding; C4, C8 and CC are other things.
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}


def decode(message: CompressedMessage, max_pixels: int) -> Frame:
    """Decode a JPEG or PNG image message; its content says which it is, not its ``format``.

    Orientation tags are not followed, as image_transport does not: boxes are in the pixels as stored.

    Args:
        message: a ``sensor_msgs/CompressedImage``.
        max_pixels: an image whose header tells of more is refused before it is decoded.

    Raises:
        ImageError: it is neither JPEG nor PNG, damaged, cut off or too large.
    """
    data = bytes(memoryview(message.data))
    if data.startswith(_JPEG):
        height, width = _jpeg_size(data)
    elif data.startswith(_PNG):
        height, width = _png_size(data)
    else:
        raise ImageError(
            "neither JPEG nor PNG",
            f"format {_shown(message.format)}, {len(data)} bytes that begin with "
            f"{data[:8].hex(' ') or 'nothing'}; set the camera driver or image_transport to jpeg or png",
        )
    if not height or not width:
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
        raise ImageError("damaged image", f"OpenCV cannot decode its {len(data)} bytes")
    if pixels.dtype == np.uint16:
        pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
    return _decoded_frame(pixels, message.format)


def _decoded_frame(pixels: Pixels, format_: str) -> Frame:
    """Give decoded pixels their colours.

    image_transport says them in the format: ``ENCODING; CODEC compressed ENCODING``.
    """
    source, _, coded = format_.partition(";")
    height, width = pixels.shape[:2]
    if pixels.ndim == 2:
        bayer = _BAYER.get(source.strip().removesuffix("8").removesuffix("16"))
        if bayer is not None:
            return Frame.from_bgr(cv2.cvtColor(pixels, bayer))
        return Frame(pixels, height, width, "mono8", pixels.strides[0])
    # Old publishers hand RGB to the encoder as if it were BGR, and do not say "compressed bgr".
    swapped = source.strip().startswith("rgb") and "compressed" in coded and "compressed bgr" not in coded
    name = {3: ("bgr8", "rgb8"), 4: ("bgra8", "rgba8")}[pixels.shape[2]][swapped]
    return Frame(pixels, height, width, name, pixels.strides[0])


def _png_size(data: bytes) -> tuple[int, int]:
    """Return height and width as a PNG's first chunk tells them."""
    if len(data) < 24 or data[12:16] != b"IHDR":
        raise ImageError("damaged image", f"a PNG of {len(data)} bytes without a header")
    if b"IEND" not in data[-64:]:
        raise ImageError("damaged image", f"the PNG is cut off after {len(data)} bytes")
    return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")


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
