"""Every live parameter takes effect in both directions while images flow; the node runs in this process."""

import itertools

import numpy as np
import pytest
import rclpy
from rclpy.parameter import Parameter
from std_msgs.msg import Header
from support.ros import wait_until
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.node.detector_node import DetectorNode
from yolo_trt_node.node.messages import image_message
from yolo_trt_node.node_options import NODE_OPTIONS

STAMPS = itertools.count(1)
# Two red ones that overlap by a third, and a green one: boxes of 16 x 24 around cells of 8.
CELLS = [(1, 1, "red"), (2, 1, "red"), (5, 5, "green")]


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    model = write_toy_detector(tmp_path_factory.mktemp("live") / "toy.onnx")
    context = rclpy.Context()
    context.init(domain_id=99)
    given = {"model": str(model), "infer_without_listeners": True, "threads": 1}
    overrides = [Parameter(name, value=value) for name, value in given.items()]
    made = DetectorNode(context=context, parameter_overrides=overrides)
    made.trigger_configure()
    made.trigger_activate()
    made._health.watches([])  # it would take the counts that the tests look at
    yield made
    made.stop()
    made.destroy_node()
    context.try_shutdown()


def change(node, name, value):
    (result,) = node.set_parameters([Parameter(name, value=value)])
    return result


def send(node, count=1):
    """Send images; return what became of them."""
    camera = node._cameras[0]
    camera.statistics.window()
    settled = []

    def done():
        settled.append(camera.statistics.window())
        return sum(w.published + sum(w.skipped.values()) + w.dropped for w in settled) >= count

    pixels = paint_cells(np.full((64, 64, 3), 114, np.uint8), CELLS, network_pixel=1)
    for _ in range(count):
        header = Header(frame_id="camera")
        header.stamp.sec = next(STAMPS)
        camera._on_image(image_message(header, pixels))
    assert wait_until(done)
    return sum(settled[1:], settled[0])


def boxes(node):
    return send(node).boxes


def views(node):
    return len(node._detector.views(640, 640).windows)


def taken(node):
    """Of a burst of images, whether more than its first was taken."""
    return sum(send(node, 5).skipped.values()) < 4


def worked(node):
    return send(node).published == 1


def set_value(name):
    return lambda node: node.get_parameter(name).value


# Name: a value and what is seen then, another value and what is seen then.
CASES = {
    "score_threshold": (0.999999, 3, -1.0, 3, boxes),
    "iou_threshold": (0.1, 2, 0.9, 3, boxes),
    "max_det": (1, 1, 300, 3, boxes),
    "classes": (["green"], 1, [""], 3, boxes),
    "class_thresholds": (["red=1.0"], 1, [""], 3, boxes),
    "tiling": ("2x2", 5, "none", 1, views),
    "max_rate_hz": (0.01, False, 0.0, True, taken),
    "infer_without_listeners": (False, False, True, True, worked),
    "batch_window_ms": (7.0, 0.007, 5.0, 0.005, lambda node: node._worker._window_s()),
    "log_frames": (True, True, False, False, lambda node: node._live().log_frames),
    "class_id": ("name", "name", "number", "number", lambda node: node._detector.options.class_id),
    "multi_label": (True, True, False, False, lambda node: node._detector.options.multi_label),
    "tile_overlap": (0.4, 0.4, 0.2, 0.2, lambda node: node._detector.options.tile_overlap),
}
# What the health thread reads anew each time; test_health sees some of them on /diagnostics.
READ_EACH_TIME = {
    option.name: (other, other, option.default, option.default, set_value(option.name))
    for option in NODE_OPTIONS
    if option.name.startswith("diagnostic")
    for other in [not option.default if isinstance(option.default, bool) else option.default + 1.0]
}


def test_every_live_parameter_is_in_the_table():
    assert {option.name for option in NODE_OPTIONS if option.live} == {*CASES, *READ_EACH_TIME}


@pytest.mark.parametrize("name", [*CASES, *READ_EACH_TIME])
def test_it_takes_effect_at_once_in_both_directions(node, name):
    first, then_first, second, then_second, probe = (CASES | READ_EACH_TIME)[name]
    for _ in range(2):
        assert change(node, name, first).successful
        assert probe(node) == then_first
        assert change(node, name, second).successful
        assert probe(node) == then_second


@pytest.mark.parametrize("value", [1e-300, 0.001])
def test_a_rate_that_silences_the_camera_is_refused(node, value):
    result = change(node, "max_rate_hz", value)
    assert not result.successful
    assert "would silence the cameras" in result.reason
    assert worked(node)


def test_a_dump_that_changes_nothing_is_taken_as_it_is(node):
    """What `ros2 param load` does with a dump of the running node."""
    for option in NODE_OPTIONS:
        result = change(node, option.name, node.get_parameter(option.name).value)
        assert result.successful, f"{option.name}: {result.reason}"
    result = change(node, "threads", 2)
    assert not result.successful
    assert "takes effect when the node is configured" in result.reason


def test_a_node_that_gives_up_says_so_once_and_asks_to_be_started_again(node):
    node._give_up("the GPU is lost")
    node._give_up("and again")
    assert node.given_up == "the GPU is lost"
    node.given_up = ""
