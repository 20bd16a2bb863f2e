import numpy as np
import pytest

from aerial_scenes.flight import Flight
from aerial_scenes.scenes import SceneSpec

SPEC = SceneSpec(
    width=480,
    height=272,
    metres_per_pixel=(0.13, 0.14),
    pitch_deg=(20.0, 40.0),
    focal_px=(400.0, 450.0),
    districts=("centre",),
    density=(1.0, 1.2),
    dusk=0.0,
    max_ground_pixels=3_000_000,
)


@pytest.fixture(scope="module")
def flight():
    return Flight(4, SPEC, frames=12, fps=10)


@pytest.fixture(scope="module")
def frames(flight):
    return list(flight)


def tracks(frames):
    found = {}
    for frame in frames:
        for a in frame.annotations:
            if a.target_id:
                found.setdefault(a.target_id, {})[frame.index] = a
    return found


def test_frames_come_in_order_and_size(flight, frames):
    assert len(flight) == len(frames) == 12
    assert [f.index for f in frames] == list(range(12))
    assert [f.time for f in frames] == pytest.approx([i / 10 for i in range(12)])
    assert all(f.image.shape == (272, 480, 3) for f in frames)


def test_ids_are_unique_in_a_frame_and_keep_their_class(frames):
    for frame in frames:
        ids = [a.target_id for a in frame.annotations if a.category]
        assert all(ids)
        assert len(set(ids)) == len(ids)
    for track in tracks(frames).values():
        assert len({a.category for a in track.values()}) == 1


def test_most_objects_last_over_the_flight(frames):
    first = {a.target_id for a in frames[0].annotations if a.target_id}
    last = {a.target_id for a in frames[-1].annotations if a.target_id}
    assert len(first & last) > 0.5 * len(first)


def test_boxes_move_continuously(frames):
    steps = 0
    for track in tracks(frames).values():
        for index, a in track.items():
            b = track.get(index + 1)
            if b is None or a.truncation or b.truncation:
                continue
            steps += 1
            # In 0.1 s a vehicle at 13 m/s and a camera at 6 m/s make 2 m: 20 pixels, more when near.
            assert abs((a.left + a.width / 2) - (b.left + b.width / 2)) < 40
            assert abs((a.top + a.height / 2) - (b.top + b.height / 2)) < 40
            assert 0.6 < (b.width * b.height) / (a.width * a.height) < 1.7
    assert steps > 100


def test_the_view_and_the_traffic_move(flight, frames):
    assert np.abs(frames[0].image.astype(int) - frames[-1].image.astype(int)).mean() > 5
    poses = [[actor.motion.at(t)[0] for actor in flight.world.actors] for t in (0.0, 1.0)]
    moved = np.linalg.norm(np.array(poses[0])[:, :2] - np.array(poses[1])[:, :2], axis=1)
    assert (moved > 0.5).sum() >= 5
    assert (moved == 0).sum() >= 5


def test_any_frame_can_be_made_alone_and_again(flight, frames):
    again = flight.frame(7)
    assert np.array_equal(again.image, frames[7].image)
    assert again.annotations == frames[7].annotations


def test_vehicles_that_leave_a_lane_return_under_a_new_id(flight):
    from aerial_scenes.world import Drive

    drive = Drive((0.0, 0.0), 0.0, 100.0, 90.0, 10.0)
    assert drive.at(0.5) == ((95.0, 0.0, 0.0), 0)
    pose, laps = drive.at(2.0)
    assert pose == pytest.approx((10.0, 0.0, 0.0))
    assert laps == 1


def test_there_is_no_frame_beyond_the_last(flight):
    with pytest.raises(IndexError, match="frame 12 of a flight of 12"):
        flight.frame(12)


@pytest.mark.parametrize(("frames_", "fps", "seed"), [(0, 10, 1), (5, 0, 1), (5, 10, -1)])
def test_impossible_flights_are_refused(frames_, fps, seed):
    with pytest.raises(ValueError, match="a flight"):
        Flight(seed, SPEC, frames_, fps)
