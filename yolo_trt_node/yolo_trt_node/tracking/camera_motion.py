"""How the camera moved between two frames, seen in what stands still."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.frames import Frame

Homography = NDArray[np.float64]

# Flow is measured on a picture of at most so many columns: finer ones cost more than they bring.
_WIDTH = 960
_CORNERS = 200
# Of the best corner's: low, since on a smooth field one painted car is far better than all else.
_CORNER_QUALITY = 0.001
# Spread out, so that a few objects of rich texture do not take them all.
_CORNER_DISTANCE = 16
# Halvings of the picture: enough for a shift of a twentieth of its width.
_LEVELS = 4
_RANSAC_PX = 2.0
# Fewer corners than this, or a smaller share of them that agree, say nothing about the camera.
_LEAST_CORNERS = 12
_LEAST_SHARE = 0.3


class CameraMotion:
    """Follows corners from frame to frame (Lucas-Kanade) and fits the ground's motion to them (RANSAC).

    A homography, since the ground is a plane: on oblique aerial frames its error is a third of an affine
    motion's, at the same cost. Objects that move are few among the corners and fall out as outliers.
    """

    def __init__(self) -> None:
        """Start without a frame."""
        self._last: NDArray[np.uint8] | None = None

    def reset(self) -> None:
        """Forget the last frame."""
        self._last = None

    def update(self, frame: Frame) -> Homography:
        """Take the next frame.

        Returns:
            3 x 3 float64 from pixels of the last frame to pixels of this one; the identity for the first
            frame, and where too few corners agree to tell.
        """
        gray, scale = _reduced_gray(frame)
        last, self._last = self._last, gray
        if last is None or last.shape != gray.shape:
            return np.eye(3)
        # Looked for in half the resolution, which costs a quarter; where exactly they are does not matter.
        half = cv2.resize(last, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        corners = cv2.goodFeaturesToTrack(half, _CORNERS, _CORNER_QUALITY, _CORNER_DISTANCE)
        if corners is None or len(corners) < _LEAST_CORNERS:
            return np.eye(3)
        corners = corners * 2 + 0.5
        moved, found, _ = cv2.calcOpticalFlowPyrLK(last, gray, corners, None, maxLevel=_LEVELS)
        tracked = found.ravel() == 1
        if tracked.sum() < _LEAST_CORNERS:
            return np.eye(3)
        fitted, inliers = cv2.findHomography(corners[tracked], moved[tracked], cv2.RANSAC, _RANSAC_PX)
        if fitted is None or inliers.mean() < _LEAST_SHARE or not np.isfinite(fitted).all():
            return np.eye(3)
        # A pixel of the reduced picture covers `scale` pixels, and pixel coordinates name centres.
        offset = (scale - 1) / 2
        to_full = np.array([[scale, 0, offset], [0, scale, offset], [0, 0, 1]])
        motion = to_full @ fitted @ np.linalg.inv(to_full)
        return motion / motion[2, 2]


def _reduced_gray(frame: Frame) -> tuple[NDArray[np.uint8], int]:
    """Return a grey picture of at most `_WIDTH` columns, and how many pixels each of its pixels covers."""
    scale = 1
    while frame.width // scale > _WIDTH:
        scale *= 2
    height, width = frame.height // scale, frame.width // scale
    # Brightness alone where the encoding has it apart: nv12's first rows, yuyv's every other byte.
    pixels = frame.pixels[: height * scale, : width * scale]
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = np.ascontiguousarray(pixels[:, :, 0])
    while pixels.shape[1] > width:  # by halves: OpenCV has a fast path for them
        half = (pixels.shape[1] // 2, pixels.shape[0] // 2)
        pixels = cv2.resize(pixels, half, interpolation=cv2.INTER_AREA)
    if pixels.ndim == 3:
        # Red and blue may stand in either order: any fixed weights will do to follow corners.
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY if pixels.shape[2] == 4 else cv2.COLOR_BGR2GRAY)
    elif scale == 1:
        pixels = pixels.copy()  # the frame's memory is the camera's
    return pixels, scale
