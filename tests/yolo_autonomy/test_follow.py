"""Following keeps its distance and height, and never leaves its limits."""

import math

import numpy as np
import pytest
from yolo_autonomy.follow import FollowLimits, follow

LIMITS = FollowLimits(
    distance=8.0, height=12.0, max_speed=3.0, max_climb=1.0, min_height=5.0, max_height=40.0, geofence=50.0
)


def fly(position, target, limits=LIMITS, seconds=60.0, speed=(0.0, 0.0)):
    """A vehicle that flies what is asked for, and a target that moves steadily; returns both tracks."""
    position, target = np.array(position, float), np.array(target, float)
    places, targets = [], []
    for _ in range(round(seconds / 0.1)):
        velocity, _ = follow(position, target, limits)
        assert np.linalg.norm(velocity[:2]) <= limits.max_speed + 1e-9
        assert abs(velocity[2]) <= limits.max_climb + 1e-9
        position = position + velocity * 0.1
        target[:2] += np.array(speed) * 0.1
        places.append(position)
        targets.append(target.copy())
    return np.array(places), np.array(targets)


@pytest.mark.parametrize("start", [(0, 0, -12), (18, 2, -30), (20.0, 1.0, -6)])
def test_it_comes_to_its_distance_and_height(start):
    places, targets = fly(start, (20, 0, 0))
    assert np.linalg.norm(places[-1, :2] - targets[-1, :2]) == pytest.approx(8, abs=0.1)
    assert places[-1, 2] == pytest.approx(-12, abs=0.1)


def test_it_looks_at_the_target():
    assert follow(np.array([0.0, 0, -12]), np.array([0.0, 20, 0]), LIMITS)[1] == pytest.approx(math.pi / 2)
    assert follow(np.array([0.0, 0, -12]), np.array([-20.0, 0, 0]), LIMITS)[1] == pytest.approx(math.pi)
    assert math.isnan(follow(np.array([0.0, 0, -12]), np.array([0.1, 0, 0]), LIMITS)[1])


@pytest.mark.parametrize("start", [(0, 0, -12), (49, 0, -12), (70, 30, -12), (30, -60, -12)])
@pytest.mark.parametrize("speed", [(2.5, 0.0), (1.5, 2.0)])
def test_the_fence_holds_against_a_target_that_leaves_and_leads_back_from_outside(start, speed):
    places, _ = fly(start, (40, 10, 0), speed=speed)
    away = np.linalg.norm(places[:, :2], axis=1)
    assert away.max() <= max(50.0, math.hypot(*start[:2])) + 1e-6
    assert away[-1] <= 50.0 + 1e-6


@pytest.mark.parametrize(("down", "sign"), [(-2.0, -1), (-80.0, 1)])
def test_outside_its_heights_it_comes_back_even_without_a_target(down, sign):
    velocity, _ = follow(np.array([0.0, 0, down]), None, LIMITS)
    assert math.copysign(1, velocity[2]) == sign
    assert abs(velocity[2]) == 1.0


@pytest.mark.parametrize("target", [None, np.array([math.nan, 0, 0])])
def test_a_lost_target_stops_it(target):
    velocity, yaw = follow(np.array([10.0, 5, -12]), target, LIMITS)
    assert velocity.tolist() == [0, 0, 0]
    assert math.isnan(yaw)


def test_without_its_own_place_it_stands_still():
    velocity, _ = follow(np.array([math.nan, 0, -12]), np.array([9.0, 0, 0]), LIMITS)
    assert velocity.tolist() == [0, 0, 0]


def test_limits_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match="height 3 m does not lie between min_height 5 m and max"):
        FollowLimits(height=3.0)
