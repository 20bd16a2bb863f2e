"""Detectors side by side answer in the order of the pictures, and fail at the picture that is at fault."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, Frame, ModelError
from yolo_trt_node.replay import lanes
from yolo_trt_node.replay.journal import BagImage


def batches(count: int) -> list[list[BagImage]]:
    """Batches of one picture whose pixels tell its number, and of one that cannot be read."""
    made = []
    for number in range(count):
        frame = Frame.from_bgr(np.full((8, 8, 3), number, np.uint8))
        made.append(
            [BagImage("/nose", number, None, frame, ""), BagImage("/nose", number, None, None, "bad")]
        )
    return made


class SlowFirst:
    """Answers with the picture's number; the first picture waits until the second is done."""

    later_done = threading.Event()
    users = 0

    def detect(self, images):
        self.users += 1
        assert self.users == 1, "two threads use one detector"
        (number,) = {int(image.pixels.flat[0]) for image in images}
        if number == 0:
            assert self.later_done.wait(60)
        if number == 1:
            self.later_done.set()
        if number == 5:
            raise ModelError("picture 5")
        self.users -= 1
        return [number]


def test_answers_come_in_the_order_of_the_pictures():
    given = batches(5)
    found = list(lanes.detect_in_order([SlowFirst(), SlowFirst()], given))
    assert [answers for _, answers in found] == [[number] for number in range(5)]
    assert [batch for batch, _ in found] == given


def test_what_fails_is_raised_in_its_turn():
    answers = lanes.detect_in_order([SlowFirst(), SlowFirst()], batches(9))
    assert [next(answers)[1] for _ in range(5)] == [[0], [1], [2], [3], [4]]
    with pytest.raises(ModelError, match="picture 5"):
        next(answers)


@pytest.mark.parametrize(("threads", "each"), [(1, [1]), (3, [1, 1, 1]), (17, [2] * 8)])
def test_the_threads_are_shared_out(tmp_path, threads, each):
    pytest.importorskip("onnxruntime")
    options = DetectorOptions(backend="onnxruntime", threads=threads, load_timeout_s=0.0)
    detector = Detector.load(write_toy_detector(tmp_path / "toy.onnx"), options)
    assert [lane.options.threads for lane in lanes.lanes_for(detector)] == each
    on_gpu = replace(options, onnxruntime_provider="cuda")
    detector.options = on_gpu
    assert lanes.lanes_for(detector) == [detector]
