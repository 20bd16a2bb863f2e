"""Generated frames in every encoding."""

from __future__ import annotations

import cv2
import numpy as np
from yolo_trt_node.images.frames import Frame

_FROM_BGR = {
    "rgb8": cv2.COLOR_BGR2RGB,
    "bgra8": cv2.COLOR_BGR2BGRA,
    "rgba8": cv2.COLOR_BGR2RGBA,
    "mono8": cv2.COLOR_BGR2GRAY,
}


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A BGR picture with smooth parts, sharp edges, noise, black and white."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    noisy = rng.random((height, width)) < 0.3
    image[noisy] = rng.integers(0, 256, (int(noisy.sum()), 3), np.uint8)
    image[: height // 4, : width // 3] = 255
    image[height // 2 :, : width // 5] = 0
    return image


def encode(image: np.ndarray, encoding: str, padding: int = 0) -> Frame:
    """An H x W x 3 BGR image as a camera of an encoding gives it; ``padding`` bytes follow each row.

    For nv12 and yuyv an odd last row or column is cut off: such a frame has even sides.
    """
    if encoding in ("nv12", "yuyv"):
        image = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
    height, width = image.shape[:2]
    if encoding == "bgr8":
        pixels = image
    elif encoding in _FROM_BGR:
        pixels = cv2.cvtColor(image, _FROM_BGR[encoding])
    else:
        planar = cv2.cvtColor(image, cv2.COLOR_BGR2YUV_I420)
        luma, chroma = planar[:height], planar[height:].reshape(2, height // 2, width // 2)
        if encoding == "nv12":
            pixels = np.vstack([luma, np.stack(chroma, axis=-1).reshape(height // 2, width)])
        else:
            pixels = np.empty((height, width, 2), np.uint8)
            pixels[..., 0] = luma
            pixels[..., 1] = np.stack(chroma, axis=-1).repeat(2, axis=0).reshape(height, width)
    rows = pixels.reshape(len(pixels), -1)
    data = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    return Frame(data.reshape(-1), height, width, encoding, data.shape[1])
