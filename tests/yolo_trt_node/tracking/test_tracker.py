"""Identities last."""

import itertools
import time

import cv2
import numpy as np
import pytest
from yolo_trt_node.boxes import Detections
from yolo_trt_node.tracking import NO_ID, Tracker, TrackerOptions

BLANK = np.full((540, 960, 3), 100, np.uint8)
STILL = TrackerOptions(camera_motion=False)


def found(*boxes, scores=None, classes=None) -> Detections:
    """Boxes given as centre x, centre y, width, height."""
    rows = np.array(boxes, np.float64).reshape(-1, 4)
    corners = np.concatenate((rows[:, :2] - rows[:, 2:] / 2, rows[:, :2] + rows[:, 2:] / 2), axis=1)
    return Detections(
        corners.astype(np.float32),
        np.array([0.9] * len(rows) if scores is None else scores, np.float32),
        np.array([0] * len(rows) if classes is None else classes, np.int32),
    )


def follow(
    tracker: Tracker, frames, step_s: float = 0.1, start_s: float = 0.0, image=BLANK
) -> list[list[int]]:
    return [
        tracker.update(detections, image, start_s + index * step_s).tolist()
        for index, detections in enumerate(frames)
    ]


def test_an_id_comes_with_the_second_frame_and_stays():
    ids = follow(Tracker(STILL), [found((100 + 5 * k, 200, 40, 20)) for k in range(8)])
    assert ids == [[NO_ID], *[[1]] * 7]


def test_the_order_of_detections_does_not_matter():
    tracker = Tracker(STILL)
    a, b = (100, 100, 30, 20), (300, 300, 30, 20)
    follow(tracker, [found(a, b)] * 2)
    first = tracker.update(found(a, b), BLANK, 0.2)
    second = tracker.update(found(b, a), BLANK, 0.3)
    assert first.tolist() == second[::-1].tolist() == [1, 2]


def test_none_found_is_an_empty_answer():
    answer = Tracker(STILL).update(found(), BLANK, 0.0)
    assert answer.shape == (0,)
    assert answer.dtype == np.int64


def test_an_object_keeps_its_id_behind_a_tree_while_it_moves_on():
    tracker = Tracker(STILL)
    path = [found((100 + 8 * k, 200, 40, 20)) if not 10 <= k < 22 else found() for k in range(30)]
    ids = follow(tracker, path)
    assert [row for row in ids[1:] if row] == [[1]] * 17


def test_one_that_stays_away_longer_than_the_memory_comes_back_as_another():
    tracker = Tracker(TrackerOptions(memory_s=0.5, camera_motion=False))
    here = found((100, 200, 40, 20))
    ids = follow(tracker, [here] * 3 + [found()] * 8 + [here] * 3)
    assert ids[2] == [1]
    assert ids[-1] == [2]


def test_a_false_alarm_of_one_frame_never_gets_an_id():
    tracker = Tracker(STILL)
    frames = [found((100, 100, 30, 20), (50 + 90 * k, 400, 20, 20)) for k in range(8)]
    ids = follow(tracker, frames)
    assert all(row[1] == NO_ID for row in ids)
    assert ids[-1][0] == 1


def test_two_that_cross_keep_their_ids():
    tracker = Tracker(STILL)
    frames = [found((100 + 10 * k, 200, 30, 16), (500 - 10 * k, 208, 30, 16)) for k in range(40)]
    ids = follow(tracker, frames, step_s=1 / 15)
    assert ids[2] == ids[-1] == [1, 2]


def test_classes_do_not_mix():
    tracker = Tracker(STILL)
    car = [found((100, 100, 30, 20), classes=[3])] * 4
    van = [found((100, 100, 30, 20), classes=[4])] * 4
    assert follow(tracker, car)[-1] == [1]
    assert follow(tracker, van, start_s=0.4)[-1] == [2]
    assert follow(tracker, car[:1], start_s=0.8)[-1] == [1]


def test_weak_detections_continue_tracks_but_begin_none():
    tracker = Tracker(STILL)
    here = (100, 100, 30, 20)
    follow(tracker, [found(here)] * 3)
    weak = [found(here, (400, 300, 30, 20), scores=[0.15, 0.15])] * 5
    assert follow(tracker, weak, start_s=0.3) == [[1, NO_ID]] * 5


def test_strong_detections_are_served_before_weak_ones():
    tracker = Tracker(STILL)
    follow(tracker, [found((100, 100, 30, 20))] * 3)
    # The weak box fits a little better, and yet the strong one carries the id on.
    both = found((100, 100, 30, 20), (102, 101, 30, 20), scores=[0.2, 0.8])
    assert tracker.update(both, BLANK, 0.3).tolist() == [NO_ID, 1]


def test_ids_never_come_back():
    tracker = Tracker(STILL)
    seen: set[int] = set()
    for lap in range(5):
        ids = follow(tracker, [found((100, 100, 30, 20), (300, 300, 30, 20))] * 3, start_s=10.0 * lap)
        now = set(itertools.chain(*ids))
        now.discard(NO_ID)
        assert len(now) == 2
        assert not now & seen
        seen |= now


def test_trackers_of_one_node_share_no_id():
    ids = itertools.count(1)
    front, down = Tracker(STILL, ids), Tracker(STILL, ids)
    here = [found((100, 100, 30, 20))] * 3
    assert {follow(front, here)[-1][0], follow(down, here)[-1][0]} == {1, 2}


@pytest.mark.parametrize("leap_s", [-0.5, -1e6, 2.5, 1e9])
def test_a_clock_that_jumps_ends_all_tracks(leap_s):
    tracker = Tracker(STILL)
    here = [found((100, 100, 30, 20))] * 4
    assert follow(tracker, here, start_s=50.0)[-1] == [1]
    assert follow(tracker, here, start_s=50.3 + leap_s) == [[NO_ID], [2], [2], [2]]


def test_stamps_that_stand_still_do_not_break_it():
    ids = follow(Tracker(STILL), [found((100 + 4 * k, 100, 30, 20)) for k in range(20)], step_s=0.0)
    assert ids[1:] == [[1]] * 19


def test_another_image_size_ends_all_tracks():
    tracker = Tracker(STILL)
    here = [found((100, 100, 30, 20))] * 3
    follow(tracker, here)
    assert tracker.update(here[0], BLANK[:400], 0.3).tolist() == [NO_ID]


@pytest.mark.parametrize("rate_hz", [2, 5, 30, 60])
@pytest.mark.parametrize("size", [5, 20, 200])
def test_any_rate_and_any_size(rate_hz, size):
    """A car at five of its lengths a second, from far above or near, jittered by a detector."""
    rng = np.random.default_rng(rate_hz + size)
    frames = []
    for k in range(5 * rate_hz):
        x = 0.5 * size + 1.5 * size * k / rate_hz
        box = np.array([x, 270, 1.4 * size, 0.7 * size])
        frames.append(found(box + rng.normal(0, 0.04 * size + 0.3, 4).clip(-0.2 * size, 0.2 * size)))
    ids = follow(Tracker(STILL), frames, step_s=1 / rate_hz)
    assert ids[1:] == [[1]] * (len(frames) - 1)


def test_a_turn_of_the_camera_is_not_taken_for_the_objects_motion():
    """The camera jerks by the objects' distance: only what stands still tells which is which."""
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 255, (60, 100, 3), np.uint8)
    ground = cv2.resize(coarse, (2400, 1400), interpolation=cv2.INTER_CUBIC)
    row = [(700 + 45 * k, 650) for k in range(6)]
    offsets = [(400, 300), (400, 300), (400, 300), (445, 300), (400, 320), (445, 275), (400, 300)]

    def fly(options: TrackerOptions) -> list[list[int]]:
        tracker = Tracker(options)
        return [
            tracker.update(
                found(*[(px - x, py - y, 24, 14) for px, py in row]),
                np.ascontiguousarray(ground[y : y + 540, x : x + 960]),
                0.1 * k,
            ).tolist()
            for k, (x, y) in enumerate(offsets)
        ]

    compensated = fly(TrackerOptions())
    assert compensated[1:] == [[1, 2, 3, 4, 5, 6]] * 6
    assert fly(STILL)[1:] != compensated[1:]


def test_a_crowd_costs_little():
    rng = np.random.default_rng(0)
    centers = rng.uniform((20, 20), (940, 520), (300, 2))
    sizes = np.full((300, 2), 12.0)
    classes = rng.integers(3, size=300)
    tracker = Tracker(STILL)
    seconds = []
    for k in range(20):
        boxes = np.concatenate((centers + rng.normal(0, 0.5, (300, 2)), sizes), axis=1)
        detections = found(*boxes, classes=classes)
        start = time.perf_counter()
        tracker.update(detections, BLANK, k / 30)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.02  # 2 to 4 ms on an idle core; loops over boxes would take ten times as long


@pytest.mark.parametrize(
    "wrong", [{"high_score": 1.5}, {"memory_s": 0.0}, {"memory_s": float("nan")}, {"min_hits": 0}]
)
def test_options_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrackerOptions(**wrong)
