"""A mounted camera's directions are the body's."""

import math

import numpy as np
import pytest
from yolo_autonomy.frames import ENU_FROM_NED, Mount, turn

RIGHT, BELOW, AHEAD = np.eye(3)  # in the optical frame


@pytest.mark.parametrize(
    ("mount", "optical", "body"),
    [
        (Mount(0.0), AHEAD, (1, 0, 0)),
        (Mount(0.0), RIGHT, (0, 1, 0)),
        (Mount(0.0), BELOW, (0, 0, 1)),
        (Mount(-90.0), AHEAD, (0, 0, 1)),
        (Mount(-90.0), RIGHT, (0, 1, 0)),
        (Mount(-90.0), -BELOW, (1, 0, 0)),  # the image's upper edge is ahead
        (Mount(-45.0), AHEAD, (math.sqrt(0.5), 0, math.sqrt(0.5))),
        (Mount(-45.0), RIGHT, (0, 1, 0)),
        (Mount(-90.0, yaw_deg=90.0), -BELOW, (0, 1, 0)),  # the upper edge points to the right
        (Mount(0.0, yaw_deg=180.0), AHEAD, (-1, 0, 0)),
        (Mount(0.0, roll_deg=90.0), RIGHT, (0, 0, 1)),
    ],
)
def test_directions_of_a_mounted_camera(mount, optical, body):
    np.testing.assert_allclose(mount.body_from_optical() @ optical, body, atol=1e-12)


@pytest.mark.parametrize(
    ("angles", "of", "world"),
    [
        ((0, 0, math.pi / 2), (1, 0, 0), (0, 1, 0)),  # turned right, ahead is east
        ((0, 0.1, 0), (1, 0, 0), (math.cos(0.1), 0, -math.sin(0.1))),  # nose up
        ((0.1, 0, 0), (0, 1, 0), (0, math.cos(0.1), math.sin(0.1))),  # right side down
    ],
)
def test_attitude_turns_as_mavlink_has_it(angles, of, world):
    np.testing.assert_allclose(turn(*angles) @ np.array(of, float), world, atol=1e-12)


def test_enu_and_ned_are_each_others_mirror():
    np.testing.assert_array_equal(ENU_FROM_NED @ [1, 2, -3], [2, 1, 3])
    np.testing.assert_array_equal(ENU_FROM_NED @ ENU_FROM_NED, np.eye(3))
