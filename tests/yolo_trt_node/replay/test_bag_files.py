"""Recordings as people have them: ROS 1, cut short, split, without metadata, packed, empty."""

import shutil

import cv2
import numpy as np
import pytest
from rosbags.rosbag1 import Writer as Ros1Writer
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_detect import main
from yolo_trt_node.replay.bags import STORAGES, BagError, BagWriter, open_bag, typestore
from yolo_trt_node.replay.bags import messages as read_messages

STORE = typestore()
TOPIC, COUNT, SECOND = "/camera/image_raw", 12, 1_000_000_000


def image(index: int) -> bytes:
    head = messages.header(STORE, (index + 1) * SECOND, "camera")
    return messages.image(
        STORE, head, paint_cells(np.zeros((64, 64, 3), np.uint8), [(1, 1 + index % 5, "red")])
    )


def write(bag, indices=range(COUNT), storage="mcap", topic=TOPIC):
    with BagWriter(bag, STORE, storage) as writer:
        writer.add(topic, messages.IMAGE_TYPE)
        for index in indices:
            writer.write(topic, messages.IMAGE_TYPE, image(index), (index + 1) * SECOND)
    return bag


def times(path) -> list[int]:
    with open_bag(path) as bag:
        return [time_ns // SECOND - 1 for _, time_ns, _ in read_messages(bag, bag.connections)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(write_toy_detector(tmp_path_factory.mktemp("model") / "toy.onnx"))


@pytest.mark.parametrize("storage", STORAGES)
def test_a_file_alone_and_a_folder_without_metadata_are_read(tmp_path, storage):
    bag = write(tmp_path / "bag", storage=storage)
    (bag / "metadata.yaml").unlink()
    assert times(bag) == list(range(COUNT))
    (file,) = bag.iterdir()
    assert times(file) == list(range(COUNT))


@pytest.mark.parametrize("storage", STORAGES)
def test_files_of_a_split_recording_are_one(tmp_path, storage):
    bag = tmp_path / "split"
    bag.mkdir()
    for part in range(3):
        made = write(tmp_path / f"part{part}", range(part * 4, part * 4 + 4), storage)
        (file,) = [f for f in made.iterdir() if f.name != "metadata.yaml"]
        shutil.move(file, bag / f"flight_{part}{file.suffix}")
    assert times(bag) == list(range(COUNT))
    with open_bag(bag) as opened:
        (connection,) = opened.connections
        assert (connection.msgcount, opened.message_count) == (COUNT, COUNT)
        assert (opened.start_time, opened.duration) == (SECOND, pytest.approx(11 * SECOND, abs=2))


@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
def test_packed_bags_are_read(tmp_path, mode):
    plugin = StoragePlugin.MCAP if mode == CompressionMode.STORAGE else StoragePlugin.SQLITE3
    writer = Writer(tmp_path / "bag", version=8, storage_plugin=plugin)
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:
        connection = writer.add_connection(TOPIC, messages.IMAGE_TYPE, typestore=STORE)
        for index in range(COUNT):
            writer.write(connection, (index + 1) * SECOND, image(index))
    assert times(tmp_path / "bag") == list(range(COUNT))
    if mode == CompressionMode.FILE:
        (tmp_path / "bag" / "metadata.yaml").unlink()
        with pytest.raises(BagError, match="zstd -d"), open_bag(tmp_path / "bag"):
            pass


@pytest.mark.parametrize("folder", [True, False])
def test_a_cut_mcap_is_read_up_to_the_cut(tmp_path, folder, model, capsys):
    bag = tmp_path / "bag"
    writer = Writer(bag, version=8, storage_plugin=StoragePlugin.MCAP)
    with writer:
        connection = writer.add_connection(TOPIC, messages.IMAGE_TYPE, typestore=STORE)
        for index in range(200):
            writer.write(connection, (index + 1) * SECOND, image(index))
    (file,) = bag.glob("*.mcap")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) * 2 // 3])
    seen = []
    with open_bag(bag if folder else file) as opened, pytest.raises(BagError, match="cut off"):
        seen.extend(time_ns for _, time_ns, _ in read_messages(opened, opened.connections))
    assert seen == [(index + 1) * SECOND for index in range(len(seen))]
    assert 40 < len(seen) < 200
    if folder:
        assert main([str(bag), "--model", model, "-o", str(tmp_path / "found")]) == 1
        assert "mcap recover" in capsys.readouterr().err
        assert len(times(tmp_path / "found")) == len(seen) + 2


@pytest.mark.parametrize("end", [0, 5, 8, 40, 300])
def test_what_is_left_of_an_mcap_without_a_message_is_refused(tmp_path, end):
    (file,) = write(tmp_path / "bag").glob("*.mcap")
    file.write_bytes(file.read_bytes()[:end])
    with pytest.raises(BagError, match="is no readable bag"), open_bag(file):
        pass


def test_ros_1_bags_are_read_as_ros_2s(tmp_path, model, capsys):
    store = get_typestore(Stores.ROS1_NOETIC)
    types = store.types
    bag = tmp_path / "flight.bag"
    with Ros1Writer(bag) as writer:
        image_topic = writer.add_connection(TOPIC, messages.IMAGE_TYPE, typestore=store)
        for index in range(COUNT):
            pixels = paint_cells(np.zeros((64, 64, 3), np.uint8), [(1, 1 + index % 5, "red")])
            time = types["builtin_interfaces/msg/Time"](sec=index + 1, nanosec=0)
            head = types["std_msgs/msg/Header"](seq=index, stamp=time, frame_id="camera")
            made = types[messages.IMAGE_TYPE](head, 64, 64, "bgr8", 0, 192, pixels.reshape(-1))
            data = store.serialize_ros1(made, messages.IMAGE_TYPE)
            writer.write(image_topic, (index + 1) * SECOND, data)
    assert times(bag) == list(range(COUNT))
    with open_bag(bag) as opened:
        for (_, _, data), index in zip(opened.messages(), range(COUNT), strict=True):
            assert data == image(index)
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "found")]) == 0
    assert "12 detections in 12 images" in capsys.readouterr().out
    bag.write_bytes(bag.read_bytes()[:-3000])
    with pytest.raises(BagError, match="rosbag reindex"), open_bag(bag):
        pass


def test_fewer_messages_than_the_bag_says_is_an_error(tmp_path, model, capsys):
    bag = write(tmp_path / "bag", storage="sqlite3")
    metadata = bag / "metadata.yaml"
    metadata.write_text(
        metadata.read_text().replace(f"message_count: {COUNT}", f"message_count: {COUNT + 3}")
    )
    with open_bag(bag) as opened, pytest.raises(BagError, match="holds 15 messages of these topics, but 12"):
        list(read_messages(opened, opened.connections))
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "found")]) == 1
    assert "12 could be read" in capsys.readouterr().err


def test_a_bag_without_a_readable_image_is_an_error(tmp_path, model, capsys):
    write(tmp_path / "empty", range(0))
    assert main([str(tmp_path / "empty"), "--model", model, "-o", str(tmp_path / "a")]) == 1
    with BagWriter(tmp_path / "broken", STORE) as writer:
        head = messages.header(STORE, SECOND, "camera")
        data = messages.compressed_image(STORE, head, "jpeg", b"\xff\xd8\xff")
        writer.write("/image", messages.COMPRESSED_TYPE, data, SECOND)
    assert main([str(tmp_path / "broken"), "--model", model, "-o", str(tmp_path / "b")]) == 1
    assert capsys.readouterr().err.count("not one image of") == 2


def test_depth_is_left_out_with_a_line(tmp_path, model, capsys):
    bag = tmp_path / "bag"
    depth = STORE.types[messages.IMAGE_TYPE](
        header=messages.header(STORE, SECOND, "camera"),
        height=4,
        width=4,
        encoding="16UC1",
        is_bigendian=0,
        step=8,
        data=np.zeros(32, np.uint8),
    )
    png = cv2.imencode(".png", np.zeros((4, 4), np.uint16))[1].tobytes()
    packed = messages.compressed_image(STORE, depth.header, "16UC1; compressedDepth png", png)
    with BagWriter(bag, STORE) as writer:
        for index in range(3):
            at = (index + 1) * SECOND
            writer.write(TOPIC, messages.IMAGE_TYPE, image(index), at)
            raw = bytes(STORE.serialize_cdr(depth, messages.IMAGE_TYPE))
            writer.write("/camera/depth/image_raw", messages.IMAGE_TYPE, raw, at)
            writer.write("/camera/depth/image_raw/compressedDepth", messages.COMPRESSED_TYPE, packed, at)
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "found")]) == 0
    said = capsys.readouterr()
    assert said.err.count("is left out") == 2
    assert "3 detections in 3 images, 0 unreadable" in said.out
    arguments = [str(bag), "--model", model, "-o", str(tmp_path / "none"), "--topics"]
    assert main([*arguments, "/camera/depth/image_raw"]) == 1
    assert "no images but distances" in capsys.readouterr().err
