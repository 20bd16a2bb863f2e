"""The package that flies imports neither torch nor Ultralytics, and the detector no ROS."""

import subprocess
import sys

import pytest

FORBIDDEN = ("torch", "torchvision", "ultralytics", "torch_pruning", "yolo_compress")


def imported_by(code: str) -> set[str]:
    listing = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('\\n'.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name.split(".")[0] for name in listing.stdout.split()}


@pytest.mark.parametrize(
    "modules",
    [
        "yolo_trt_node.detector, yolo_trt_node.detector.backends.onnx_runtime, yolo_trt_node.drawing",
        "yolo_trt_node.node.detector_node",
        "yolo_trt_node.replay.play_images, yolo_trt_node.replay.record_bag",
    ],
)
def test_neither_torch_nor_ultralytics(modules):
    if "detector_node" in modules:
        pytest.importorskip("rclpy", reason="no ROS 2 on this machine")
    if "replay" in modules:
        pytest.importorskip("rosbags", reason="no rosbags on this machine")
    assert not imported_by(f"import {modules}").intersection(FORBIDDEN)


def test_detecting_in_bags_needs_no_ros():
    pytest.importorskip("rosbags", reason="no rosbags on this machine")
    loaded = imported_by("import yolo_trt_node.replay.bag_detect, yolo_trt_node.replay.bag_labels")
    assert not loaded.intersection({"rclpy", "vision_msgs", "sensor_msgs", "ament_index_python", *FORBIDDEN})


def test_the_detector_needs_no_ros():
    loaded = imported_by("import yolo_trt_node.detector, yolo_trt_node.detector.backends.onnx_runtime")
    assert not loaded.intersection({"rclpy", "vision_msgs", "sensor_msgs", "rcl_interfaces"})
