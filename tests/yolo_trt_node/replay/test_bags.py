"""Bags are written and read without loss, and damaged ones are named."""

import numpy as np
import pytest
import yaml
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo
from yolo_trt_node.boxes import Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import Detector
from yolo_trt_node.node.messages import detection_array, image_message, label_info, vision_info
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import (
    STORAGES,
    BagError,
    BagWriter,
    begins_with_stamp,
    is_latched,
    open_bag,
    read_stamp,
    typestore,
    with_stamp,
)
from yolo_trt_node.replay.bags import messages as read_messages


def image(seconds: int, nanoseconds: int) -> Image:
    header = Header(frame_id="camera")
    header.stamp.sec, header.stamp.nanosec = seconds, nanoseconds
    return image_message(header, np.arange(48, dtype=np.uint8).reshape(4, 4, 3))


@pytest.mark.parametrize("storage", STORAGES)
def test_messages_come_back_as_rclpy_wrote_them(tmp_path, storage):
    found = Detections(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.array([3], np.int32)
    )
    detections = detection_array(image(7, 8).header, found)
    with BagWriter(tmp_path / "bag", typestore(), storage) as writer:
        writer.write("/image", "sensor_msgs/msg/Image", serialize_message(image(7, 8)), 1000)
        writer.write("/detections", "vision_msgs/msg/Detection2DArray", serialize_message(detections), 2000)
    with open_bag(tmp_path / "bag") as bag:
        first, second = bag.messages()
    assert deserialize_message(first[2], Image) == image(7, 8)
    assert deserialize_message(second[2], Detection2DArray) == detections
    assert (first[1], second[1]) == (1000, 2000)


def test_a_bag_names_storage_type_and_definitions_as_rosbag2_does(tmp_path):
    with BagWriter(tmp_path / "bag", typestore()) as writer:
        message = serialize_message(Detection2DArray())
        writer.write("/detections", "vision_msgs/msg/Detection2DArray", message, 1)
    assert "storage_identifier: mcap" in (tmp_path / "bag" / "metadata.yaml").read_text()
    with Reader(tmp_path / "bag") as bag:
        (connection,) = bag.connections
    assert connection.msgtype == "vision_msgs/msg/Detection2DArray"
    assert "ObjectHypothesisWithPose" in connection.msgdef.data
    assert connection.digest.endswith("214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968")


@pytest.mark.parametrize("shift", [0, 1, 999_999_999, 5_000_000_000, -1, -1_500_000_000])
def test_stamps_are_replaced_and_nothing_else_changes(shift):
    before = serialize_message(image(100, 600_000_000))
    after = with_stamp(before, 100_600_000_000 + shift)
    assert read_stamp(after) == read_stamp(before) + shift == 100_600_000_000 + shift
    moved = deserialize_message(after, Image)
    moved.header.stamp = image(100, 600_000_000).header.stamp
    assert moved == image(100, 600_000_000)


def test_what_is_latched_stays_latched(tmp_path):
    with BagWriter(tmp_path / "bag", typestore()) as writer:
        writer.add("/kept", "vision_msgs/msg/LabelInfo", latched=True)
        writer.add("/passing", "vision_msgs/msg/LabelInfo")
        for topic in ("/kept", "/passing"):
            writer.write(topic, "vision_msgs/msg/LabelInfo", serialize_message(LabelInfo()), 1)
    with open_bag(tmp_path / "bag") as bag:
        assert {c.topic: is_latched(c) for c in bag.connections} == {"/kept": True, "/passing": False}


def test_humbles_rosbag2_can_read_the_metadata(tmp_path):
    with BagWriter(tmp_path / "bag", typestore()) as writer:
        writer.write("/label_info", "vision_msgs/msg/LabelInfo", serialize_message(LabelInfo()), 1)
    metadata = yaml.safe_load((tmp_path / "bag" / "metadata.yaml").read_text())
    (topic,) = metadata["rosbag2_bagfile_information"]["topics_with_message_count"]
    # Jazzy's own bags have a list here, which Humble refuses.
    assert isinstance(topic["topic_metadata"]["offered_qos_profiles"], str)


def test_a_type_without_definition_is_refused(tmp_path):
    with (
        BagWriter(tmp_path / "bag", typestore()) as writer,
        pytest.raises(BagError, match="definition of my_msgs/msg/Own"),
    ):
        writer.add("/own", "my_msgs/msg/Own")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("sensor_msgs/msg/Image", True),
        ("vision_msgs/msg/Detection2DArray", True),
        ("foxglove_msgs/msg/CompressedVideo", True),
        ("tf2_msgs/msg/TFMessage", False),
        ("rosgraph_msgs/msg/Clock", False),
        ("std_msgs/msg/Empty", False),
        ("my_msgs/msg/Own", False),
    ],
)
def test_headers_are_known_by_type(kind, expected):
    assert begins_with_stamp(typestore(), kind) is expected


def test_a_bag_damaged_in_the_middle_says_so(tmp_path):
    with BagWriter(tmp_path / "bag", typestore()) as writer:
        for index in range(3):
            pixels = np.full((1000, 1000, 3), index, np.uint8)
            large = image_message(image(index, 0).header, pixels)
            writer.write("/image", "sensor_msgs/msg/Image", serialize_message(large), index)
    (file,) = (tmp_path / "bag").glob("*.mcap")
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle + 1_400_000 : middle + 1_600_000] = b"\xff" * 200_000
    file.write_bytes(content)
    seen = []
    with open_bag(tmp_path / "bag") as bag, pytest.raises(BagError, match="damaged after"):
        seen += [time_ns for _, time_ns, _ in read_messages(bag, bag.connections)]


def test_detections_are_what_the_node_publishes():
    found = Detections(
        np.array([[1, 2, 3, 4.5], [10, 20, 30, 40]], np.float32),
        np.array([0.75, 0.5], np.float32),
        np.array([3, 0], np.int32),
    )
    store = typestore()
    header = messages.header(store, 7_000_000_008, "camera")
    data = serialized_detections(header, found)
    assert deserialize_message(data, Detection2DArray) == detection_array(image(7, 8).header, found)


def test_infos_are_what_the_node_publishes(toy):
    card = Detector.load(toy).card
    store = typestore()
    header, same = messages.header(store, 7_000_000_008, "camera"), image(7, 8).header
    data = messages.label_info(store, header, card.names, 0.25)
    assert deserialize_message(data, LabelInfo) == label_info(same, card, 0.25)
    data = messages.vision_info(store, header, "method", "/label_info")
    assert deserialize_message(data, VisionInfo) == vision_info(same, "method", "/label_info")


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
    with pytest.raises(BagError, match="no readable bag"), open_bag(folder):
        pass
