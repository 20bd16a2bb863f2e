"""Where a target in the image is for the autopilot: signs, frames and distances, by hand."""

import math

import numpy as np
import pytest
from yolo_autonomy.frames import Mount
from yolo_autonomy.landing import History, TargetRanging, Vehicle, is_cut

FOCAL, WIDTH, HEIGHT = 500.0, 640, 480
MS = 1_000_000


def rays(pixels):
    return np.column_stack(
        [(pixels[:, 0] - WIDTH / 2) / FOCAL, (pixels[:, 1] - HEIGHT / 2) / FOCAL, np.ones(len(pixels))]
    )


def vehicle(position=(0.0, 0.0, -20.0), attitude=(0.0, 0.0, 0.0), height=None) -> Vehicle:
    made = Vehicle()
    made.position.add(1000 * MS, position)
    made.attitude.add(1000 * MS, attitude)
    if height is not None:
        made.height.add(1000 * MS, (height,))
    return made


def box(right=0.0, below=0.0, side=50.0):
    return WIDTH / 2 + right, HEIGHT / 2 + below, side, side


DOWN, FORWARD, TILTED = Mount(-90.0), Mount(0.0), Mount(-45.0)


@pytest.mark.parametrize(
    ("mount", "right", "below", "signs"),
    [
        # Sign of body x (ahead), body y (right), LANDING_TARGET's angle_x (right) and angle_y (behind).
        (DOWN, 100, 0, (0, 1, 1, 0)),
        (DOWN, 0, 100, (-1, 0, 0, 1)),  # low in a picture whose top is ahead lies behind
        (DOWN, 0, -100, (1, 0, 0, -1)),
        (TILTED, 0, 0, (1, 0, 0, -1)),
        (TILTED, -100, 100, (1, -1, -1, -1)),
        (FORWARD, 100, 100, (1, 1, 1, -1)),
        (Mount(-90.0, yaw_deg=90.0), 0, -100, (0, 1, 1, 0)),  # the picture's top is to the right
    ],
)
@pytest.mark.parametrize("distance_from", ["none", "position"])
def test_signs_for_each_mount(mount, right, below, signs, distance_from):
    sight = TargetRanging(mount, distance_from).sight(1000 * MS, box(right, below), rays, vehicle())
    values = (*sight.body[:2], *sight.angles)
    assert [0 if abs(value) < 1e-9 else math.copysign(1, value) for value in values] == list(signs)
    assert sight.body[2] > 0
    assert np.linalg.norm(sight.body) == pytest.approx(1)


def test_angles_are_those_that_the_autopilot_turns_into_the_line_of_sight():
    sight = TargetRanging(DOWN, "none").sight(0, box(150, -200), rays, Vehicle())
    angle_x, angle_y = sight.angles
    back = np.array([-math.tan(angle_y), math.tan(angle_x), 1.0])
    np.testing.assert_allclose(back / np.linalg.norm(back), sight.body)
    assert (math.tan(angle_x), math.tan(angle_y)) == pytest.approx((150 / FOCAL, -200 / FOCAL))
    assert sight.distance == 0
    assert sight.local is None


@pytest.mark.parametrize("attitude", [(0.0, 0.0, 0.0), (0.1, -0.2, 2.0), (-0.3, 0.1, -3.1)])
@pytest.mark.parametrize("mount", [DOWN, Mount(-60.0, 20.0, 5.0, (0.2, -0.1, 0.3))])
def test_a_place_in_the_local_frame_is_found_again_whatever_the_attitude(attitude, mount):
    from yolo_autonomy.frames import turn

    target, here = np.array([103.0, -47.0, -2.5]), np.array([100.0, -50.0, -25.0])
    rotation = turn(*attitude)
    from_camera = mount.body_from_optical().T @ (rotation.T @ (target - here) - np.array(mount.offset))
    pixel = from_camera[:2] / from_camera[2] * FOCAL
    assert from_camera[2] > 0
    sight = TargetRanging(mount, "position", target_height=2.5).sight(
        1000 * MS, box(*pixel), rays, vehicle(tuple(here), attitude)
    )
    np.testing.assert_allclose(sight.local, target, atol=1e-9)
    np.testing.assert_allclose(sight.body * sight.distance, rotation.T @ (target - here), atol=1e-9)


def test_a_rangefinder_leans_with_the_body_and_the_target_stands_above_the_ground():
    lean = 0.2
    made = vehicle(attitude=(lean, 0.0, 0.0), height=10 / math.cos(lean))
    below = math.tan(lean) * FOCAL  # straight below: the right side is down, so it lies to the right
    sight = TargetRanging(DOWN, "rangefinder", target_height=1.5).sight(1000 * MS, box(below), rays, made)
    assert sight.distance == pytest.approx(8.5)
    np.testing.assert_allclose(sight.local, (0, 0, -11.5), atol=1e-9)


def test_a_known_size_gives_the_distance_without_any_height():
    sight = TargetRanging(DOWN, "size", target_size=2.0).sight(0, box(side=100.0), rays, Vehicle())
    assert sight.distance == pytest.approx(2.0 * FOCAL / 100, rel=1e-3)
    assert sight.size == pytest.approx((2 * math.atan(0.1),) * 2)
    assert sight.local is None


@pytest.mark.parametrize(
    ("mount", "right", "below", "position"),
    [
        (FORWARD, 0, -100, (0, 0, -20.0)),  # above the horizon
        (FORWARD, 0, 10, (0, 0, 1.0)),  # the vehicle is below the target's plane, and sees it at the horizon
    ],
)
def test_what_is_not_below_has_no_distance(mount, right, below, position):
    sight = TargetRanging(mount, "position").sight(1000 * MS, box(right, below), rays, vehicle(position))
    assert sight is None or sight.distance == 0


def test_a_box_without_rays_is_no_sight():
    nowhere = TargetRanging(DOWN).sight(0, box(), lambda pixels: np.full((len(pixels), 3), np.nan), vehicle())
    assert nowhere is None


def test_an_unknown_way_to_the_distance_is_refused():
    with pytest.raises(ValueError, match="distance_from is 'sonar'; it must be one of position, rangefinder"):
        TargetRanging(distance_from="sonar")


@pytest.mark.parametrize(
    ("where", "cut"),
    [
        ((320, 240, 50, 50), False),
        ((25, 240, 50, 50), True),
        ((27, 240, 50, 50), False),
        ((614, 240, 50, 50), True),
        ((320, 240, 50, 478), True),
    ],
)
def test_a_box_at_the_pictures_edge_has_another_center_than_its_target(where, cut):
    assert is_cut(where, (WIDTH, HEIGHT)) == cut


class TestHistory:
    def test_values_are_interpolated_and_angles_turn_the_short_way(self):
        history = History(angular=True)
        history.add(0, (3.0,))
        history.add(100 * MS, (-3.0,))
        (middle,) = history.at(50 * MS)
        assert abs(middle) == pytest.approx(math.pi)

    def test_the_newest_holds_for_a_moment_and_no_longer(self):
        history = History()
        assert history.at(0) is None
        history.add(1000 * MS, (1.0, 2.0))
        history.add(1100 * MS, (2.0, 4.0))
        assert history.at(1050 * MS).tolist() == [1.5, 3.0]
        assert history.at(1300 * MS).tolist() == [2.0, 4.0]
        assert history.at(1500 * MS) is None
        assert history.at(600 * MS) is None

    def test_what_is_not_finite_or_comes_late_is_left_out_and_a_clock_set_back_begins_anew(self):
        history = History()
        history.add(5000 * MS, (1.0,))
        history.add(5001 * MS, (math.nan,))
        history.add(4999 * MS, (7.0,))
        assert history.at(5001 * MS).tolist() == [1.0]
        history.add(100 * MS, (2.0,))
        assert history.at(100 * MS).tolist() == [2.0]
