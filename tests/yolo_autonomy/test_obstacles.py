"""Objects on the ground become points that mark, and points that clear."""

import math

import numpy as np
import pytest
from yolo_autonomy.obstacles import Extent, Obstacle, ObstacleMap

SECOND = 1_000_000_000


def car(x, y, track="", width=4.0) -> Obstacle:
    return Obstacle(x, y, 1.0, width, track)


def test_points_cover_the_object_and_its_margin_and_nothing_else():
    occupied, cleared = ObstacleMap(Extent(resolution=0.25, margin=0.5, height=1.5)).update(0, [car(10, -20)])
    away = np.hypot(occupied[:, 0] - 10, occupied[:, 1] + 20)
    assert 2.25 < away.max() <= 2.5
    assert len(occupied) == pytest.approx(math.pi * 2.5**2 / 0.25**2, rel=0.05)
    assert (occupied[:, 2] == 2.5).all()
    assert cleared.shape == (0, 3)


@pytest.mark.parametrize(("width", "reach"), [(0.1, 1.0), (50.0, 3.0)])
def test_widths_are_held_within_limits(width, reach):
    places = ObstacleMap(Extent(0.1, 0.0, min_width=2.0, max_width=6.0)).update(0, [car(0, 0, width=width)])[
        0
    ]
    assert np.hypot(*places[:, :2].T).max() == pytest.approx(reach, abs=0.1)


def test_a_tracked_object_that_moves_clears_behind_it():
    made = ObstacleMap(Extent(0.5, 0.0))
    made.update(0, [car(0, 0, "7")])
    occupied, cleared = made.update(SECOND // 10, [car(2, 0, "7")])
    assert occupied[:, 0].min() == 0.0
    assert cleared[:, 0].max() < 2.0
    assert len({*map(tuple, occupied[:, :2])} & {*map(tuple, cleared[:, :2])}) == 0
    assert (-2.0, 0.0) in {*map(tuple, cleared[:, :2])}


@pytest.mark.parametrize("track", ["7", ""])
def test_an_object_that_is_gone_stays_for_a_while_then_clears_then_is_forgotten(track):
    made = ObstacleMap(Extent(0.5, 0.0, keep_s=2.0, clear_s=1.0))
    first, _ = made.update(0, [car(0, 0, track)])
    sizes = []
    for tenths in (10, 20, 21, 30, 31):
        occupied, cleared = made.update(tenths * SECOND // 10, [])
        sizes.append((len(occupied), len(cleared)))
    everything = len(first)
    assert sizes[:3] == [(everything, 0), (everything, 0), (0, everything)]
    assert made.update(60 * SECOND, [])[1].shape == (0, 3)


def test_without_ids_the_same_place_is_the_same_object():
    made = ObstacleMap(Extent(0.5, 0.0, keep_s=10.0))
    made.update(0, [car(0, 0), car(20, 0)])
    occupied, _ = made.update(SECOND, [car(0.1, 0.1), car(20, 0)])
    assert len(occupied) == len(made.update(SECOND, [])[0])
    assert len(made._kept) == 2


def test_a_clock_that_is_set_back_begins_anew():
    made = ObstacleMap()
    made.update(100 * SECOND, [car(0, 0)])
    occupied, cleared = made.update(SECOND, [])
    assert len(occupied) == len(cleared) == 0


def test_an_extent_of_endless_points_is_refused():
    with pytest.raises(ValueError, match=r"make 7530 points a side; at most 1000: enlarge resolution"):
        Extent(resolution=0.02, max_width=150.0)
    with pytest.raises(ValueError, match="min_width 3 is more than max_width 2"):
        Extent(min_width=3.0, max_width=2.0)
