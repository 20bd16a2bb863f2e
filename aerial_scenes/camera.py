"""A pinhole camera above the ground.

World frame: metres, x east, y north, z up, the ground at z = 0. Image frame: pixels, origin in the centre of
the upper left pixel, u to the right, v down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A camera's pose and optics.

    Attributes:
        position: (x, y, z) in metres.
        yaw: Heading of the image's upward direction on the ground, radians anticlockwise from east.
        pitch: Angle between the optical axis and straight down, radians; 0 is a nadir view.
        roll: Rotation about the optical axis, radians.
        focal: Focal length in pixels.
        width: Image width in pixels.
        height: Image height in pixels.
    """

    position: tuple[float, float, float]
    yaw: float
    pitch: float
    roll: float
    focal: float
    width: int
    height: int

    @classmethod
    def above(
        cls,
        target: tuple[float, float],
        metres_per_pixel: float,
        *,
        yaw: float,
        pitch: float,
        roll: float,
        focal: float,
        width: int,
        height: int,
    ) -> Camera:
        """Place a camera whose centre shows the ground at `target`, at `metres_per_pixel` across the view."""
        distance = metres_per_pixel * focal
        back = distance * math.sin(pitch)
        position = (
            target[0] - back * math.cos(yaw),
            target[1] - back * math.sin(yaw),
            distance * math.cos(pitch),
        )
        return cls(position, yaw, pitch, roll, focal, width, height)

    @cached_property
    def rotation(self) -> np.ndarray:
        """World to camera, 3x3: rows are the image's right, down and forward directions."""
        sin_p, cos_p = math.sin(self.pitch), math.cos(self.pitch)
        sin_y, cos_y = math.sin(self.yaw), math.cos(self.yaw)
        forward = np.array([sin_p * cos_y, sin_p * sin_y, -cos_p])
        right = np.array([sin_y, -cos_y, 0.0])
        down = np.cross(forward, right)
        sin_r, cos_r = math.sin(self.roll), math.cos(self.roll)
        return np.stack([cos_r * right + sin_r * down, -sin_r * right + cos_r * down, forward])

    @cached_property
    def intrinsics(self) -> np.ndarray:
        """Camera to image, 3x3; the principal point is the image's centre."""
        return np.array(
            [[self.focal, 0, (self.width - 1) / 2], [0, self.focal, (self.height - 1) / 2], [0, 0, 1.0]]
        )

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project world points.

        Args:
            points: (N, 3) in metres.

        Returns:
            Pixels (N, 2) and depths along the optical axis (N,) in metres. Pixels of points with a depth
            below 0.1 m mean nothing.
        """
        local = (points - np.array(self.position)) @ self.rotation.T
        depth = local[:, 2]
        scale = self.focal / np.maximum(depth, 0.1)
        pixels = local[:, :2] * scale[:, None]
        pixels[:, 0] += (self.width - 1) / 2
        pixels[:, 1] += (self.height - 1) / 2
        return pixels, depth

    def plane_homography(self, origin: np.ndarray, axis_u: np.ndarray, axis_v: np.ndarray) -> np.ndarray:
        """Return the 3x3 matrix from points (u, v) of the plane `origin + u axis_u + v axis_v` to pixels."""
        columns = np.stack([axis_u, axis_v, origin - np.array(self.position)], axis=1)
        return self.intrinsics @ self.rotation @ columns

    def ground_homography(self) -> np.ndarray:
        """Return the 3x3 matrix from metres on the ground (x, y) to pixels."""
        return self.plane_homography(np.zeros(3), np.array([1.0, 0, 0]), np.array([0, 1.0, 0]))

    def ground_points(self, pixels: np.ndarray, reach: float = math.inf) -> np.ndarray:
        """Return where the rays through `pixels` (N, 2) meet the ground, (N, 2) in metres.

        Rays that meet it farther than `reach` metres from the camera, or never, end at that distance.
        """
        rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(self.intrinsics).T
        rays = rays @ self.rotation
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        height = self.position[2]
        length = np.where(rays[:, 2] < -1e-6, height / np.maximum(-rays[:, 2], 1e-6), math.inf)
        return np.array(self.position)[:2] + rays[:, :2] * np.minimum(length, reach)[:, None]

    def footprint(self, reach: float = math.inf) -> np.ndarray:
        """Return the `ground_points` (4, 2) of the image's corners, clockwise from the upper left."""
        right, bottom = self.width - 1, self.height - 1
        corners = np.array([[0.0, 0], [right, 0], [right, bottom], [0, bottom]])
        return self.ground_points(corners, reach)
