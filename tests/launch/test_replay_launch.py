"""What ``ros2 launch yolo_trt_node replay.launch.py`` does, under the real launch system, with real nodes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import numpy as np
import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with ROS 2, not from PyPI")
pytest.importorskip("onnx", reason="onnx is not installed beside launch_ros")
pytest.importorskip("rosbags", reason="rosbags is not installed beside launch_ros")

from launch import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from support.launching import RUNNER, install_package
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "replay.launch.py"
FRAMES = 20
START_NS = 1_600_000_000_000_000_000
STEP_NS = 100_000_000
STORE = typestore()

EXECUTABLES = {
    "detector_node": "yolo_trt_node.node.start",
    "play_images": "yolo_trt_node.replay.play_images",
    "record_bag": "yolo_trt_node.replay.record_bag",
}


@pytest.fixture
def environment(tmp_path):
    """An installed package that runs this checkout."""
    prefix = tmp_path / "install"
    install_package(
        prefix,
        {
            name: f"#!{sys.executable}\nfrom {module} import main\nmain()\n"
            for name, module in EXECUTABLES.items()
        },
    )
    return {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
        "ROS_LOG_DIR": str(tmp_path / "log"),
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
    }


def make_bag(path: Path, *topics: str) -> Path:
    with BagWriter(path, STORE) as writer:
        for index in range(FRAMES):
            stamp = START_NS + index * STEP_NS
            pixels = paint_cells(np.zeros((64, 64, 3), np.uint8), [(2, 3, "red")])
            for topic in topics:
                data = messages.image(STORE, messages.header(STORE, stamp, "nose"), pixels)
                writer.write(topic, messages.IMAGE_TYPE, data, stamp)
    return path


def start(
    environment: dict[str, str], folder: Path, *arguments: str, stdout: int | IO[str] = subprocess.PIPE
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER, str(LAUNCH_FILE), *arguments],
        cwd=folder,
        env=environment,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=90)
    except subprocess.TimeoutExpired:
        process.terminate()  # launch then ends its children; killed, it would leave them behind
        output, _ = process.communicate(timeout=30)
        raise AssertionError(f"the launch did not end by itself:\n{output}") from None
    return process.returncode, output


def recorded(bag: Path) -> dict[str, list[tuple[int, int]]]:
    """By topic, log times and stamps."""
    found: dict[str, list[tuple[int, int]]] = {}
    with open_bag(bag) as reader:
        for connection, log_ns, data in reader.messages():
            found.setdefault(connection.topic, []).append((log_ns, read_stamp(data)))
    return found


def test_every_argument_is_described_and_has_a_default():
    description = PythonLaunchDescriptionSource(str(LAUNCH_FILE)).get_launch_description(LaunchContext())
    for argument in description.get_launch_arguments():
        assert argument.description.endswith((".", "]")), f"{argument.name}: {argument.description!r}"
        assert argument.default_value is not None, argument.name


def test_a_replay_records_answers_and_pictures_and_ends_with_a_summary(environment, tmp_path):
    make_bag(tmp_path / "flight", "/nose/image_raw")
    write_toy_detector(tmp_path / "toy.onnx")
    status, output = finish(
        start(environment, tmp_path, "bag:=flight", "model:=toy.onnx", "output:=out", "namespace:=uav1")
    )
    assert status == 0, output
    assert f"/nose/image_raw: {FRAMES} frames, " in output, output
    assert f"recorded in {tmp_path / 'out' / 'bag'}" in output
    (summary,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["frames"] == FRAMES
    assert summary["answered"] + summary["dropped"] == FRAMES
    assert summary["answered"] > FRAMES / 2
    assert 0 < summary["age_p50_ms"] <= summary["age_p95_ms"]
    found = recorded(tmp_path / "out" / "bag")
    assert set(found) == {"/uav1/detections", "/uav1/annotated", "/uav1/label_info", "/uav1/vision_info"}
    assert len(found["/uav1/detections"]) == summary["answered"]
    stamps = {START_NS + index * STEP_NS for index in range(FRAMES)}
    for topic in ("/uav1/detections", "/uav1/annotated"):
        assert {stamp for _, stamp in found[topic]} <= stamps
        # The log times are the flight's, so that both bags can be looked at together.
        assert all(0 <= log_ns - stamp < 20e9 for log_ns, stamp in found[topic])


def test_several_cameras_are_answered_each_on_its_own_topic(environment, tmp_path):
    make_bag(tmp_path / "flight", "/front/image", "/down/image", "/unused/image")
    write_toy_detector(tmp_path / "toy.onnx")
    status, output = finish(
        start(
            environment, tmp_path, "bag:=flight", "model:=toy.onnx", "output:=out", "annotated:=false",
            "image_topics:=/front/image,/down/image", "storage:=sqlite3", "rate:=2",
        )
    )  # fmt: skip
    assert status == 0, output
    found = recorded(tmp_path / "out" / "bag")
    assert set(found) == {"/front/image/detections", "/down/image/detections", "/label_info", "/vision_info"}
    summaries = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [s["images"] for s in summaries] == ["/front/image", "/down/image"]
    for summary in summaries:
        assert len(found[summary["detections"]]) == summary["answered"] > 0


def test_ctrl_c_leaves_a_readable_recording_and_a_summary(environment, tmp_path):
    make_bag(tmp_path / "flight", "/nose")
    write_toy_detector(tmp_path / "toy.onnx")
    log = tmp_path / "launch.log"
    arguments = ("bag:=flight", "model:=toy.onnx", "output:=out", "rate:=0.1")
    with log.open("w") as stdout:
        process = start(environment, tmp_path, *arguments, stdout=stdout)
        end = time.monotonic() + 30
        while "recording /detections" not in log.read_text() and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(4)
        process.send_signal(signal.SIGINT)
        finish(process)
    output = log.read_text()
    assert f"recorded in {tmp_path / 'out' / 'bag'}" in output, output
    (summary,) = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert 0 < summary["frames"] < FRAMES
    assert recorded(tmp_path / "out" / "bag")


def test_a_detector_that_cannot_be_configured_ends_the_replay_at_once(environment, tmp_path):
    make_bag(tmp_path / "flight", "/nose")
    status, output = finish(start(environment, tmp_path, "bag:=flight", "model:=nowhere.onnx", "output:=out"))
    assert status == 1
    assert "no model file at" in output
    assert "replay failed: the detector could not be configured" in output


def test_a_detector_that_dies_ends_the_replay(environment, tmp_path):
    make_bag(tmp_path / "flight", "/nose")
    node = tmp_path / "install" / "lib" / "yolo_trt_node" / "detector_node"
    node.write_text("#!/bin/sh\nsleep 1; exit 3\n")
    status, output = finish(start(environment, tmp_path, "bag:=flight", "model:=m.onnx", "output:=out"))
    assert status == 1
    assert "ended before the replay was over" in output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no bag given"),
        (["bag:=nowhere"], "no readable rosbag2 bag"),
        (["bag:=flight", "image_topics:=/tail"], "has no images on /tail; it holds /nose"),
        (["bag:=flight", "rate:=0"], "rate:=0 is no number greater than 0"),
        (["bag:=flight", "start_timeout:=soon"], "start_timeout:=soon is no number"),
        (["bag:=flight", "output:=flight"], "output:=flight exists already"),
        (["bag:=flight", "dds_profile:=nowhere.xml"], "there is no file"),
        (["bag:=flight"], "no model given"),
    ],
)
def test_what_is_missing_or_wrong_is_said(environment, tmp_path, arguments, words):
    make_bag(tmp_path / "flight", "/nose")
    status, output = finish(start(environment, tmp_path, *arguments))
    assert status == 1
    assert words in output
    assert "Traceback" not in output
