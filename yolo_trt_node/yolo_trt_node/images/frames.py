"""A frame as the camera gave it: the bytes, and how to read them.

Cameras deliver BGR, RGB, grey or YUV with rows that may be padded. A `Frame` keeps them as they are, without
a copy; the CPU path (`letterbox`) and the CUDA kernel (`cuda`) both read pixels straight from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.encodings import ENCODINGS, FRAME_ENCODINGS, Encoding


@dataclass(frozen=True, eq=False)
class Frame:
    """One image in the encoding of its camera.

    Attributes:
        data: rows x row bytes uint8, a view of the memory given: ``height`` rows of pixels, and for nv12
            another ``height / 2`` rows of interleaved U and V. A row's bytes are adjacent, rows are ``step``
            bytes apart. May be read-only.
        height, width: the image's size in pixels.
        encoding: one of `FRAME_ENCODINGS`; YUV is BT.601 with the limited range, as in OpenCV.
        step: bytes from one row to the next.
    """

    data: NDArray[np.uint8]
    height: int
    width: int
    encoding: str
    step: int

    def __post_init__(self) -> None:
        """Check the fields against each other and shape ``data`` as rows x row bytes, without a copy.

        ``data`` may be given as a flat buffer of rows of ``step`` bytes, or as an array whose first dimension
        is the rows.

        Raises:
            ValueError: an unknown encoding, an odd size where chroma is shared by two pixels, or data that
                does not hold the image.
        """
        if self.encoding not in FRAME_ENCODINGS:
            raise ValueError(f"unknown encoding {self.encoding!r}; there are: {', '.join(FRAME_ENCODINGS)}")
        if self.height < 1 or self.width < 1:
            raise ValueError(f"empty frame of {self.width} x {self.height} pixels")
        layout = self.layout
        if any(getattr(self, side) % 2 for side in layout.even):
            raise ValueError(f"a {self.encoding} frame has even sides, not {self.width} x {self.height}")
        rows = layout.rows(self.height)
        row = self.width * layout.pixel_bytes
        data = self.data
        needed = self.step * (rows - 1) + row
        if data.dtype != np.uint8 or self.step < row or data.size < rows * row:
            raise ValueError(self._misfit(rows, row))
        if data.flags.c_contiguous:
            if data.size < needed:
                raise ValueError(self._misfit(rows, row))
            view = np.ndarray((rows, row), np.uint8, buffer=data.reshape(-1), strides=(self.step, 1))
        else:
            view = data.reshape(len(data), -1)
            if (
                view.shape != (rows, row)
                or not np.shares_memory(view, data)
                or (rows > 1 and view.strides != (self.step, 1))
            ):
                raise ValueError(self._misfit(rows, row))
        object.__setattr__(self, "data", view)

    def _misfit(self, rows: int, row: int) -> str:
        return (
            f"{self.data.dtype}{list(self.data.shape)} with strides {self.data.strides} holds no "
            f"{self.encoding} frame of {self.width} x {self.height} pixels: {rows} rows of {row} bytes "
            f"(uint8), each {self.step} bytes (the step) after the one before"
        )

    @classmethod
    def from_bgr(cls, image: NDArray[np.uint8]) -> Frame:
        """Wrap an H x W x 3 uint8 BGR array; copied only where a row's bytes are not adjacent."""
        height, width, channels = image.shape
        if image.strides[1:] != (channels, 1) or image.strides[0] < width * channels:
            image = np.ascontiguousarray(image)
        return cls(image, height, width, "bgr8", image.strides[0])

    def crop(self, left: int, top: int, right: int, bottom: int) -> Frame:
        """Return a part of the frame: a view, but for nv12, whose two planes are cut into new memory.

        Args:
            left: first column, even for yuyv and nv12.
            top: first row, even for nv12.
            right: the column after the last, likewise.
            bottom: the row after the last, likewise.

        Raises:
            ValueError: the part does not lie in the frame, or would cut a chroma sample.
        """
        if not (0 <= left < right <= self.width and 0 <= top < bottom <= self.height):
            raise ValueError(
                f"columns {left} to {right} and rows {top} to {bottom} are no part of a frame of "
                f"{self.width} x {self.height} pixels"
            )
        if (left, top, right, bottom) == (0, 0, self.width, self.height):
            return self
        even = self.layout.even
        if ("width" in even and left % 2) or ("height" in even and top % 2):
            raise ValueError(f"a {self.encoding} frame is cut at even pixels, not at ({left}, {top})")
        size = self.layout.pixel_bytes
        data = self.data[top:bottom, left * size : right * size]
        step = self.step
        if self.layout.chroma:
            chroma = self.data[self.height + top // 2 : self.height + bottom // 2, left:right]
            data, step = np.concatenate((data, chroma)), right - left
        return Frame(data, bottom - top, right - left, self.encoding, step)

    @property
    def layout(self) -> Encoding:
        """How the encoding's bytes lie."""
        return ENCODINGS[self.encoding]

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """The data as OpenCV takes it: H x W x channels, H x W (mono8) or 3/2 H x W (nv12); a view."""
        return self.layout.pixels(self.data, self.height, self.width)

    def to_bgr(self, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return H x W x 3 uint8 BGR: a view for bgr8, else converted (into ``out`` where given)."""
        return self.layout.to_bgr(self.data, self.height, self.width, out=out)
