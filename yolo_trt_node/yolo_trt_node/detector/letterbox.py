"""From camera pixels to the network's input tensor and back: the letterbox.

The geometry is Ultralytics' (`ultralytics.data.augment.LetterBox`): scale by one factor, centre, pad with
grey, so that a model sees in flight what it saw in training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.frames import Frame


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the network's input.

    Attributes:
        image_height, image_width: the image's size in pixels.
        height, width: the network input's size in pixels.
        scaled_height, scaled_width: the image's size inside the network input.
        top, left: rows and columns of padding before the image.
        scale: network pixels per image pixel, before the sides were rounded to whole pixels.
    """

    image_height: int
    image_width: int
    height: int
    width: int
    scaled_height: int
    scaled_width: int
    top: int
    left: int
    scale: float

    @classmethod
    def fit(cls, image_height: int, image_width: int, height: int, width: int) -> Letterbox:
        """Fit an image into an input of the given size, keeping its aspect."""
        scale = min(height / image_height, width / image_width)
        scaled_height = max(1, round(image_height * scale))
        scaled_width = max(1, round(image_width * scale))
        # An odd row of padding goes below and to the right: Ultralytics rounds half a pixel less 0.1.
        top = round((height - scaled_height) / 2 - 0.1)
        left = round((width - scaled_width) / 2 - 0.1)
        return cls(image_height, image_width, height, width, scaled_height, scaled_width, top, left, scale)

    def to_image(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map boxes from network pixels to image pixels, clipped to the image.

        Args:
            boxes: N x 4 float32, x1 y1 x2 y2 in network pixels.

        Returns:
            N x 4 float32, x1 y1 x2 y2 in image pixels.
        """
        # Each side was rounded to whole pixels, so each has a factor of its own. With one for both, boxes at
        # the far edge of a large image would be a pixel off.
        x, y = self.image_width / self.scaled_width, self.image_height / self.scaled_height
        mapped = boxes * np.array((x, y, x, y), np.float32)
        mapped -= np.array((self.left * x, self.top * y) * 2, np.float32)
        far = np.array((self.image_width, self.image_height) * 2, np.float32)
        np.minimum(np.maximum(mapped, 0, out=mapped), far, out=mapped)
        return mapped


def matched_shape(
    image_height: int, image_width: int, height: int, width: int, stride: int
) -> tuple[int, int]:
    """Return the smallest input (height, width) that holds the image at the model's size without waste.

    A 16:9 frame in a 640 x 640 input is 40 % grey bars; at 384 x 640 the network sees the same pixels for
    0.6 of the work. Both sides are multiples of ``stride``, neither exceeds the nominal one.
    """
    scale = min(height / image_height, width / image_width)

    def side(length: int, nominal: int) -> int:
        return min(nominal, max(stride, -(-max(1, round(length * scale)) // stride) * stride))

    return side(image_height, height), side(image_width, width)


def _scale(pixels: NDArray[np.uint8], out: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Scale pixels to the size of ``out``, as OpenCV's INTER_LINEAR does, into it."""
    (height, width), (out_height, out_width) = pixels.shape[:2], out.shape[:2]
    for factor in (3, 5):
        if (height, width) == (factor * out_height, factor * out_width):
            # An odd whole factor (1920 x 1080 into 640 x 360): each sample falls on the middle pixel of a
            # square and nothing is blended. Picking those pixels reads a third of the rows.
            middle = pixels[factor // 2 :, factor // 2 :]
            inverse = 1 / factor
            return cv2.resize(middle, None, dst=out, fx=inverse, fy=inverse, interpolation=cv2.INTER_NEAREST)
    return cv2.resize(pixels, (out_width, out_height), dst=out, interpolation=cv2.INTER_LINEAR)


class Preprocessor:
    """Writes frames into one reused input batch of a fixed height and width.

    A frame is scaled in its camera's channels, and its colours are put in order while the channels are taken
    apart, which costs nothing; only YUV is converted first.
    """

    def __init__(
        self, height: int, width: int, *, channels: str, scale: float, color: tuple[int, int, int]
    ) -> None:
        """Prepare buffers.

        Args:
            height: input height in pixels.
            width: input width in pixels.
            channels: the tensor's channel order, ``RGB`` or ``BGR``.
            scale: factor from 8-bit values to the tensor's values.
            color: padding, three 8-bit values in the order blue, green, red.
        """
        self.height = height
        self.width = width
        self._scale = np.float32(scale)
        self._planes = np.empty((3, height, width), np.uint8)
        # The same planes in the order blue, green, red.
        self._bgr_planes = self._planes[::-1] if channels == "RGB" else self._planes
        self._color = np.array(color, np.uint8).reshape(3, 1, 1)
        self._layout: Letterbox | None = None
        self._batch = np.empty((0, 3, height, width), np.float32)
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def __call__(
        self, images: Sequence[NDArray[np.uint8] | Frame]
    ) -> tuple[NDArray[np.float32], list[Letterbox]]:
        """Letterbox images into a batch N x 3 x height x width float32.

        Args:
            images: frames, or H x W x 3 uint8 BGR arrays.

        Returns:
            The batch, a view of a buffer that the next call overwrites, and each image's place in it.
        """
        if len(self._batch) < len(images):
            self._batch = np.empty((len(images), 3, self.height, self.width), np.float32)
        layouts = []
        for image, tensor in zip(images, self._batch):  # noqa: B905  (the buffer may be longer)
            frame = image if isinstance(image, Frame) else Frame.from_bgr(image)
            layout = Letterbox.fit(frame.height, frame.width, self.height, self.width)
            self._place(frame, layout)
            # Two passes, since each of them is vectorised; one `multiply` of mixed types is not.
            np.copyto(tensor, self._planes)
            np.multiply(tensor, self._scale, out=tensor)
            layouts.append(layout)
        return self._batch[: len(images)], layouts

    def _place(self, frame: Frame, layout: Letterbox) -> None:
        """Write a frame's pixels into the 8-bit planes."""
        if layout != self._layout:
            # The padding stays from frame to frame; only a new geometry repaints it.
            self._bgr_planes[:] = self._color
            self._layout = layout
        rows = slice(layout.top, layout.top + layout.scaled_height)
        columns = slice(layout.left, layout.left + layout.scaled_width)
        inner = [plane[rows, columns] for plane in self._bgr_planes]

        pixels = frame.pixels
        if frame.layout.even:  # chroma is shared
            pixels = frame.to_bgr(self._buffer("bgr", (frame.height, frame.width, 3)))
        size = (layout.scaled_width, layout.scaled_height)
        if (frame.width, frame.height) != size:
            scaled = self._buffer("scaled", (layout.scaled_height, layout.scaled_width, *pixels.shape[2:]))
            pixels = _scale(pixels, scaled)
        if frame.encoding == "mono8":
            for plane in inner:
                plane[:] = pixels
            return
        if frame.encoding in ("rgb8", "rgba8"):
            inner.reverse()
        if pixels.shape[2] == 4:
            inner.append(self._buffer("alpha", pixels.shape[:2]))
        cv2.split(pixels, inner)

    def _buffer(self, name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return uninitialised memory of a shape; it grows when it must and is never given back."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = np.empty(size, np.uint8)
        return memory[:size].reshape(shape)
