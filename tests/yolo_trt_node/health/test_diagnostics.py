"""Levels, messages and values of every task."""

from dataclasses import replace

import pytest
from support.toy_detector import NAMES
from yolo_trt_node.detector import Detector
from yolo_trt_node.health.diagnosis import Cause, Diagnosis
from yolo_trt_node.health.diagnostics import (
    Level,
    LifeCycle,
    MessageText,
    Thresholds,
    board_status,
    detections_status,
    input_status,
    life_cycle_status,
    log_line,
    model_status,
)
from yolo_trt_node.health.jetson import BoardReading
from yolo_trt_node.health.statistics import TrafficWindow

THRESHOLDS = Thresholds(
    min_rate_hz=10.0,
    error_rate_hz=2.0,
    max_frame_age_s=0.5,
    error_frame_age_s=2.0,
    input_timeout_s=3.0,
    max_temperature_c=85.0,
    error_temperature_c=95.0,
)
STREAM = TrafficWindow(
    duration_s=5.0,
    received=150,
    published=100,
    dropped=50,
    boxes=250,
    ages_s=(0.1,) * 90 + (0.2,) * 10,
    timing={"decode": (0.001,) * 100, "inference": (0.03,) * 100},
    longest_gap_s=0.04,
    silent_s=0.01,
    stamp_s=1.0,
)


class TestLifeCycle:
    @pytest.mark.parametrize(
        ("now", "level", "message"),
        [
            (LifeCycle(), Level.WARN, "waiting to be configured"),
            (LifeCycle(state="inactive"), Level.WARN, "configured, waiting to be activated"),
            (LifeCycle(state="active"), Level.OK, "active"),
            (LifeCycle(state="finalized"), Level.WARN, "shut down"),
            (LifeCycle(failure="configure: no model"), Level.ERROR, "failed: configure: no model"),
            (
                LifeCycle(transition="configure", since_s=42.4, progress="building layer 3"),
                Level.WARN,
                "busy: configure, for 42 s: building layer 3",
            ),
        ],
    )
    def test_every_state_has_its_words(self, now, level, message):
        status = life_cycle_status(now)
        assert (status.level, status.message) == (level, message)
        assert status.values["State"] == now.state


class TestModel:
    def test_tells_backend_engine_precision_and_card(self, toy):
        detector = Detector.load(toy)
        detector.prepare(64, 64)

        status = model_status(detector, failed=False)

        assert status.level == Level.OK
        assert status.message == f"loaded: toy.onnx on {detector.backend}, fp32"
        values = status.values
        assert values["Model"] == str(toy)
        assert values["Backend chosen because"] == detector.backend_reason
        assert values["Precision"] == "fp32"
        assert values["Engine"].startswith("none")
        assert values["Classes"] == ", ".join(NAMES)
        assert values["Input size"] == f"{detector.card.height}x{detector.card.width}"

    def test_tells_where_there_is_none(self):
        assert model_status(None, failed=False).level == Level.WARN
        assert model_status(None, failed=True).level == Level.ERROR
        assert model_status(None, failed=True).message == MessageText.NOT_LOADED


class TestInput:
    def judge(self, window=STREAM, cause=None, **thresholds) -> tuple[Level, str]:
        diagnosis = Diagnosis(cause, "/image", "Do this.") if cause else None
        status = input_status("", "/image", window, 7, diagnosis, replace(THRESHOLDS, **thresholds))
        assert status.task == "input"
        return status.level, status.message

    def test_standard_names(self):
        status = input_status("front", "/front/image", STREAM, 900, None, THRESHOLDS)
        assert status.task == "front input"
        assert status.values["Events in window"] == "150"
        assert status.values["Events since startup"] == "900"
        assert float(status.values["Duration of window (s)"]) == 5.0
        assert float(status.values["Actual frequency (Hz)"]) == 30.0
        assert float(status.values["Minimum acceptable frequency (Hz)"]) == 10.0
        assert float(status.values["Longest gap (s)"]) == 0.04

    def test_arriving(self):
        assert self.judge() == (Level.OK, "images arrive: 30.0 Hz")

    def test_before_the_first_image(self):
        nothing = TrafficWindow(duration_s=1.0)
        assert self.judge(nothing) == (Level.WARN, "waiting for the first image")
        assert self.judge(nothing, Cause.NO_PUBLISHER) == (
            Level.ERROR,
            "no image: /image: nobody publishes the image topic. Do this.",
        )

    def test_stale_when_it_stops(self):
        stopped = replace(STREAM, silent_s=3.2)
        assert self.judge(stopped) == (Level.STALE, "the input has stopped 3.2 s ago")
        level, message = self.judge(stopped, Cause.SILENT)
        assert level == Level.STALE
        assert message.endswith(": /image: the publisher is alive, but silent. Do this.")
        assert self.judge(stopped, input_timeout_s=4.0)[0] == Level.OK

    @pytest.mark.parametrize("cause", Cause)
    def test_a_finding_is_an_error_where_it_blocks(self, cause):
        level, message = self.judge(cause=cause)
        assert level == (Level.ERROR if cause.blocks else Level.WARN)
        assert cause.value in message

    def test_rate_thresholds(self):
        assert self.judge(min_rate_hz=31.0) == (
            Level.WARN,
            "too few images arrive: 30.0 Hz, and 31 Hz are expected",
        )
        assert self.judge(min_rate_hz=31.0, error_rate_hz=30.5)[0] == Level.ERROR

    def test_lost_images(self):
        assert self.judge(replace(STREAM, lost=10))[0] == Level.OK
        assert self.judge(replace(STREAM, lost=20)) == (
            Level.WARN,
            "images are lost on the way: 20, while 150 arrived",
        )

    def test_unreadable_images(self):
        level, message = self.judge(replace(STREAM, unreadable={"step": 2, "size": 1}))
        assert (level, message) == (Level.WARN, "some images cannot be read: 2 of 150: step")


class TestDetections:
    def judge(self, window=STREAM, stale=False, **thresholds) -> tuple[Level, str]:
        status = detections_status("", window, stale, replace(THRESHOLDS, **thresholds))
        assert status.task == "detections"
        return status.level, status.message

    def test_values(self):
        values = detections_status("down", replace(STREAM, skipped={"rate": 5}), False, THRESHOLDS).values
        assert float(values["Actual frequency (Hz)"]) == 20.0
        assert float(values["Frame age p50 (s)"]) == 0.1
        assert float(values["Frame age p95 (s)"]) == 0.2
        assert float(values["Stage inference p50 (s)"]) == 0.03
        assert float(values["Stage decode p95 (s)"]) == 0.001
        assert values["Dropped for newer images"] == "50"
        assert values["Left out: rate"] == "5"
        assert values["Boxes per image"] == "2.5"

    def test_age_thresholds(self):
        assert self.judge() == (Level.OK, "images are answered: 20.0 Hz, frame age p95 200 ms")
        assert self.judge(max_frame_age_s=0.15) == (
            Level.WARN,
            "detections come late: frame age p95 0.200 s, and 0.15 s are acceptable",
        )
        assert self.judge(max_frame_age_s=0.15, error_frame_age_s=0.19)[0] == Level.ERROR

    def test_no_answers(self):
        none = replace(STREAM, published=0, ages_s=(), timing={})
        assert self.judge(none) == (Level.ERROR, "images arrive, but none is answered: 150 in 5 s")
        unheard = replace(none, skipped={"nobody listens": 149, "max_rate_hz": 1})
        assert self.judge(unheard) == (Level.OK, "no image is looked at: nobody listens")
        assert self.judge(none, stale=True) == (Level.STALE, "nothing to answer")
        assert self.judge(TrafficWindow(duration_s=5.0)) == (Level.STALE, "nothing to answer")


class TestBoard:
    READING = BoardReading({"cpu-thermal": 61.5, "gpu-thermal": 58.0}, "15W (2)", (), 306.0, 612.0)

    def judge(self, **changes) -> tuple[Level, str]:
        status = board_status("Orin", replace(self.READING, **changes), THRESHOLDS)
        return status.level, status.message

    def test_values(self):
        assert board_status("Orin", self.READING, THRESHOLDS).values == {
            "Board": "Orin",
            "Temperature cpu-thermal (C)": "61.5",
            "Temperature gpu-thermal (C)": "58.0",
            "Power mode": "15W (2)",
            "GPU frequency (MHz)": "306",
            "GPU frequency limit (MHz)": "612",
            "Throttled by": "nothing",
        }

    def test_levels(self):
        assert self.judge() == (Level.OK, "neither hot nor throttled")
        assert self.judge(throttled_by=("over-current oc1",)) == (
            Level.WARN,
            "the board is throttled: over-current oc1",
        )
        assert self.judge(temperatures_c={"cpu": 85.1}) == (Level.WARN, "the board is hot: cpu 85.1 C")
        assert self.judge(temperatures_c={"cpu": 95.1, "gpu": 90.0})[0] == Level.ERROR
        assert self.judge(temperatures_c={"cpu": 96.0}, throttled_by=("x",)) == (
            Level.ERROR,
            "the board is hot: cpu 96.0 C; the board is throttled: x",
        )


def test_the_log_tells_the_same_in_one_line():
    window = replace(STREAM, skipped={"max_rate_hz": 3}, unreadable={"step is 3": 2, "size": 1}, lost=4)
    assert log_line("/image", window) == (
        "/image: 150 images in 5 s (30.0 Hz), 100 answered, 50 dropped for newer ones, 3 left out "
        "(max_rate_hz), 3 unreadable (step is 3; size), 4 lost on the way; age at publication 100 ms "
        "(p95 200 ms), inference 30 ms"
    )
