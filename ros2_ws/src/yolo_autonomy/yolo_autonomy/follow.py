"""Velocities that follow a target within limits; no ROS, no PX4."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from yolo_autonomy.frames import Floats
from yolo_autonomy.parameters import Table

PARAMETERS: Table = {
    "landing_target": (True, "Publish LandingTargetPose for PX4's precision landing."),
    "follow": (
        False,
        "Publish setpoints that follow the target; PX4 flies by them in Offboard only.",
    ),
    "fmu": ("/fmu", "Prefix of PX4's topics; /px4_1/fmu for the second vehicle."),
    "version": ("", "Suffix of PX4's topics where its messages have versions, such as _v1 from PX4 1.16 on."),
    "camera_pitch_deg": (-90.0, "Of the camera: 0 looks forward, -90 down with the image's top forward."),
    "camera_yaw_deg": (0.0, "Of the camera, to the right; of one that looks down, clockwise."),
    "camera_roll_deg": (0.0, "Of the camera about its line of sight."),
    "camera_offset": ([0.0, 0.0, 0.0], "Of the camera from the body's centre: forward, right, down, metres."),
    "distance_from": ("position", "position: PX4's height above its origin; size: of the target; none."),
    "target_height": (0.0, "Height of the target above the origin, metres."),
    "target_size": (1.0, "For distance_from: size, the target's longer side, metres."),
    "lost_s": (1.0, "A target not seen for this many seconds is lost: the vehicle stops, 0.1 to 10."),
    "distance": (8.0, "To keep from the target, along the ground, metres, 0 to 1000."),
    "height": (12.0, "To keep above the origin, metres, 1 to 500."),
    "max_speed": (3.0, "Along the ground, m/s, 0.1 to 20."),
    "max_climb": (1.0, "Up and down, m/s, 0.1 to 5."),
    "min_height": (5.0, "It goes no lower above the origin, metres, 1 to 500."),
    "max_height": (40.0, "It goes no higher, metres, 1 to 500."),
    "geofence": (100.0, "It goes no farther from the origin along the ground, metres, 1 to 10000."),
}
TOPICS = ("target", "camera_info")

_GAIN = 0.5  # 1/s
# Limits act before they are reached, by where the vehicle will be in this time.
_AHEAD_S = 1.0


@dataclass(frozen=True)
class FollowLimits:
    """How to follow, and what is never done.

    Attributes:
        distance: metres from the target along the ground.
        height: metres above the origin.
        max_speed: along the ground, m/s.
        max_climb: up and down, m/s.
        min_height: metres above the origin.
        max_height: metres above the origin.
        geofence: metres from the origin along the ground.
    """

    distance: float = 8.0
    height: float = 12.0
    max_speed: float = 3.0
    max_climb: float = 1.0
    min_height: float = 5.0
    max_height: float = 40.0
    geofence: float = 100.0

    def __post_init__(self) -> None:
        """Refuse limits that exclude each other.

        Raises:
            ValueError: saying which.
        """
        if not self.min_height <= self.height <= self.max_height:
            raise ValueError(
                f"height {self.height:g} m does not lie between min_height {self.min_height:g} m and "
                f"max_height {self.max_height:g} m"
            )


def follow(position: Floats, target: Floats | None, limits: FollowLimits) -> tuple[Floats, float]:
    """Return the velocity (3, NED, m/s) and the yaw (radians, NaN: as it is) that follow a target.

    Args:
        position: 3, of the vehicle, NED from the origin, metres.
        target: 3, likewise; None: it is lost, and the vehicle stops.
        limits: what is kept.
    """
    velocity, yaw = np.zeros(3), math.nan
    if target is not None and np.isfinite(target).all() and np.isfinite(position).all():
        away = target[:2] - position[:2]
        gap = float(np.linalg.norm(away))
        if gap > 0.5:  # straight below there is no direction
            yaw = math.atan2(away[1], away[0])
            speed = float(np.clip(_GAIN * (gap - limits.distance), -limits.max_speed, limits.max_speed))
            velocity[:2] = away / gap * speed
        velocity[2] = np.clip(_GAIN * (-limits.height - position[2]), -limits.max_climb, limits.max_climb)
    return _fenced(position, velocity, limits), yaw


def _fenced(position: Floats, velocity: Floats, limits: FollowLimits) -> Floats:
    """Take away what would lead out of the limits, and lead back into them."""
    if not np.isfinite(position).all():
        return np.zeros(3)
    kept = velocity.copy()
    later = position[:2] + kept[:2] * _AHEAD_S
    away = float(np.linalg.norm(later))
    if away > limits.geofence:
        kept[:2] = (later * (limits.geofence / away) - position[:2]) / _AHEAD_S
        speed = float(np.linalg.norm(kept[:2]))
        kept[:2] *= min(1.0, limits.max_speed / speed) if speed > 0 else 1.0
    height = -float(position[2])
    lowest, highest = (limits.min_height - height) / _AHEAD_S, (limits.max_height - height) / _AHEAD_S
    climb = float(np.clip(-kept[2], lowest, highest))
    kept[2] = -float(np.clip(climb, -limits.max_climb, limits.max_climb))
    return kept
