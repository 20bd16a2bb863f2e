"""From camera pixels to the network's input tensor and back: the letterbox.

The geometry is Ultralytics' (`ultralytics.data.augment.LetterBox`): scale by one factor, centre, pad with
grey, so that a model sees in flight what it saw in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Letterbox:
    """Where an image lies in the network's input.

    Attributes:
        image_height, image_width: the image's size in pixels.
        height, width: the network input's size in pixels.
        scaled_height, scaled_width: the image's size inside the network input.
        top, left: rows and columns of padding before the image.
        scale: network pixels per image pixel.
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
        mapped = boxes.astype(np.float32, copy=True)
        mapped[:, 0::2] = (mapped[:, 0::2] - self.left) / self.scale
        mapped[:, 1::2] = (mapped[:, 1::2] - self.top) / self.scale
        np.clip(mapped[:, 0::2], 0, self.image_width, out=mapped[:, 0::2])
        np.clip(mapped[:, 1::2], 0, self.image_height, out=mapped[:, 1::2])
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


class Preprocessor:
    """Writes images into one reused input batch of a fixed height and width."""

    def __init__(
        self, height: int, width: int, *, channels: str, scale: float, colour: tuple[int, int, int]
    ) -> None:
        """Prepare buffers.

        Args:
            height: input height in pixels.
            width: input width in pixels.
            channels: the tensor's channel order, ``RGB`` or ``BGR``.
            scale: factor from 8-bit values to the tensor's values.
            colour: padding, three 8-bit values in the image's order (BGR).
        """
        self.height = height
        self.width = width
        self._order = (2, 1, 0) if channels == "RGB" else (0, 1, 2)
        self._scale = np.float32(scale)
        self._colour = np.array(colour, np.uint8)
        self._canvas = np.empty((height, width, 3), np.uint8)
        self._planes = np.empty((3, height, width), np.uint8)
        self._layout: Letterbox | None = None
        self._batch = np.empty((0, 3, height, width), np.float32)

    def __call__(self, images: list[NDArray[np.uint8]]) -> tuple[NDArray[np.float32], list[Letterbox]]:
        """Letterbox images of H x W x 3 uint8 BGR into a batch N x 3 x height x width float32.

        The batch is a view of a buffer that the next call overwrites.
        """
        if len(self._batch) < len(images):
            self._batch = np.empty((len(images), 3, self.height, self.width), np.float32)
        layouts = []
        for index, image in enumerate(images):
            image_height, image_width = image.shape[:2]
            layout = Letterbox.fit(image_height, image_width, self.height, self.width)
            self._place(image, layout)
            # De-interleaving 8-bit values with OpenCV's SIMD and converting contiguous planes is several
            # times faster than one strided NumPy expression.
            cv2.mixChannels(
                [self._canvas],
                list(self._planes),
                [value for plane, source in enumerate(self._order) for value in (source, plane)],
            )
            np.multiply(self._planes, self._scale, out=self._batch[index], casting="unsafe")
            layouts.append(layout)
        return self._batch[: len(images)], layouts

    def _place(self, image: NDArray[np.uint8], layout: Letterbox) -> None:
        if layout != self._layout:
            # The padding stays from frame to frame; only a new geometry repaints it.
            self._canvas[:] = self._colour
            self._layout = layout
        inner = self._canvas[
            layout.top : layout.top + layout.scaled_height, layout.left : layout.left + layout.scaled_width
        ]
        if image.shape[:2] == inner.shape[:2]:
            inner[:] = image
        else:
            inner[:] = cv2.resize(
                image, (layout.scaled_width, layout.scaled_height), interpolation=cv2.INTER_LINEAR
            )
