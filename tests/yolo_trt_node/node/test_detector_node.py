"""The node as a process, talked to over DDS from another one."""

import signal

import numpy as np
import pytest
from rcl_interfaces.srv import SetParametersAtomically
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image
from support.ros import Transition, detector_node, wait_until
from support.toy_detector import (
    BGR,
    NAMES,
    paint_cells,
    scene,
    write_rectangle_detector,
    write_toy_detector,
)
from yolo_trt_node.detector import Detector

GRAY = 114


def boxes_of(message) -> np.ndarray:
    rows = []
    for detection in message.detections:
        center, box = detection.bbox.center.position, detection.bbox
        rows.append(
            (
                center.x - box.size_x / 2,
                center.y - box.size_y / 2,
                center.x + box.size_x / 2,
                center.y + box.size_y / 2,
            )
        )
    return np.array(rows).reshape(-1, 4)


class TestFlight:
    def test_detections_equal_the_detectors_and_carry_the_images_header(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}) as node:
            message = peer.detect(scene(), stamp=(12, 345))
            (expected,) = Detector.load(toy).detect([scene()])
            assert len(message.detections) == len(expected) == 2
            np.testing.assert_allclose(boxes_of(message), expected.boxes, atol=1e-4)
            for header in (message.header, *(d.header for d in message.detections)):
                assert (header.stamp.sec, header.stamp.nanosec, header.frame_id) == (12, 345, "camera")
            hypotheses = [d.results[0].hypothesis for d in message.detections]
            assert [h.class_id for h in hypotheses] == [str(i) for i in expected.class_ids]
            np.testing.assert_allclose([h.score for h in hypotheses], expected.scores, atol=1e-6)
            assert all(d.id == "" for d in message.detections)
            assert node.stop() == 0, node.log

    def test_an_empty_frame_gives_an_empty_array(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}):
            message = peer.detect(scene(cells=()), stamp=(3, 4))
            assert message.detections == []
            assert message.header.stamp.sec == 3

    def test_label_and_vision_info_reach_who_comes_late(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "score_threshold": 0.25}):
            peer.detect(scene())
            assert wait_until(lambda: peer.label_infos and peer.vision_infos)
            info = peer.label_infos[-1]
            assert [(c.class_id, c.class_name) for c in info.class_map] == list(enumerate(NAMES))
            assert info.threshold == pytest.approx(0.25)
            assert "toy.onnx" in peer.vision_infos[-1].method
            assert peer.vision_infos[-1].database_location == "/label_info"

    def test_the_annotated_image_comes_only_while_somebody_listens(self, environment, peer, toy):
        pictures: list[Image] = []
        with detector_node(environment, {"model": toy}):
            peer.detect(scene())
            listener = peer.node.create_subscription(Image, "annotated", pictures.append, 10)
            assert wait_until(lambda: peer.node.count_publishers("/annotated") == 1)
            assert wait_until(lambda: bool(peer.detect(scene(), stamp=(7, 8))) and len(pictures) > 0)
            peer.node.destroy_subscription(listener)
        picture = pictures[-1]
        assert (picture.height, picture.width, picture.encoding) == (320, 640, "bgr8")
        assert picture.header.stamp.sec == 7
        drawn = np.frombuffer(bytes(picture.data), np.uint8).reshape(320, 640, 3)
        assert (drawn != scene()).any()

    def test_a_stock_ultralytics_export_needs_no_further_argument(self, environment, peer, tmp_path):
        metadata = {
            "names": str(dict(enumerate(NAMES))),
            "stride": "8",
            "imgsz": "[64, 64]",
            "task": "detect",
        }
        model = write_toy_detector(tmp_path / "stock.onnx", static=True, metadata=metadata)
        with detector_node(environment, {"model": model}):
            assert len(peer.detect(paint_cells(scene(64, 64, ()), [(3, 3, "blue")])).detections) == 1

    def test_under_overload_the_newest_frame_is_answered(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}):
            peer.detect(scene())
            count = len(peer.detections)
            for index in range(60):
                peer.publish(scene(), stamp=(100 + index, 0))
            assert wait_until(lambda: peer.detections[-1].header.stamp.sec == 159)
            stamps = [m.header.stamp.sec for m in peer.detections[count:]]
            assert stamps == sorted(stamps)


class TestLifeCycle:
    def test_down_and_up_again_and_with_another_model(self, environment, peer, toy, tmp_path):
        other = write_toy_detector(tmp_path / "other.onnx", size=(32, 32))
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene())
            assert peer.state() == "active"
            assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
            assert peer.state() == "inactive"
            assert wait_until(lambda: peer.images.get_subscription_count() == 0)
            assert peer.change_state(Transition.TRANSITION_ACTIVATE)
            assert len(peer.detect(scene()).detections) == 2
            assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
            assert peer.change_state(Transition.TRANSITION_CLEANUP)
            assert peer.state() == "unconfigured"
            assert peer.set_parameter("model", str(other)) == (True, "")
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)
            assert peer.change_state(Transition.TRANSITION_ACTIVATE)
            assert wait_until(lambda: "other.onnx" in peer.vision_infos[-1].method)
            peer.detect(scene())
            assert node.stop() == 0, node.log

    def test_without_autostart_it_waits(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "autostart": "false"}):
            assert peer.state() == "unconfigured"

    def test_a_transition_that_the_state_forbids_leaves_the_node_alive(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene())
            assert not peer.change_state(Transition.TRANSITION_CONFIGURE)
            assert node.alive
            assert peer.state() == "active"
            assert len(peer.detect(scene()).detections) == 2

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signals_end_it_cleanly_while_frames_come(self, environment, peer, toy, number):
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene())
            for _ in range(5):
                peer.publish(scene())
            assert node.stop(number) == 0, node.log
            assert "Traceback" not in node.log

    def test_shutdown_from_active(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene())
            assert peer.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
            assert peer.state() == "finalized"
            assert node.alive


class TestBadInput:
    """One clear error each; the node lives on and works on the next good input."""

    @pytest.fixture
    def flying(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene())
            yield node

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"data": b"\x00" * 10}, "corrupt image: 10 bytes of data"),
            ({"step": 3}, "corrupt image: step 3 is less than"),
            ({"height": 0, "width": 0, "data": b""}, "empty image: 0 x 0"),
            ({"encoding": "hsv99"}, "unsupported encoding: 'hsv99'; supported are bgr8"),
            ({"width": 4_000_000_000}, "corrupt image: step"),
        ],
    )
    def test_images(self, peer, flying, changes, message):
        fields = {"height": 8, "width": 8, "encoding": "bgr8", "step": 24, "data": b"\x00" * 192, **changes}
        peer.images.publish(Image(**fields))
        flying.wait_for_log(message)
        assert flying.alive
        assert peer.state() == "active"
        assert len(peer.detect(scene()).detections) == 2

    def test_a_broken_camera_does_not_flood_the_log(self, peer, flying):
        for _ in range(30):
            peer.images.publish(Image(height=8, width=8, encoding="bgr8", step=24, data=b"\x00"))
        flying.wait_for_log("corrupt image")
        assert len(peer.detect(scene()).detections) == 2
        assert flying.log.count("corrupt image") == 1

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no model file at"),
            (b"", "cannot read"),
            (b"not an onnx file at all", "cannot read"),
        ],
    )
    def test_models(self, environment, peer, toy, tmp_path, content, message):
        model = tmp_path / "bad.onnx"
        if content is not None:
            model.write_bytes(content)
        with detector_node(environment, {"model": model}) as node:
            node.wait_for_log(message)
            assert "bad.onnx" in node.log
            self.recovers(peer, node, toy)

    def test_a_truncated_model(self, environment, peer, toy, tmp_path):
        model = tmp_path / "cut.onnx"
        model.write_bytes(toy.read_bytes()[:400])
        with detector_node(environment, {"model": model}) as node:
            node.wait_for_log("export it again")
            self.recovers(peer, node, toy)

    def test_a_model_that_is_no_detector(self, environment, peer, toy, tmp_path):
        model = write_toy_detector(tmp_path / "seg.onnx", metadata={"task": "segment"})
        with detector_node(environment, {"model": model}) as node:
            node.wait_for_log("task 'segment'")
            self.recovers(peer, node, toy)

    def test_no_model(self, environment, peer, toy):
        with detector_node(environment, {}) as node:
            node.wait_for_log("no model: set the parameter model")
            self.recovers(peer, node, toy)

    @pytest.mark.parametrize(
        ("name", "value", "message", "good"),
        [
            ("score_threshold", "high", "parameter score_threshold must be a number", 0.5),
            ("score_threshold", "7.0", "parameter score_threshold must be a number", 0.5),
            ("max_det", "-3", "parameter max_det must be a whole number from 1 to 10000", 5),
            ("backend", "cuda9", "backend is 'cuda9'; use one of auto, tensorrt", "auto"),
            ("input_shape", "big", "input_shape is 'big'", "auto"),
            ("tiling", "many", "tiling is 'many'; use none, auto, or ROWSxCOLUMNS", "none"),
            ("classes", "['zebra']", "no class 'zebra'; it has red, green, blue", ["red"]),
        ],
    )
    def test_parameters_at_start(self, environment, peer, toy, name, value, message, good):
        with detector_node(environment, {"model": toy, name: value}) as node:
            node.wait_for_log(message)
            assert peer.state() == "unconfigured"
            assert peer.set_parameter(name, good) == (True, "")
            self.recovers(peer, node, toy)

    def test_parameters_at_run_time(self, peer, flying):
        for name, value, reason in (
            ("score_threshold", 3.0, ""),
            ("score_threshold", "high", ""),
            ("classes", ["zebra"], "no class 'zebra'; it has red, green, blue"),
            ("tiling", "99x99", "use none, auto, or ROWSxCOLUMNS such as 2x3"),
            ("tile_overlap", 0.9, ""),
            ("model", "/elsewhere.onnx", "takes effect when the node is configured"),
        ):
            successful, why = peer.set_parameter(name, value)
            assert not successful
            assert reason in why
        assert len(peer.detect(scene()).detections) == 2

    @staticmethod
    def recovers(peer, node, toy):
        assert node.alive
        assert peer.state() == "unconfigured"
        assert peer.set_parameter("model", str(toy)) == (True, "")
        assert peer.change_state(Transition.TRANSITION_CONFIGURE)
        assert peer.change_state(Transition.TRANSITION_ACTIVATE)
        assert len(peer.detect(scene()).detections) >= 1


class TestParametersInFlight:
    def test_thresholds_classes_and_limits_take_effect_at_once(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}):
            assert len(peer.detect(scene()).detections) == 2
            assert peer.set_parameter("classes", ["red"]) == (True, "")
            assert [d.results[0].hypothesis.class_id for d in peer.detect(scene(), (2, 0)).detections] == [
                "0"
            ]
            assert peer.set_parameter("classes", [""]) == (True, "")
            assert peer.set_parameter("max_det", 1) == (True, "")
            assert len(peer.detect(scene(), (3, 0)).detections) == 1
            assert peer.set_parameter("score_threshold", 0.75) == (True, "")
            assert wait_until(lambda: peer.label_infos[-1].threshold == 0.75)

    def test_single_classes_have_thresholds_of_their_own(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}):
            assert len(peer.detect(scene()).detections) == 2
            assert peer.set_parameter("class_thresholds", ["red=1.0"]) == (True, "")
            assert [d.results[0].hypothesis.class_id for d in peer.detect(scene(), (2, 0)).detections] == [
                "1"
            ]
            for wrong, reason in (
                (["zebra=0.5"], "class_thresholds: the model has no class 'zebra'"),
                (["red"], "class_thresholds holds 'red'; use NAME=SCORE"),
                (["red=much"], "use NAME=SCORE"),
                (["red=7"], "is 7.0, not between 0 and 1"),
            ):
                successful, why = peer.set_parameter("class_thresholds", wrong)
                assert not successful
                assert reason in why
            assert peer.get_parameter("class_thresholds") == ["red=1.0"]

    def test_of_a_set_with_one_wrong_value_nothing_changes(self, environment, peer, toy):
        with detector_node(environment, {"model": toy}):
            peer.detect(scene())
            given = [Parameter("max_det", value=1), Parameter("classes", value=["zebra"])]
            request = SetParametersAtomically.Request(parameters=[p.to_parameter_msg() for p in given])
            result = peer.call(
                SetParametersAtomically, "/yolo_detector/set_parameters_atomically", request
            ).result
            assert not result.successful
            assert "no class 'zebra'" in result.reason
            assert peer.get_parameter("max_det") == 300
            assert len(peer.detect(scene(), (2, 0)).detections) == 2

    def test_tiles_are_switched_on_and_off(self, environment, peer, tmp_path):
        model = write_rectangle_detector(tmp_path / "rectangles.onnx")
        image = np.full((160, 240, 3), GRAY, np.uint8)
        image[70:74, 118:123] = BGR["red"]
        with detector_node(environment, {"model": model}):
            assert len(peer.detect(image).detections) == 0
            assert peer.set_parameter("tiling", "auto") == (True, "")
            message = peer.detect(image, (2, 0))
            np.testing.assert_allclose(boxes_of(message), [(118, 70, 123, 74)], atol=1e-3)
            assert peer.set_parameter("tiling", "none") == (True, "")
            assert len(peer.detect(image, (3, 0)).detections) == 0
