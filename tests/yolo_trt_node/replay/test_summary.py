"""What a replay says at its end."""

import json

import pytest
from yolo_trt_node.replay.summary import summarise, write_summary

MS = 1_000_000


def played(*frames: tuple[int, int]) -> dict:
    """Frames as (stamp, time of publication in ms)."""
    return {"published": {"/front": [(stamp, stamp, at * MS) for stamp, at in frames]}}


def recorded(*answers: tuple[int, int]) -> dict:
    return {"arrivals": {"/detections": [(stamp, at * MS) for stamp, at in answers]}}


def test_ages_run_from_publication_to_arrival():
    (camera,) = summarise(
        played((1, 0), (2, 100), (3, 200)),
        recorded((1, 10), (2, 120), (3, 230)),
        {"/front": "/detections"},
    )
    assert (camera.frames, camera.answered, camera.dropped) == (3, 3, 0)
    assert camera.age_p50_ms == pytest.approx(20)
    assert camera.age_p95_ms == pytest.approx(29)


def test_frames_without_answer_are_dropped():
    (camera,) = summarise(played((1, 0), (2, 10), (3, 20)), recorded((3, 30)), {"/front": "/detections"})
    assert (camera.answered, camera.dropped, camera.age_p50_ms) == (1, 2, 10)


def test_answers_to_other_images_do_not_count():
    (camera,) = summarise(played((1, 0)), recorded((7, 5)), {"/front": "/detections"})
    assert (camera.frames, camera.answered, camera.age_p50_ms) == (1, 0, None)


def test_the_first_of_two_answers_counts():
    (camera,) = summarise(played((1, 0)), recorded((1, 5), (1, 50)), {"/front": "/detections"})
    assert (camera.answered, camera.age_p50_ms) == (1, 5)


def test_a_camera_that_nobody_played_or_answered_has_a_line_too():
    (camera,) = summarise({"published": {}}, {"arrivals": {}}, {"/front": "/detections"})
    assert (camera.frames, camera.answered, camera.dropped) == (0, 0, 0)


def test_words_and_figures_lie_beside_the_bag(tmp_path):
    (tmp_path / "player.json").write_text(json.dumps(played((1, 0), (2, 100))))
    (tmp_path / "recorder.json").write_text(json.dumps(recorded((2, 112))))
    said = write_summary(tmp_path, {"/front": "/detections"})
    assert "/front: 2 frames, 1 with detections, 1 without (unreadable, or newer ones" in said
    assert "p50 12 ms, p95 12 ms" in said
    assert str(tmp_path / "bag") in said
    (camera,) = json.loads((tmp_path / "summary.json").read_text())
    assert camera["dropped"] == 1
    assert camera["age_p95_ms"] == pytest.approx(12)


def test_a_player_that_failed_is_no_summary(tmp_path):
    (tmp_path / "recorder.json").write_text(json.dumps(recorded()))
    with pytest.raises(OSError, match=r"player\.json"):
        write_summary(tmp_path, {"/front": "/detections"})
