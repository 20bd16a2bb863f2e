"""From boxes in an image to places on the ground: pinhole geometry with distortion; no ROS.

Frames: the camera's optical frame is x right, y down, z forward (REP 103); the fixed frame has z up, metres,
and the ground is its plane z = ``ground_height``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.options import option

Floats = NDArray[np.float64]

# Undistortion is iterative, and outside of what the calibration covers it ends anywhere: a pixel that the
# distortion does not bring back to within this many pixels has no ray.
_ROUND_TRIP_PX = 0.5
_ITERATIONS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 100, 1e-9)
# Beyond these no calibration is one.
_MOST_FOCAL_PX = 1e6
_MOST_DISTORTION = 1e4
# A ray that sinks less than this (radians) meets the ground beyond all reason.
_GRAZING = math.radians(0.1)


class ProjectionError(ValueError):
    """A camera that cannot be projected with; the message says what is wrong with it."""


@dataclass(frozen=True)
class PinholeCamera:
    """A camera's intrinsics, as ``sensor_msgs/CameraInfo`` gives them.

    Attributes:
        width: of the images, pixels.
        height: of the images, pixels.
        matrix: 3 x 3, of the full-resolution sensor (K), or of rectified images (the left of P).
        distortion: coefficients; none where images are rectified.
        fisheye: whether they are the equidistant model's; else plumb_bob's and the rational polynomial's.
        binning: sensor pixels a pixel of the image, (x, y).
        offset: sensor pixel at the image's upper left corner, (x, y).
        rectification: 3 x 3 rotation from the optical frame to that of rectified images (R), else the
            identity.
    """

    width: int
    height: int
    matrix: Floats
    distortion: Floats
    fisheye: bool = False
    binning: tuple[int, int] = (1, 1)
    offset: tuple[int, int] = (0, 0)
    rectification: Floats | None = None

    @classmethod
    def from_info(cls, info: Any, *, rectified: bool = False) -> PinholeCamera:
        """Read a ``sensor_msgs/CameraInfo``, whoever made it; see `from_calibration`."""
        roi = info.roi
        return cls.from_calibration(
            info.width,
            info.height,
            info.distortion_model,
            info.d,
            info.k,
            info.r,
            info.p,
            binning=(info.binning_x, info.binning_y),
            roi=(roi.x_offset, roi.y_offset, roi.width, roi.height),
            rectified=rectified,
        )

    @classmethod
    def from_calibration(
        cls,
        width: int,
        height: int,
        model: str,
        d: Sequence[float],
        k: Sequence[float],
        r: Sequence[float],
        p: Sequence[float],
        *,
        binning: tuple[int, int] = (1, 1),
        roi: tuple[int, int, int, int] = (0, 0, 0, 0),
        rectified: bool = False,
    ) -> PinholeCamera:
        """Read ``sensor_msgs/CameraInfo``'s fields.

        Args:
            width: at full resolution, pixels.
            height: likewise.
            model: ``plumb_bob``, ``rational_polynomial``, ``equidistant`` (also called fisheye), or empty
                where there is no distortion.
            d: distortion coefficients, in OpenCV's order.
            k: intrinsic matrix, 9 numbers by rows.
            r: rectification, 9 numbers.
            p: projection of rectified images, 12 numbers.
            binning: sensor pixels a pixel; 0 means 1.
            roi: x, y, width, height in sensor pixels; all 0 means the whole sensor.
            rectified: the images are rectified: R and P hold instead of K and D.

        Raises:
            ProjectionError: not calibrated, absurd values, an unknown model, or a number of coefficients that
                it has not.
        """
        matrix = np.array(p, np.float64).reshape(3, 4)[:, :3] if rectified else np.array(k).reshape(3, 3)
        if not (matrix[0, 0] > 0 and matrix[1, 1] > 0 and np.isfinite(matrix).all()):
            raise ProjectionError(
                f"the camera is not calibrated: its focal lengths in {'P' if rectified else 'K'} are "
                f"{matrix[0, 0]:g} and {matrix[1, 1]:g}; calibrate it (camera_calibration) and let the "
                "driver load the result"
            )
        center = matrix[:2, 2]
        if matrix[:2, :2].max() > _MOST_FOCAL_PX or np.abs(center).max() > _MOST_FOCAL_PX:
            raise ProjectionError(
                f"the camera's calibration is absurd: focal lengths {matrix[0, 0]:g} and {matrix[1, 1]:g}, "
                f"center {center[0]:g}, {center[1]:g} pixels; calibrate it again"
            )
        if width < 1 or height < 1:
            raise ProjectionError(
                f"the camera's calibration is for images of {width} x {height} pixels; let the driver fill "
                "in width and height"
            )
        if not rectified and not (np.abs(np.array(d, np.float64)) < _MOST_DISTORTION).all():
            raise ProjectionError(
                f"the camera's distortion coefficients D are absurd: {', '.join(f'{one:g}' for one in d)}; "
                "calibrate it again"
            )
        turn = np.array(r, np.float64).reshape(3, 3)
        if rectified and np.any(turn) and not np.allclose(turn @ turn.T, np.eye(3), atol=0.05):
            raise ProjectionError("the camera's rectification R is no rotation; calibrate it again")
        counts = {"": (0,), "plumb_bob": (0, 4, 5), "rational_polynomial": (0, 8, 12, 14)}
        counts["equidistant"] = counts["fisheye"] = (0, 4)
        if not rectified and (model not in counts or len(d) not in counts[model]):
            raise ProjectionError(
                f"distortion model {model!r} with {len(d)} coefficients cannot be read; these can: "
                + ", ".join(f"{name or 'an empty text'} {sizes}" for name, sizes in counts.items())
            )
        x, y, roi_width, roi_height = roi
        step_x, step_y = (max(1, step) for step in binning)
        return cls(
            width=(roi_width or width) // step_x,
            height=(roi_height or height) // step_y,
            matrix=matrix.astype(np.float64),
            distortion=np.zeros(0) if rectified or not np.any(d) else np.array(d, np.float64),
            fisheye=model in ("equidistant", "fisheye"),
            binning=(step_x, step_y),
            offset=(x, y),
            rectification=turn if rectified and np.any(turn) else None,
        )

    def rays(self, pixels: Floats) -> Floats:
        """Return the directions in which pixels look.

        Args:
            pixels: N x 2, in the image.

        Returns:
            N x 3 in the optical frame, z = 1 (before any rectification is undone); NaN where the distortion
            model has no answer.
        """
        # Pixel coordinates name centres: binned ones cover `binning` sensor pixels.
        steps = np.array(self.binning, np.float64)
        sensor = (np.asarray(pixels, np.float64) * steps + (steps - 1) / 2 + self.offset).reshape(-1, 1, 2)
        if not len(sensor):
            return np.zeros((0, 3))
        if not len(self.distortion):
            flat = cv2.undistortPoints(sensor, self.matrix, None)
            back = sensor
        elif self.fisheye:
            flat = cv2.fisheye.undistortPoints(sensor, self.matrix, self.distortion)
            back = cv2.fisheye.distortPoints(flat, self.matrix, self.distortion)
        else:
            # OpenCV 4 has a function of its own for more than five iterations.
            undistort: Callable[..., Floats] = getattr(cv2, "undistortPointsIter", cv2.undistortPoints)
            one = np.eye(3)
            flat = undistort(sensor, self.matrix, self.distortion, R=one, P=one, criteria=_ITERATIONS)
            points = cv2.convertPointsToHomogeneous(flat)
            back, _ = cv2.projectPoints(points, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        rays = np.concatenate((flat.reshape(-1, 2), np.ones((len(flat), 1))), axis=1)
        with np.errstate(invalid="ignore"):
            rays[~(np.abs(back - sensor).reshape(-1, 2).max(axis=1) < _ROUND_TRIP_PX)] = np.nan
        return rays if self.rectification is None else rays @ self.rectification


@dataclass(frozen=True)
class Ground:
    """The ground, and how well all is known; angles in radians, though users write degrees."""

    height: float = option(0.0, "Height of the ground in ground_frame, metres.", low=-10_000.0, high=10_000.0)
    max_range_m: float = option(
        500.0,
        "What lies farther from the camera, in metres, is left out of detections_3d.",
        low=1.0,
        high=100_000.0,
        name="max_range",
    )
    pixel_sigma: float = option(
        2.0,
        "For the covariance: standard deviation of where an object touches the ground in the image, pixels.",
        low=0.0,
        high=1000.0,
    )
    height_sigma: float = option(
        0.5,
        "For the covariance: standard deviation of the camera's height above the ground, metres.",
        low=0.0,
        high=1000.0,
    )
    attitude_sigma: float = option(
        math.radians(0.5),
        "For the covariance: standard deviation of the camera's attitude about each axis, degrees.",
        low=0.0,
        high=45.0,
        shown=0.5,
        read=math.radians,
    )


@dataclass(frozen=True)
class GroundPoints:
    """Where boxes stand.

    Attributes:
        index: M, which boxes: those whose contact point is on the ground and in range.
        positions: M x 3 in the fixed frame, metres.
        covariances: M x 3 x 3, square metres.
        widths: M, metres across the line of sight that the boxes span.
    """

    index: NDArray[np.intp]
    positions: Floats
    covariances: Floats
    widths: Floats


def contact_pixels(boxes: Floats, camera: PinholeCamera, rotation: Floats) -> Floats:
    """Return the pixel of each box under which the object's footprint has its centre.

    An object of length L and height H, seen at an angle ``a`` below the horizon, spans L sin a + H cos a
    across the line of sight, of which the upper H cos a belong to its height. So its footprint's centre lies
    below the box's by the share H cos a / (L sin a + H cos a) of half the box, towards the point straight
    below the camera. With L = H: the box's centre in a nadir view, its lower edge's middle in a level one.

    Args:
        boxes: N x 4, x1 y1 x2 y2 in pixels.
        camera: the camera.
        rotation: 3 x 3, optical frame to fixed frame.

    Returns:
        N x 2 pixels; NaN where the box's centre has no ray.
    """
    center = (boxes[:, :2] + boxes[:, 2:]) / 2
    ray = camera.rays(center)
    ray /= np.linalg.norm(ray, axis=1, keepdims=True)
    down = rotation.T @ np.array([0.0, 0.0, -1.0])
    sine = np.clip(ray @ down, 0, 1)
    cosine = np.sqrt(1 - sine**2)
    # In the image a point that sinks moves this way (the projection's derivative along `down`).
    with np.errstate(divide="ignore", invalid="ignore"):
        towards = (down[:2] * ray[:, 2:] - ray[:, :2] * down[2]) * camera.matrix.diagonal()[:2]
        reach = (boxes[:, 2:] - boxes[:, :2]) / 2 / np.abs(towards)
        share = cosine / (sine + cosine)
        below = center + (share * reach.min(axis=1))[:, None] * towards
    straight_down = np.abs(towards).max(axis=1) < 1e-6
    return np.where(straight_down[:, None], center, below)


def ground_points(
    boxes: Floats, camera: PinholeCamera, rotation: Floats, position: Floats, ground: Ground
) -> GroundPoints:
    """Project boxes onto the ground.

    Args:
        boxes: N x 4, x1 y1 x2 y2 in pixels of the camera's images.
        camera: the camera.
        rotation: 3 x 3, optical frame to fixed frame.
        position: 3, of the camera in the fixed frame, metres.
        ground: the plane and the uncertainties.

    Returns:
        The boxes that stand on the ground: none of those whose contact point looks at or above the horizon,
        has no ray, or lies out of range; none at all where the camera is not above the ground. Covariances
        are first-order: pixel, attitude and height are taken as independent.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    contact = contact_pixels(boxes, camera, rotation)
    drop = position[2] - ground.height
    # The contact point, and its neighbours for the derivative: it holds whatever the distortion does.
    shifts = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    rays = camera.rays((contact + shifts[:, None]).reshape(-1, 2)).reshape(5, -1, 3) @ rotation.T
    ray = rays[0]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = drop / -ray[:, 2]
        distance = scale * np.linalg.norm(ray, axis=1)
        sinks = -ray[:, 2] / np.linalg.norm(ray, axis=1) > math.sin(_GRAZING)
    wanted = sinks & (distance > 0) & (distance <= ground.max_range_m) & np.isfinite(rays).all(axis=(0, 2))
    index = np.flatnonzero(wanted)
    ray, scale, distance = ray[index], scale[index], distance[index]
    positions = position + scale[:, None] * ray
    positions[:, 2] = ground.height

    # p = c + t d with t = (h - c_z) / d_z, so dp/dd = t (I - d e_z^T / d_z) and dp/dh = d / d_z.
    slope = ray / ray[:, 2:]
    per_ray = scale[:, None, None] * (np.eye(3) - slope[:, :, None] * np.array([0.0, 0.0, 1.0]))
    per_pixel = per_ray @ np.stack((rays[1] - rays[2], rays[3] - rays[4]), axis=-1)[index]
    # A turn by the small vector a about the fixed axes adds a x d = -[d]x a.
    turned = np.zeros((len(index), 3, 3))
    for axis, unit in enumerate(np.eye(3)):
        turned[:, :, axis] = np.cross(unit, ray)
    per_turn = per_ray @ turned
    covariances = (
        ground.pixel_sigma**2 * per_pixel @ per_pixel.transpose(0, 2, 1)
        + ground.attitude_sigma**2 * per_turn @ per_turn.transpose(0, 2, 1)
        + ground.height_sigma**2 * slope[:, :, None] * slope[:, None, :]
    )
    across = (camera.rays(boxes[index][:, [2, 1]]) - camera.rays(boxes[index][:, [0, 1]]))[:, :2]
    widths = scale * np.linalg.norm(across, axis=1)
    return GroundPoints(index, positions, covariances, widths)
