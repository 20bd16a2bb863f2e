"""The encodings of raw images: one row each, for frames and for messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
ToBgr = Callable[[Pixels, int, int, bool], Pixels]
"""Makes H x W x 3 BGR of rows x step bytes, height, width, and whether values are big endian."""


@dataclass(frozen=True)
class Encoding:
    """How the bytes of an image lie.

    Attributes:
        pixel_bytes: bytes of a pixel in the first plane's rows.
        code: of OpenCV's conversion to BGR of 8-bit pixels; None where they are BGR already.
        convert: converts what no code does.
        native: the frame encoding whose bytes are the same, so that they are never copied; empty: every image
            is converted to BGR. A row whose native name is its own is such an encoding: the CPU path and the
            CUDA kernel read it, the kernel by the position of the row among these.
        even: what must be even, because several pixels share one chroma sample.
        chroma: rows of chroma below, for each row of pixels.
        least: shortest side that can be converted.
        even_step: whether a row's chroma is half as long as the row, so that the step must be even.
        counts: whether a pixel is one 16-bit value, which a camera need not use in full (`thermal`).
        what: what it is, for the page of all inputs.
    """

    pixel_bytes: int
    code: int | None = None
    convert: ToBgr | None = None
    native: str = ""
    even: tuple[str, ...] = ()
    chroma: float = 0
    least: int = 1
    even_step: bool = False
    counts: bool = False
    what: str = ""

    def rows(self, height: int) -> int:
        """Return the rows of pixels and chroma together."""
        return height + int(height * self.chroma)

    def pixels(self, rows: Pixels, height: int, width: int) -> Pixels:
        """Return 8-bit pixels as OpenCV takes them: H x W x channels, or rows x W of single bytes; a view."""
        pixels = rows[:, : width * self.pixel_bytes]
        return pixels if self.pixel_bytes == 1 else pixels.reshape(height, width, self.pixel_bytes)

    def to_bgr(
        self, rows: Pixels, height: int, width: int, big: bool = False, out: Pixels | None = None
    ) -> Pixels:
        """Return H x W x 3 uint8 BGR of rows x step bytes: a view where they are BGR, else converted.

        Args:
            rows: pixels, and chroma below.
            height: of the image.
            width: of the image.
            big: whether values of 16 bits are big endian.
            out: where to write what a code converts.
        """
        if self.convert is not None:
            return self.convert(rows, height, width, big)
        pixels = self.pixels(rows, height, width)
        return pixels if self.code is None else cv2.cvtColor(pixels, self.code, dst=out)


def values_16_bit(rows: Pixels, width: int, big: bool, channels: int = 1) -> NDArray[np.uint16]:
    """Return the 16-bit values of rows x step bytes, rows x width * channels, in the machine's order."""
    values = np.ascontiguousarray(rows[:, : width * channels * 2]).view(">u2" if big else "<u2")
    return values.astype(np.uint16, copy=False)


# BT.601, limited range, as in OpenCV's own conversions; rows: blue, green, red of Y, U, V and one.
_FROM_YUV = np.array(
    [[1.164, 2.018, 0.0], [1.164, -0.391, -0.813], [1.164, 0.0, 1.596]], np.float64
) @ np.array([[1, 0, 0, -16], [0, 1, 0, -128], [0, 0, 1, -128]], np.float64)


def _nv24(rows: Pixels, height: int, width: int, _: bool) -> Pixels:
    """Convert a luma plane with both chroma samples of every pixel below it, two rows for each of luma."""
    chroma = rows[height:].reshape(height, 2 * rows.shape[1])[:, : 2 * width].reshape(height, width, 2)
    return cv2.transform(np.dstack((rows[:height, :width], chroma)), _FROM_YUV)


def _i420(rows: Pixels, height: int, width: int, _: bool) -> Pixels:
    """Convert a luma plane and two chroma planes whose rows are half as long, and half as far apart."""
    step = rows.shape[1]
    if step != width:
        chroma = rows[height:].reshape(height, step // 2)[:, : width // 2]
        rows = np.vstack((rows[:height, :width], chroma.reshape(height // 2, width)))
    return cv2.cvtColor(rows, cv2.COLOR_YUV2BGR_I420)


def full_range(values: NDArray[np.uint16]) -> Pixels:
    """Scale 16-bit values to 8 bits."""
    return cv2.convertScaleAbs(values, alpha=255 / 65535)


def _wide(code: int | None, channels: int = 1) -> ToBgr:
    """Convert 16-bit pixels by an OpenCV code."""

    def convert(rows: Pixels, height: int, width: int, big: bool) -> Pixels:
        pixels = full_range(values_16_bit(rows, width, big, channels))
        pixels = pixels if channels == 1 else pixels.reshape(height, width, channels)
        return pixels if code is None else cv2.cvtColor(pixels, code)

    return convert


# OpenCV names a Bayer pattern by the second row's second and third pixel, ROS by the first row's first.
BAYER = {
    "bayer_rggb": cv2.COLOR_BayerBG2BGR,
    "bayer_bggr": cv2.COLOR_BayerRG2BGR,
    "bayer_gbrg": cv2.COLOR_BayerGR2BGR,
    "bayer_grbg": cv2.COLOR_BayerGB2BGR,
}
_PAIRS = ("width",)
_SQUARES = ("width", "height")


def _native(name: str, pixel_bytes: int, code: int | None, what: str, **layout: Any) -> dict[str, Encoding]:
    return {name: Encoding(pixel_bytes, code, native=name, what=what, **layout)}


ENCODINGS: dict[str, Encoding] = {
    # Read without a copy. The CUDA kernel knows these seven by their order.
    **_native("bgr8", 3, None, "8-bit color"),
    **_native("rgb8", 3, cv2.COLOR_RGB2BGR, "8-bit color"),
    **_native("bgra8", 4, cv2.COLOR_BGRA2BGR, "8-bit color, alpha ignored"),
    **_native("rgba8", 4, cv2.COLOR_RGBA2BGR, "8-bit color, alpha ignored"),
    **_native("mono8", 1, cv2.COLOR_GRAY2BGR, "8-bit gray"),
    **_native("nv12", 1, cv2.COLOR_YUV2BGR_NV12, "YUV 4:2:0, two planes", even=_SQUARES, chroma=0.5),
    **_native("yuyv", 2, cv2.COLOR_YUV2BGR_YUY2, "YUV 4:2:2, packed", even=_PAIRS),
}
ENCODINGS |= {
    # Other names of the same bytes: OpenCV's for gray, YUYV, BGR and BGRA, and an older one.
    **{
        name: replace(ENCODINGS[same], what=f"as {same}")
        for name, same in (
            ("8UC1", "mono8"),
            ("8UC2", "yuyv"),
            ("8UC3", "bgr8"),
            ("8UC4", "bgra8"),
            ("yuv422_yuy2", "yuyv"),
        )
    },
    # Converted to BGR.
    "uyvy": Encoding(2, cv2.COLOR_YUV2BGR_UYVY, even=_PAIRS, what="YUV 4:2:2, packed"),
    "yuv422": Encoding(2, cv2.COLOR_YUV2BGR_UYVY, even=_PAIRS, what="as uyvy"),
    "nv21": Encoding(1, cv2.COLOR_YUV2BGR_NV21, even=_SQUARES, chroma=0.5, what="YUV 4:2:0, two planes"),
    "nv24": Encoding(1, convert=_nv24, chroma=2, what="YUV 4:4:4, two planes"),
    "i420": Encoding(
        1, convert=_i420, even=_SQUARES, chroma=0.5, even_step=True, what="YUV 4:2:0, three planes"
    ),
    "rgb16": Encoding(6, convert=_wide(cv2.COLOR_RGB2BGR, 3), what="16-bit color"),
    "bgr16": Encoding(6, convert=_wide(None, 3), what="16-bit color"),
    "rgba16": Encoding(8, convert=_wide(cv2.COLOR_RGBA2BGR, 4), what="16-bit color, alpha ignored"),
    "bgra16": Encoding(8, convert=_wide(cv2.COLOR_BGRA2BGR, 4), what="16-bit color, alpha ignored"),
    "16UC3": Encoding(6, convert=_wide(None, 3), what="as bgr16"),
    "mono16": Encoding(2, convert=_wide(cv2.COLOR_GRAY2BGR), counts=True, what="16-bit gray or thermal"),
    "16UC1": Encoding(2, convert=_wide(cv2.COLOR_GRAY2BGR), counts=True, what="as mono16"),
    **{f"{name}8": Encoding(1, code, least=3, what="Bayer mosaic") for name, code in BAYER.items()},
    **{
        f"{name}16": Encoding(2, convert=_wide(code), least=3, what="Bayer mosaic of 16 bits")
        for name, code in BAYER.items()
    },
}
"""How the bytes of each encoding of ``sensor_msgs/Image`` lie: all that can be read without cv_bridge."""

FRAME_ENCODINGS = tuple(name for name, row in ENCODINGS.items() if row.native == name)
"""The encodings that a `Frame` keeps; the position is the number that the CUDA kernel knows one by."""
