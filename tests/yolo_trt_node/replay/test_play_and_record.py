"""Playing and recording over DDS, between processes."""

import json
import signal
import subprocess
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosbags.typesys import get_types_from_msg
from std_msgs.msg import Header
from support.ros import NodeProcess, executable, wait_until
from yolo_trt_node.node.messages import image_message
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore
from yolo_trt_node.replay.play_images import SimulatedClock, restamped

FRAMES = 10
START_NS = 50_000_000_000
STEP_NS = 20_000_000
STORE = typestore()


def transforms(stamp_ns: int) -> bytes:
    """A TFMessage of one transform."""
    types = STORE.types
    zero = types["geometry_msgs/msg/Vector3"](x=0.0, y=0.0, z=0.0)
    turn = types["geometry_msgs/msg/Quaternion"](x=0.0, y=0.0, z=0.0, w=1.0)
    transform = types["geometry_msgs/msg/TransformStamped"](
        header=messages.header(STORE, stamp_ns, "map"),
        child_frame_id="camera",
        transform=types["geometry_msgs/msg/Transform"](translation=zero, rotation=turn),
    )
    kind = "tf2_msgs/msg/TFMessage"
    return bytes(STORE.serialize_cdr(types[kind](transforms=[transform]), kind))


@pytest.fixture
def bag(tmp_path):
    with BagWriter(tmp_path / "flight", STORE) as writer:
        for index in range(FRAMES):
            header = Header(frame_id="camera")
            header.stamp.sec, header.stamp.nanosec = 50, index * STEP_NS
            picture = image_message(header, np.full((1080, 1920, 3), index, np.uint8))
            stamp = START_NS + index * STEP_NS
            writer.write("/camera", "sensor_msgs/msg/Image", serialize_message(picture), stamp)
            writer.write("/tf", "tf2_msgs/msg/TFMessage", transforms(stamp), stamp)
    return tmp_path / "flight"


class Replay:
    """A recorder, and a player that waits for it."""

    def __init__(self, folder: Path, environment: dict[str, str], topic: str, *options: str) -> None:
        self.folder = folder
        self._environment = environment
        command = [executable("record_bag"), str(folder / "copy"), topic, *options]
        self.recorder = NodeProcess(command, environment)
        self.player: NodeProcess | None = None

    def play(self, *arguments: str) -> NodeProcess:
        command = [executable("play_images"), *arguments, "--wait-for-subscribers", "1"]
        self.player = NodeProcess(
            [*command, "--summary", str(self.folder / "summary.json")], self._environment
        )
        return self.player

    def stop(self) -> list[tuple[int, int]]:
        """Stop the recorder; return log time and stamp of what it has."""
        assert self.recorder.stop(signal.SIGINT) == 0, self.recorder.log
        with open_bag(self.folder / "copy") as copy:
            return [(log_ns, read_stamp(data)) for _, log_ns, data in copy.messages()]

    @property
    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())

    def close(self) -> None:
        for process in (self.player, self.recorder):
            if process is not None:
                process.close()


@pytest.fixture
def replay(tmp_path, environment):
    started = []

    def start(topic: str, *options: str) -> Replay:
        started.append(Replay(tmp_path, environment, topic, *options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_large_frames_all_arrive_in_order_as_if_they_were_taken_now(bag, replay):
    flight = replay("/camera")
    began_ns = time.time_ns()
    player = flight.play(str(bag), "--restamp", "--rate", "0.2")
    assert player.wait(30) == 0, player.log
    recorded = flight.stop()
    assert len(recorded) == flight.summary["frames"] == FRAMES
    published = flight.summary["published"]["/camera"]
    assert [source for source, _, _ in published] == [START_NS + i * STEP_NS for i in range(FRAMES)]
    stamps = [stamp for _, stamp in recorded]
    assert stamps == [stamp for _, stamp, _ in published]
    # At a fifth of the speed the stamps lie five times as far apart: each is the moment of its publication.
    assert np.diff(stamps).tolist() == [5 * STEP_NS] * (FRAMES - 1)
    assert began_ns < stamps[0] < published[0][2]


def test_with_a_clock_recordings_lie_beside_their_images_in_time(bag, replay, tmp_path):
    arrivals = tmp_path / "arrivals.json"
    ros = ["--ros-args", "-p", "use_sim_time:=true"]
    flight = replay("/camera", "--summary", str(arrivals), *ros)
    player = flight.play(str(bag), "--clock", "--rate", "0.2")
    assert player.wait(30) == 0, player.log
    recorded = flight.stop()
    assert [stamp for _, stamp in recorded] == [START_NS + i * STEP_NS for i in range(FRAMES)]
    # The flight's time goes on while the messages travel; before its start nothing is logged.
    end_ns = START_NS + FRAMES * STEP_NS + 5_000_000_000
    assert all(stamp <= log_ns < end_ns for log_ns, stamp in recorded)
    sent = {stamp: wall for _, stamp, wall in flight.summary["published"]["/camera"]}
    arrived = json.loads(arrivals.read_text())["arrivals"]["/camera"]
    assert [stamp for stamp, _ in arrived] == [stamp for _, stamp in recorded]
    assert all(0 < wall - sent[stamp] < 20_000_000_000 for stamp, wall in arrived)


def test_a_folder_loops_as_a_live_compressed_camera_until_it_is_stopped(tmp_path, replay):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(3):
        cv2.imwrite(str(pictures / f"{index}.jpg"), np.full((48, 64, 3), index, np.uint8))
    flight = replay("/nose/compressed")
    player = flight.play(str(pictures), "--fps", "50", "--loop", "--compressed", "--topic", "/nose")
    flight.recorder.wait_for_log("recording /nose/compressed")
    time.sleep(3.0)
    assert player.stop(signal.SIGTERM) == 130
    recorded = flight.stop()
    stamps = [stamp for _, stamp in recorded]
    assert len(stamps) > 2 * 3
    # At the camera's rate, also from the last picture to the first again.
    assert min(np.diff(stamps)) >= STEP_NS
    assert all(abs(log_ns - stamp) < 20_000_000_000 for log_ns, stamp in recorded)
    assert flight.summary["frames"] >= len(stamps)


def test_what_is_not_installed_is_left_out_and_alone_is_refused(tmp_path, environment):
    store = typestore()
    store.register(get_types_from_msg("int32 value", "nowhere_msgs/msg/Own"))
    with BagWriter(tmp_path / "flight", store) as writer:
        header = messages.header(store, START_NS, "camera")
        picture = messages.image(store, header, np.zeros((4, 4, 3), np.uint8))
        writer.write("/camera", messages.IMAGE_TYPE, picture, START_NS)
        writer.write("/own", "nowhere_msgs/msg/Own", b"\x00\x01\x00\x00\x07\x00\x00\x00", START_NS)
    command = [executable("play_images"), str(tmp_path / "flight"), "--topics", "/own"]

    def play(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *more], env=environment, capture_output=True, text=True, timeout=30, check=False
        )

    both = play("/camera")
    assert both.returncode == 0, both.stderr
    assert "/own is left out: the message type nowhere_msgs/msg/Own is not installed" in both.stderr
    alone = play()
    assert alone.returncode == 1
    assert "none of /own can be played here" in alone.stderr


def test_a_player_waits_for_both_ends_of_a_topic(bag, environment, peer):
    command = [executable("play_images"), str(bag), "--rate", "50", "--wait-for", "/answers"]
    player = NodeProcess(command, environment)
    try:
        publisher = peer.node.create_publisher(Header, "/answers", 1)
        assert not wait_until(lambda: not player.alive, 3.0), player.log
        subscription = peer.node.create_subscription(Header, "/answers", lambda _: None, 1)
        assert player.wait(20) == 0, player.log
        peer.node.destroy_subscription(subscription)
        peer.node.destroy_publisher(publisher)
    finally:
        player.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/nonexistent/bag"], "there is no /nonexistent/bag"),
        (["BAG", "--topics", "/other"], "has no /other; it holds /camera (sensor_msgs/msg/Image)"),
        (["BAG", "--wait-for-subscribers", "1", "--wait-timeout", "0.3"], "/camera has 0 of 1 subscribers"),
        (["BAG", "--wait-for", "/answers", "--wait-timeout", "0.3"], "/answers has no publisher"),
        (["BAG", "--rate", "0"], "--rate and --fps must be greater than 0"),
    ],
)
def test_what_cannot_be_played_is_said(bag, environment, arguments, message):
    command = [executable("play_images"), *(str(bag) if a == "BAG" else a for a in arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode not in (0, None)
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_recorder_into_an_existing_folder_is_refused(tmp_path, environment):
    command = [executable("record_bag"), str(tmp_path), "/camera"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 1
    assert "exists already" in ended.stderr


def test_transforms_move_with_the_images():
    kind = "tf2_msgs/msg/TFMessage"
    moved = restamped(STORE, kind, transforms(7_000_000_000), 5_000_000_000, 100_000_000_001, 2.0)
    assert moved == transforms(101_000_000_001)


def test_messages_without_stamps_stay_as_they_are():
    kind = "std_msgs/msg/Empty"
    empty = bytes(STORE.serialize_cdr(STORE.types[kind](), kind))
    assert restamped(STORE, kind, empty, 0, 1, 1.0) == empty


class FakeNode:
    """Keeps what is published, in seconds."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def create_publisher(self, *_: object) -> "FakeNode":
        return self

    def publish(self, message) -> None:
        self.times.append(message.clock.sec + message.clock.nanosec / 1e9)


def test_the_clock_goes_at_its_rate_and_back_only_for_a_new_pass():
    node = FakeNode()
    clock = SimulatedClock(node)
    clock.set(5_000_000_000, start=100.0, rate=2.0)
    for moment in (99.0, 100.0, 101.0, 100.5, 102.0):
        clock.tick(moment)
    clock.set(5_000_000_000, start=103.0, rate=2.0)
    clock.tick(103.0)
    assert node.times == [5.0, 5.0, 7.0, 9.0, 5.0]
