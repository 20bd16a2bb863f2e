"""From ``sensor_msgs/Image`` to pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class ImageError(ValueError):
    """An image message that cannot be read; the message says what is wrong with it."""


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read here."""

    height: int
    width: int
    encoding: str
    step: int
    data: bytes


@dataclass(frozen=True)
class _Encoding:
    channels: int
    to_bgr: Callable[[Pixels], Pixels]


def _converter(code: int) -> Callable[[Pixels], Pixels]:
    return lambda pixels: cv2.cvtColor(pixels, code)


_ENCODINGS = {
    "bgr8": _Encoding(3, lambda pixels: pixels),
    "rgb8": _Encoding(3, _converter(cv2.COLOR_RGB2BGR)),
    "bgra8": _Encoding(4, _converter(cv2.COLOR_BGRA2BGR)),
    "rgba8": _Encoding(4, _converter(cv2.COLOR_RGBA2BGR)),
    "mono8": _Encoding(1, _converter(cv2.COLOR_GRAY2BGR)),
    # OpenCV's names: drivers that publish them mean BGR and grey.
    "8UC3": _Encoding(3, lambda pixels: pixels),
    "8UC1": _Encoding(1, _converter(cv2.COLOR_GRAY2BGR)),
}

ENCODINGS = tuple(_ENCODINGS)
"""The image encodings that can be read."""


def to_bgr(message: ImageMessage) -> Pixels:
    """Return an image message's pixels.

    Args:
        message: a ``sensor_msgs/Image`` of one of `ENCODINGS`; rows may be padded (``step``).

    Returns:
        H x W x 3 uint8 in BGR order. For bgr8 it is a read-only view of the message's own data.

    Raises:
        ImageError: the encoding is not supported, or its fields do not fit each other.
    """
    encoding = _ENCODINGS.get(message.encoding)
    if encoding is None:
        raise ImageError(
            f"image encoding {message.encoding!r} is not supported; supported are {', '.join(ENCODINGS)}. "
            "Change the camera driver's encoding, or convert with image_proc"
        )
    height, width, step, size = message.height, message.width, message.step, len(message.data)
    if not height or not width:
        raise ImageError(f"empty image: {width} x {height} pixels, {size} bytes; look at the camera driver")
    row = width * encoding.channels
    if step < row:
        raise ImageError(
            f"corrupt image: step {step} is less than the {row} bytes of a row of {width} pixels in "
            f"{message.encoding}; the publisher fills step or encoding wrongly"
        )
    if size != step * height:
        raise ImageError(
            f"corrupt image: {size} bytes of data, but {height} rows of step {step} make {step * height}; "
            "the publisher fills step, height or data wrongly"
        )
    shape = (height, width) if encoding.channels == 1 else (height, width, encoding.channels)
    strides = (step, encoding.channels, 1)[: len(shape)]
    pixels = np.ndarray(shape, np.uint8, buffer=memoryview(message.data), strides=strides)
    return encoding.to_bgr(pixels)
