"""Bags are written and read without loss, and damaged ones are named."""

import numpy as np
import pytest
from ament_index_python.packages import get_package_share_directory
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray
from yolo_trt_node.detector import Detections
from yolo_trt_node.node.messages import detection_array, image_message
from yolo_trt_node.replay.bags import BagError, BagWriter, open_bag, read_stamp, shift_stamp, typestore
from yolo_trt_node.replay.record_bag import vision_msgs_definitions


def image(seconds: int, nanoseconds: int) -> Image:
    header = Header(frame_id="camera")
    header.stamp.sec, header.stamp.nanosec = seconds, nanoseconds
    return image_message(header, np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


def test_messages_come_back_as_rclpy_wrote_them(tmp_path):
    found = Detections(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([3], np.int32)
    )
    detections = detection_array(image(7, 8).header, found)
    with BagWriter(tmp_path / "bag", typestore(vision_msgs=vision_msgs_definitions())) as writer:
        writer.write("/image", "sensor_msgs/msg/Image", serialize_message(image(7, 8)), 1000)
        writer.write("/detections", "vision_msgs/msg/Detection2DArray", serialize_message(detections), 2000)
    with open_bag(tmp_path / "bag") as bag:
        first, second = bag.messages()
    assert deserialize_message(first[2], Image) == image(7, 8)
    assert deserialize_message(second[2], Detection2DArray) == detections
    assert (first[1], second[1]) == (1000, 2000)


def test_a_bag_names_storage_type_and_definitions_as_rosbag2_does(tmp_path):
    with BagWriter(tmp_path / "bag", typestore(vision_msgs=vision_msgs_definitions())) as writer:
        message = serialize_message(Detection2DArray())
        writer.write("/detections", "vision_msgs/msg/Detection2DArray", message, 1)
    assert "storage_identifier: mcap" in (tmp_path / "bag" / "metadata.yaml").read_text()
    with Reader(tmp_path / "bag") as bag:
        (connection,) = bag.connections
    assert connection.msgtype == "vision_msgs/msg/Detection2DArray"
    assert "ObjectHypothesisWithPose" in connection.msgdef.data
    assert connection.digest.endswith("214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968")


@pytest.mark.parametrize("shift", [0, 1, 999_999_999, 5_000_000_000, -1, -1_500_000_000])
def test_stamps_move_by_whole_nanoseconds_and_nothing_else_changes(shift):
    before = serialize_message(image(100, 600_000_000))
    after = shift_stamp(before, shift)
    assert read_stamp(after) == read_stamp(before) + shift == 100_600_000_000 + shift
    moved = deserialize_message(after, Image)
    moved.header.stamp = image(100, 600_000_000).header.stamp
    assert moved == image(100, 600_000_000)


def test_an_existing_bag_is_never_overwritten(tmp_path):
    with pytest.raises(BagError, match="exists already"):
        BagWriter(tmp_path, typestore())


@pytest.mark.parametrize("content", [None, {}, {"metadata.yaml": "nonsense"}])
def test_what_is_no_bag_is_named(tmp_path, content):
    folder = tmp_path / "bag"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with pytest.raises(BagError, match="no readable rosbag2 bag"), open_bag(folder):
        pass


def test_definitions_come_from_the_package_that_ros_uses():
    assert str(vision_msgs_definitions()).startswith(get_package_share_directory("vision_msgs"))
