"""A recorded stream of compressed video through the player, the node and the recorder, over DDS."""

from __future__ import annotations

import signal

import cv2
import numpy as np
import pytest
from diagnostic_msgs.msg import DiagnosticArray
from support import video
from support.ros import NodeProcess, detector_node, executable, wait_until
from support.toy_detector import paint_cells
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.replay import bag_detect, messages
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore

pytest.importorskip("ffmpeg_image_transport_msgs", reason="ffmpeg_image_transport_msgs is not installed")

FRAMES, GOP = 20, 5
CUT = 2  # packets in front of the first key frame of the recording
STEP_NS = 50_000_000
START_NS = 100_000_000_000
STORE = typestore()


def picture(index: int) -> np.ndarray:
    small = paint_cells(np.zeros((64, 64, 3), np.uint8), [(1 + index % 6, 1 + index % 5, "red")])
    return cv2.resize(small, (128, 128), interpolation=cv2.INTER_NEAREST)


def write_bags(folder) -> None:
    """The stream as packets, in its middle the first key frame; and its decoded frames raw."""
    packets = video.encode([picture(index) for index in range(FRAMES + GOP)], gop=GOP)[GOP - CUT :]
    reader = ImageReader(10**6)
    with BagWriter(folder / "coded", STORE) as coded, BagWriter(folder / "raw", STORE) as raw:
        for number, (_, data) in enumerate(packets[: FRAMES + CUT]):
            stamp = START_NS + number * STEP_NS
            header = messages.header(STORE, stamp, "nose")
            packet = messages.numbered_packet(STORE, header, "libx264", data, (128, 128), number)
            coded.write("/image/ffmpeg", messages.PACKET_TYPE, packet, stamp)
            if number >= CUT:
                message = messages.from_cdr(STORE, messages.PACKET_TYPE, packet)
                ((_, frame),) = reader.read(message, number)
                raw.write("/image", messages.IMAGE_TYPE, messages.image(STORE, header, frame.to_bgr()), stamp)


def boxes_of(bag, topic: str) -> dict[int, list[tuple[float, ...]]]:
    """By stamp, class, score and box of each detection."""
    found = {}
    with open_bag(bag) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        for connection, _, data in reader.messages(wanted):
            message = STORE.deserialize_cdr(data, connection.msgtype)
            found[read_stamp(data)] = [
                (
                    int(d.results[0].hypothesis.class_id),
                    round(d.results[0].hypothesis.score, 4),
                    *(round(value, 2) for value in (d.bbox.center.position.x, d.bbox.center.position.y)),
                    *(round(value, 2) for value in (d.bbox.size_x, d.bbox.size_y)),
                )
                for d in message.detections
            ]
    return found


def counted(statuses: dict[str, dict[str, str]]) -> tuple[int, int, int, int]:
    """Packets that came, images answered, dropped, and unreadable packets, of the last seconds."""
    came, answered = statuses.get("input"), statuses.get("detections")
    if not came or not answered:
        return 0, 0, 0, 0
    seconds = float(came["Duration of window (s)"])
    return (
        int(came["Events in window"]),
        round(float(answered["Actual frequency (Hz)"]) * seconds),
        int(answered["Dropped for newer images"]),
        sum(int(value) for key, value in came.items() if key.startswith("Unreadable")),
    )


def test_every_decoded_frame_is_answered_or_counted_and_has_the_boxes_of_the_raw_one(
    tmp_path, environment, peer, toy
):
    write_bags(tmp_path)
    peer.node.destroy_publisher(peer.images)
    for name in ("coded", "raw"):
        command = [str(tmp_path / name), "--model", str(toy), "-o", str(tmp_path / f"{name}_found")]
        assert bag_detect.main([*command, "--backend", "onnxruntime"]) == 0
    expected = boxes_of(tmp_path / "raw_found", "/image/detections")
    assert len(expected) == FRAMES
    assert all(expected.values()), "each has its box"
    assert boxes_of(tmp_path / "coded_found", "/image/ffmpeg/detections") == expected

    seen: list[tuple[int, int, int, int]] = []

    def look(message: DiagnosticArray) -> None:
        statuses = {
            status.name.rpartition(": ")[2]: {value.key: value.value for value in status.values}
            for status in message.status
        }
        seen.append(counted(statuses))

    peer.node.create_subscription(DiagnosticArray, "/diagnostics", look, 10)
    parameters = {"model": toy, "backend": "onnxruntime", "diagnostic_updater.period": 0.2}
    recorder = NodeProcess([executable("record_bag"), str(tmp_path / "copy"), "/detections"], environment)
    player = None
    try:
        with detector_node(environment, parameters) as node:
            node.wait_for_log("active: listening")
            recorder.wait_for_log("recording /detections")
            player = NodeProcess(
                [executable("play_images"), str(tmp_path / "coded"), "--wait-for-subscribers", "1"],
                environment,
            )
            assert player.wait() == 0, player.log

            def all_accounted_for() -> bool:
                return any(came == FRAMES + CUT == sum(became) for came, *became in seen)

            assert wait_until(all_accounted_for), (seen[-20:], node.log)
            assert "decoding h264; each frame is there at once" in node.log
        assert recorder.stop(signal.SIGINT) == 0, recorder.log
    finally:
        for process in (recorder, player):
            if process is not None:
                process.close()
    answered = boxes_of(tmp_path / "copy", "/detections")
    assert answered, "a busy machine answers few, and counts the others"
    assert all(expected[stamp] == boxes for stamp, boxes in answered.items())
    _, published, dropped, unreadable = next(s for s in seen if s[0] == FRAMES + CUT == sum(s[1:]))
    assert unreadable == CUT
    assert published == len(answered)
    assert published + dropped == FRAMES
