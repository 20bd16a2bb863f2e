"""Frames of cameras, bodies and the world, and the turns between them; no ROS.

optical  x right, y down, z forward in the image (REP 103)
body     FRD: x forward, y right, z down, as autopilots have it
NED      x north, y east, z down, as autopilots have it
ENU      x east, y north, z up, as ROS has it (REP 105's map)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A camera that looks along the body's x axis: its z is the body's x, its x the body's y, its y the body's z.
_FORWARD = np.array([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
ENU_FROM_NED = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
"""3 x 3, its own inverse."""


def turn(roll: float, pitch: float, yaw: float) -> Floats:
    """Return the rotation (3 x 3) from a turned FRD frame to the one it was turned from, as ATTITUDE has it.

    Args:
        roll: radians about x, right side down is positive.
        pitch: radians about y, nose up is positive.
        yaw: radians about z, to the right is positive.
    """
    sin_r, cos_r, sin_p, cos_p = math.sin(roll), math.cos(roll), math.sin(pitch), math.cos(pitch)
    sin_y, cos_y = math.sin(yaw), math.cos(yaw)
    about_x = np.array([[1, 0, 0], [0, cos_r, -sin_r], [0, sin_r, cos_r]])
    about_y = np.array([[cos_p, 0, sin_p], [0, 1, 0], [-sin_p, 0, cos_p]])
    about_z = np.array([[cos_y, -sin_y, 0], [sin_y, cos_y, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class Mount:
    """How a camera sits on the vehicle.

    Attributes:
        pitch_deg: 0 looks forward, -90 straight down (the image's upper edge forward), -45 between.
        yaw_deg: to the right, seen from above; of a camera that looks down: clockwise turn of the image.
        roll_deg: about the line of sight, right side down.
        offset: of the camera from the body's centre, metres forward, right, down.
    """

    pitch_deg: float = -90.0
    yaw_deg: float = 0.0
    roll_deg: float = 0.0
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def body_from_optical(self) -> Floats:
        """Return the rotation (3 x 3) from the camera's optical frame to the body."""
        return turn(*map(math.radians, (self.roll_deg, self.pitch_deg, self.yaw_deg))) @ _FORWARD
