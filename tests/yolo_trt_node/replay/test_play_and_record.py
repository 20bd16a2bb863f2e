"""Playing and recording over DDS, between processes."""

import json
import signal
import subprocess

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from std_msgs.msg import Header
from support.ros import NodeProcess, executable
from yolo_trt_node.node.messages import image_message
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore

FRAMES = 10


@pytest.fixture
def bag(tmp_path):
    with BagWriter(tmp_path / "flight", typestore()) as writer:
        for index in range(FRAMES):
            header = Header(frame_id="camera")
            header.stamp.sec, header.stamp.nanosec = 50, index * 20_000_000
            picture = image_message(header, np.full((1080, 1920, 3), index, np.uint8))
            stamp = 50_000_000_000 + index * 20_000_000
            writer.write("/camera", "sensor_msgs/msg/Image", serialize_message(picture), stamp)
    return tmp_path / "flight"


def test_large_frames_all_arrive_in_order_with_their_stamps_moved_as_one(bag, tmp_path, environment):
    recorder = NodeProcess([executable("record_bag"), str(tmp_path / "copy"), "/camera"], environment)
    try:
        player = NodeProcess(
            [
                executable("play_bag"), str(bag), "--restamp", "--rate", "0.2", "--wait-for-subscribers", "1",
                "--summary", str(tmp_path / "summary.json"),
            ],
            environment,
        )  # fmt: skip
        assert player.wait(30) == 0, player.log
        recorder.wait_for_log("recording /camera")
        assert recorder.stop(signal.SIGINT) == 0, recorder.log
    finally:
        recorder.close()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["messages"] == FRAMES
    with open_bag(bag) as before, open_bag(tmp_path / "copy") as after:
        sent = [read_stamp(data) for _, _, data in before.messages()]
        got = [read_stamp(data) for _, _, data in after.messages()]
    assert [stamp - summary["stamp_shift_ns"] for stamp in got] == sent


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent/bag"], "no readable rosbag2 bag"),
        (["BAG", "--topics", "/other"], "holds none of the topics asked for; it holds /camera"),
        (["BAG", "--wait-for-subscribers", "1", "--wait-timeout", "0.3"], "fewer than 1 subscribers"),
        (["BAG", "--rate", "0"], "--rate must be greater than 0"),
    ],
)
def test_what_cannot_be_played_is_said(bag, environment, arguments, message):
    command = [executable("play_bag"), *(str(bag) if a == "BAG" else a for a in arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode not in (0, None)
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_recorder_into_an_existing_folder_is_refused(tmp_path, environment):
    command = [executable("record_bag"), str(tmp_path), "/camera"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "exists already" in ended.stderr
