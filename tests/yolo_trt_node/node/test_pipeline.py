"""What happens to the images of several cameras that come together."""

import threading
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from support.ros import wait_until
from support.toy_detector import paint_cells
from vision_msgs.msg import Detection2DArray
from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.health.statistics import CameraStatistics
from yolo_trt_node.node import pipeline as pipeline_module
from yolo_trt_node.node.messages import image_message
from yolo_trt_node.node.pipeline import HOPELESS_FAILURES, Pipeline
from yolo_trt_node.node_options import LiveOptions


class Publisher:
    def __init__(self, listeners=1):
        self.listeners = listeners
        self.published = []

    def publish(self, message):
        self.published.append(message)

    def get_subscription_count(self):
        return self.listeners


class Log:
    def __init__(self):
        self.lines = []
        self.info = self.warning = self.error = self.lines.append


def make_camera(name, annotated_listeners=0):
    outputs = {"detections": Publisher(), "annotated": Publisher(annotated_listeners)}
    camera = SimpleNamespace(name=name, topic=f"/{name}/image", outputs=outputs, tracker=None, ground=None)
    camera.statistics = CameraStatistics()
    return camera


def picture(cells=((3, 4, "red"),)) -> np.ndarray:
    return paint_cells(np.full((64, 64, 3), 114, np.uint8), list(cells))


def image(frame_id, cells=((3, 4, "red"),)):
    return image_message(Header(frame_id=frame_id), picture(cells))


def answers(camera) -> list[Detection2DArray]:
    return [deserialize_message(m, Detection2DArray) for m in camera.outputs["detections"].published]


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def detector(toy):
    return Detector.load(toy, DetectorOptions(max_batch=4))


@pytest.fixture
def cameras():
    return [make_camera("front"), make_camera("down")]


@pytest.fixture
def pipeline(log, detector, cameras):
    clock = SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=0))
    node = SimpleNamespace(get_clock=lambda: clock, get_logger=lambda: log)
    return Pipeline(node, detector, cameras, LiveOptions, max_pixels=10_000)


def test_they_go_through_the_network_once_and_to_the_camera_each_came_from(
    pipeline, detector, cameras, monkeypatch
):
    batches = []
    detect = detector.detect
    monkeypatch.setattr(detector, "detect", lambda frames: batches.append(len(frames)) or detect(frames))

    pipeline.process([(1, image("down", ())), (0, image("front"))])

    assert batches == [2]
    assert [len(m.detections) for camera in cameras for m in answers(camera)] == [1, 0]
    assert [m.header.frame_id for camera in cameras for m in answers(camera)] == ["front", "down"]
    assert [camera.statistics.window().published for camera in cameras] == [1, 1]


def test_a_broken_image_harms_only_its_own_camera(pipeline, cameras, log):
    broken = image("down")
    broken.step = 1

    pipeline.process([(1, broken), (0, image("front"))])

    assert len(answers(cameras[0])) == 1
    assert not answers(cameras[1])
    assert cameras[1].statistics.window().unreadable == {"corrupt image": 1}
    assert "/down/image: corrupt image: step 1 is less than" in log.lines[-1]


def test_a_detector_that_fails_is_told_for_each_camera_and_tried_again(
    pipeline, detector, cameras, log, monkeypatch
):
    def fail(_):
        raise RuntimeError("CUDA error")

    with monkeypatch.context() as patched:
        patched.setattr(detector, "detect", fail)
        pipeline.process([(0, image("front")), (1, image("down"))])
    assert [sum(camera.statistics.window().unreadable.values()) for camera in cameras] == [1, 1]
    assert "CUDA error" in log.lines[-1]

    pipeline.process([(0, image("front"))])
    assert len(answers(cameras[0])) == 1


def test_the_annotated_image_is_built_only_for_a_listener(pipeline, cameras):
    pipeline.process([(0, image("front"))])
    assert not cameras[0].outputs["annotated"].published
    cameras[0].outputs["annotated"].listeners = 1
    pipeline.process([(0, image("front"))])
    (drawn,) = cameras[0].outputs["annotated"].published
    assert (np.asarray(drawn.data).reshape(64, 64, 3) != picture()).any()


def test_what_the_detector_reads_itself_reaches_it_without_a_copy(pipeline, detector, monkeypatch):
    seen = []
    detect = detector.detect
    monkeypatch.setattr(detector, "detect", lambda frames: seen.extend(frames) or detect(frames))
    message = image("front")

    pipeline.process([(0, message)])

    assert np.shares_memory(seen[0].data, np.frombuffer(message.data, np.uint8))


class TestHopeless:
    @pytest.fixture
    def reasons(self, pipeline):
        given = []
        pipeline._give_up = given.append
        return given

    def fail(self, pipeline, detector, monkeypatch, *errors):
        left = list(errors)

        def detect(_):
            if left:
                raise left.pop(0)
            return [Detections.empty()]

        monkeypatch.setattr(detector, "detect", detect)
        for _ in range(len(errors) + 1):
            pipeline.process([(0, image("front"))])

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("cuStreamSynchronize failed: an illegal memory access was encountered"),
            RuntimeError("CUDA failure 719: unspecified launch failure ; GPU=0"),
            ModelError("CUDA_ERROR_ILLEGAL_ADDRESS"),
        ],
    )
    def test_a_gpu_that_is_lost_ends_the_process_at_once(
        self, pipeline, detector, monkeypatch, reasons, error
    ):
        self.fail(pipeline, detector, monkeypatch, error)
        assert len(reasons) == 1
        assert "the GPU is lost to this process" in reasons[0]

    def test_equal_failures_in_a_row_end_it(self, pipeline, detector, monkeypatch, reasons):
        self.fail(pipeline, detector, monkeypatch, *[RuntimeError("out of memory")] * HOPELESS_FAILURES)
        (reason,) = reasons
        assert f"failed on {HOPELESS_FAILURES} images in a row: RuntimeError('out of memory')" in reason

    def test_failures_that_differ_or_pass_do_not(self, pipeline, detector, monkeypatch, reasons):
        other = [RuntimeError(str(index % 2)) for index in range(HOPELESS_FAILURES)]
        self.fail(pipeline, detector, monkeypatch, *other)
        for _ in range(3):
            self.fail(pipeline, detector, monkeypatch, *[RuntimeError("x")] * (HOPELESS_FAILURES - 1))
        assert reasons == []


def test_an_image_without_a_stamp_has_no_age(pipeline, cameras):
    stamped = image("front")
    stamped.header.stamp.sec = 1
    pipeline.process([(0, image("front"))])
    assert cameras[0].statistics.window().ages_s == ()
    pipeline.process([(0, stamped)])
    assert cameras[0].statistics.window().ages_s == (-1.0,)


def test_a_large_picture_of_one_camera_does_not_hold_up_another(pipeline, cameras, monkeypatch):
    """Decoding waits for the test, which nothing else has to."""
    may_go_on, handed_back = threading.Event(), []
    real = pipeline_module.frame_from_message

    def slow(message, *rest):
        if isinstance(message, CompressedImage):
            assert may_go_on.wait(20)
        return real(message, *rest)

    monkeypatch.setattr(pipeline_module, "frame_from_message", slow)
    monkeypatch.setattr(pipeline_module, "LARGE_PIXELS", 4000)
    pipeline.hand_back_to(lambda number, decoded: handed_back.append((number, decoded)))
    large = CompressedImage(header=Header(frame_id="down"), format="png")
    large.data = cv2.imencode(".png", picture())[1].tobytes()
    try:
        pipeline.process([(1, large), (0, image("front"))])
        assert len(answers(cameras[0])) == 1
        assert not handed_back
        may_go_on.set()
        assert wait_until(lambda: handed_back)
        pipeline.process(handed_back)
        (message,) = answers(cameras[1])
        assert message.header.frame_id == "down"
        assert len(message.detections) == 1
        # A small one is decoded where it is.
        monkeypatch.setattr(pipeline_module, "LARGE_PIXELS", 5000)
        pipeline.process([(1, large)])
        assert len(answers(cameras[1])) == 2
    finally:
        may_go_on.set()
        pipeline.close()
