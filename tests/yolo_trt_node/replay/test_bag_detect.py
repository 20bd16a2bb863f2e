"""Every image of a bag is answered, whatever happens on the way."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from support import video
from support.toy_detector import expected_box, paint_cells, write_toy_detector
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import Detector
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.node import parameters
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_detect import main
from yolo_trt_node.replay.bag_images import read_pictures
from yolo_trt_node.replay.bags import STORAGES, BagWriter, is_latched, open_bag, typestore
from yolo_trt_node.replay.journal import Journal
from yolo_trt_node.tracking import Tracker

STORE = typestore()
SECOND = 1_000_000_000
CLASSES = ("red", "green", "blue")


def picture(index: int) -> np.ndarray:
    """A 64 x 64 image with one cell, whose place and class tell the index."""
    return paint_cells(np.zeros((64, 64, 3), np.uint8), [(1 + index % 6, 1 + index % 5, CLASSES[index % 3])])


def header(index: int):
    return messages.header(STORE, (100 + index) * SECOND + index, "nose")


def raw(index: int) -> tuple[str, bytes]:
    return messages.IMAGE_TYPE, messages.image(STORE, header(index), picture(index))


def png(index: int) -> tuple[str, bytes]:
    data = cv2.imencode(".png", picture(index))[1].tobytes()
    return messages.COMPRESSED_TYPE, messages.compressed_image(STORE, header(index), "png", data)


def write(bag: Path, topics: dict[str, object], frames: int, storage: str = "mcap") -> Path:
    """A bag of some frames of each topic, by functions that make one; logged 0.25 s after the stamps."""
    with BagWriter(bag, STORE, storage) as writer:
        for index in range(frames):
            for topic, make in topics.items():
                kind, data = make(index)
                writer.write(topic, kind, data, (100 + index) * SECOND + index + SECOND // 4)
    return bag


def read(bag: Path, topic: str) -> list:
    """Log time and message of a topic."""
    with open_bag(bag) as reader:
        wanted = [c for c in reader.connections if c.topic == topic]
        if not wanted:
            return []
        return [(t, STORE.deserialize_cdr(data, c.msgtype)) for c, t, data in reader.messages(wanted)]


def content(bag: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in bag.iterdir()}


def assert_answered(answers: list, frames: int) -> None:
    assert len(answers) == frames
    for index, (log_ns, message) in enumerate(answers):
        assert log_ns == (100 + index) * SECOND + index + SECOND // 4
        assert message.header == header(index)
        (detection,) = message.detections
        assert detection.header == header(index)
        assert detection.results[0].hypothesis.class_id == str(index % 3)
        x1, y1, x2, y2 = expected_box(1 + index % 6, 1 + index % 5)
        center = detection.bbox.center.position
        assert (center.x, center.y) == pytest.approx(((x1 + x2) / 2, (y1 + y2) / 2), abs=0.01)


@pytest.fixture
def model(tmp_path):
    return str(write_toy_detector(tmp_path / "toy.onnx"))


@pytest.fixture
def flight(tmp_path):
    return str(write(tmp_path / "flight", {"/nose": raw}, 9))


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("batch", [1, 4])
def test_every_image_is_answered_with_its_header_and_log_time(tmp_path, model, storage, batch):
    bag = write(tmp_path / "flight", {"/nose": raw}, 9, storage)
    output = tmp_path / "out"
    arguments = [str(bag), "--model", model, "-o", str(output), "--storage", storage]
    assert main([*arguments, "--max-batch", str(batch)]) == 0
    assert f"storage_identifier: {storage}" in (output / "metadata.yaml").read_text()
    assert_answered(read(output, "/nose/detections"), 9)


def test_several_cameras_raw_and_compressed_have_their_own_topics(tmp_path, model, capsys):
    bag = write(tmp_path / "flight", {"/front/image": raw, "/down/image/compressed": png}, 5)
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "out")]) == 0
    for topic in ("/front/image/detections", "/down/image/compressed/detections"):
        assert_answered(read(tmp_path / "out", topic), 5)
    assert "10 detections in 10 images, 0 unreadable" in capsys.readouterr().out


def test_of_twins_the_raw_one_is_taken_unless_asked_for(tmp_path, model):
    bag = write(tmp_path / "flight", {"/nose": raw, "/nose/compressed": png}, 2)
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "raw")]) == 0
    only = ["--topics", "/nose/compressed"]
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "small"), *only]) == 0
    assert len(read(tmp_path / "raw", "/nose/detections")) == 2
    assert not read(tmp_path / "raw", "/nose/compressed/detections")
    assert_answered(read(tmp_path / "small", "/nose/compressed/detections"), 2)


def test_class_names_and_model_come_along_for_latecomers(tmp_path, model, flight):
    assert main([flight, "--model", model, "-o", str(tmp_path / "out")]) == 0
    ((_, labels),) = read(tmp_path / "out", "/label_info")
    ((_, info),) = read(tmp_path / "out", "/vision_info")
    assert [(c.class_id, c.class_name) for c in labels.class_map] == list(enumerate(CLASSES))
    assert labels.threshold == pytest.approx(0.5)
    assert info.method.startswith("toy.onnx")
    with open_bag(tmp_path / "out") as bag:
        assert {c.topic for c in bag.connections if is_latched(c)} == {"/label_info", "/vision_info"}


def test_images_that_cannot_be_read_are_counted_and_the_others_answered(tmp_path, model, capsys):
    def some(index: int) -> tuple[str, bytes]:
        kind, data = png(index)
        if index == 3:  # cut short
            head = messages.header(STORE, 1, "nose")
            return kind, messages.compressed_image(STORE, head, "png", data[100:140])
        return kind, data[:30] if index == 5 else data

    bag = write(tmp_path / "flight", {"/nose": some}, 8)
    assert main([str(bag), "--model", model, "-o", str(tmp_path / "out"), "--max-batch", "3"]) == 0
    said = capsys.readouterr().out
    assert "6 detections in 6 images, 2 unreadable" in said
    assert "/nose: 1 unreadable: " in said
    assert len(read(tmp_path / "out", "/nose/detections")) == 6


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    tmp_path, model, flight, monkeypatch, capsys, storage, stop_at
):
    arguments = [flight, "--model", model, "--max-batch", "2", "--storage", storage]
    (tmp_path / "a").mkdir()
    assert main([*arguments, "--threads", "3", "-o", str(tmp_path / "a" / "out")]) == 0
    arguments += ["--threads", "1"]  # one detector: its calls come in the order of the images
    detect, calls, stopped = Detector.detect, [], []

    def interrupted(self, images):
        calls.append(len(images))
        if len(calls) - 1 == stop_at and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return detect(self, images)

    output = tmp_path / "b" / "out"
    monkeypatch.setattr(Detector, "detect", interrupted)
    assert main([*arguments, "-o", str(output)]) == 130
    assert not output.exists()
    assert "the same command goes on" in capsys.readouterr().err
    calls.clear()
    assert main([*arguments, "-o", str(output)]) == 0
    assert calls == [2, 2, 2, 2, 1][stop_at:]
    assert content(output) == content(tmp_path / "a" / "out")
    assert [path.name for path in output.parent.iterdir()] == ["out"]


def kept_answers(work: Path, copy: Path) -> int:
    """How many answers a run has in safety; it locks its journal, so a copy is read."""
    shutil.rmtree(copy, ignore_errors=True)
    try:
        shutil.copytree(work, copy)
        with closing(sqlite3.connect(copy / "answers.sqlite3")) as journal:
            return journal.execute("SELECT count(*) FROM answers").fetchone()[0]
    except (OSError, shutil.Error, sqlite3.Error):
        return 0


def test_a_killed_run_loses_little_and_gives_the_same_bytes(tmp_path):
    model = str(write_toy_detector(tmp_path / "toy.onnx", size=(640, 640)))

    def large(index: int) -> tuple[str, bytes]:
        pixels = np.zeros((640, 640, 3), np.uint8)
        pixels[:64, :64] = picture(index)
        return messages.IMAGE_TYPE, messages.image(STORE, header(index), pixels)

    bag = write(tmp_path / "flight", {"/nose": large}, 40)
    arguments = [str(bag), "--model", model, "--tiling", "4x4", "--threads", "1"]
    output, work = tmp_path / "out", tmp_path / "out.unfinished"
    command = [sys.executable, "-m", "yolo_trt_node.replay.bag_detect", *arguments, "-o", str(output)]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while not kept_answers(work, tmp_path / "copy") and time.monotonic() < end and killed.poll() is None:
            time.sleep(0.02)
        assert killed.poll() is None, "it ended before it could be killed"
    finally:
        killed.kill()
        killed.wait()
    assert not output.exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    assert "going on after" in again.stderr
    assert main([*arguments, "-o", str(tmp_path / "whole" / "out")]) == 0
    assert content(output) == content(tmp_path / "whole" / "out")


def test_sigterm_keeps_what_was_answered(tmp_path, model, flight, monkeypatch):
    detect, calls = Detector.detect, []

    def terminated(self, images):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGTERM)
        return detect(self, images)

    monkeypatch.setattr(Detector, "detect", terminated)
    arguments = [flight, "--model", model, "-o", str(tmp_path / "out"), "--threads", "1"]
    assert main(arguments) == 130
    calls[:] = [1] * 3  # it does not happen again
    assert main(arguments) == 0
    assert 0 < len(calls) - 3 < 9
    assert_answered(read(tmp_path / "out", "/nose/detections"), 9)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (["--score-threshold", "0.9"], "options"),
        (["--topics", "/nose"], None),
        (["--model", "OTHER"], "model"),
        (["BAG"], "bag, topics"),
    ],
)
def test_an_unfinished_run_is_not_gone_on_with_by_another(
    tmp_path, model, flight, monkeypatch, capsys, change, word
):
    def interrupted(self, images):
        raise KeyboardInterrupt

    output = ["-o", str(tmp_path / "out")]
    with monkeypatch.context() as patch:
        patch.setattr(Detector, "detect", interrupted)
        assert main([flight, "--model", model, *output]) == 130
    arguments = [flight, "--model", model, *output]
    if change == ["BAG"]:
        arguments[0] = str(write(tmp_path / "other", {"/tail": raw}, 2))
    elif "OTHER" in change:
        arguments[2] = str(write_toy_detector(tmp_path / "other.onnx", size=(128, 128)))
    else:
        arguments += change
    assert main(arguments) == (1 if word else 0)
    if word:
        assert f"was begun with another {word}:" in capsys.readouterr().err


def test_two_runs_cannot_write_one_output(tmp_path, model, flight, monkeypatch, capsys):
    arguments = [flight, "--model", model, "-o", str(tmp_path / "out"), "--threads", "1"]
    detect, tried = Detector.detect, []

    def meanwhile(self, images):
        if not tried:
            command = [sys.executable, "-m", "yolo_trt_node.replay.bag_detect", *arguments]
            tried.append(subprocess.run(command, capture_output=True, text=True, timeout=60, check=False))
        return detect(self, images)

    monkeypatch.setattr(Detector, "detect", meanwhile)
    assert main(arguments) == 0
    assert tried[0].returncode == 1
    assert "another bag_detect works in" in tried[0].stderr
    assert_answered(read(tmp_path / "out", "/nose/detections"), 9)


def test_an_existing_output_is_left_alone(tmp_path, model, flight, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    assert main([flight, "--model", model, "-o", str(tmp_path / "out")]) == 1
    assert "exists already; name another with -o" in capsys.readouterr().err
    assert content(tmp_path / "out") == {"mine": b"precious"}


def test_of_a_damaged_bag_the_readable_part_is_answered(tmp_path, model, capsys):
    def large(index: int) -> tuple[str, bytes]:
        pixels = np.zeros((640, 640, 3), np.uint8)
        pixels[:64, :64] = picture(index)
        return messages.IMAGE_TYPE, messages.image(STORE, header(index), pixels)

    bag = write(tmp_path / "flight", {"/nose": large}, 5)
    (file,) = bag.glob("*.mcap")
    damaged = bytearray(file.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 700_000] = b"\xff" * 700_000
    file.write_bytes(damaged)
    arguments = [str(bag), "--model", model, "-o", str(tmp_path / "out"), "--max-batch", "4"]
    assert main(arguments) == 1
    assert "is damaged after" in capsys.readouterr().err
    assert 0 < len(read(tmp_path / "out", "/nose/detections")) < 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere", "--model", "MODEL"], "no readable bag"),
        (["FLIGHT", "--model", "nowhere.onnx"], "nowhere.onnx"),
        (["FLIGHT", "--model", "MODEL", "--topics", "/tail"], "has no images on /tail; it holds /nose"),
        (["FLIGHT", "--model", "MODEL", "--max-det", "0"], "max_det is 0"),
        (["FLIGHT", "--model", "MODEL", "--classes", "zebra"], "zebra"),
    ],
)
def test_what_cannot_be_done_is_said(tmp_path, monkeypatch, model, flight, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    names = {"MODEL": model, "FLIGHT": flight}
    assert main([names.get(a, a) for a in arguments]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "flight_detections").exists()


PARAMETERS = """\
/**:
  ros__parameters:
    model: MODEL
    classes: [red, green]
    class_thresholds: ["green=0.3"]
    score_threshold: 0.2
    tiling: 2x2
    tracker: true
    tracker_min_hits: 1
    cameras: [nose]
    diagnostics.min_rate_hz: 5.0
"""


def test_the_parameter_file_of_a_node_gives_that_nodes_boxes_and_ids(tmp_path, model):
    """The node's own path from the file to the message, but for DDS, is held against the bag's messages."""
    file = tmp_path / "params.yaml"
    file.write_text(PARAMETERS.replace("MODEL", model))
    bag = write(tmp_path / "flight", {"/nose": raw}, 7)

    assert main([str(bag), "--params-file", str(file), "-o", str(tmp_path / "out"), "--max-batch", "3"]) == 0

    context = rclpy.Context()
    context.init(args=["--ros-args", "--params-file", str(file)])
    node = rclpy.create_node("yolo_detector", context=context)
    try:
        assert parameters.declare(node) == {}
        settings = parameters.read_settings(parameters.values(node))
    finally:
        node.destroy_node()
        context.try_shutdown()
    assert settings.tracker is not None
    detector = Detector.load(settings.node.model, settings.detector)
    tracker = Tracker(settings.tracker)
    expected = []
    for index in range(7):
        (found,) = detector.detect([picture(index)])
        found = replace(found, track_ids=tracker.update(found, picture(index), 100.0 + index + index * 1e-9))
        expected.append(serialized_detections(header(index), found))
    with open_bag(tmp_path / "out") as reader:
        wanted = [c for c in reader.connections if c.topic == "/nose/detections"]
        written = [bytes(data) for _, _, data in reader.messages(wanted)]
    assert written == expected
    ids = [d.id for _, m in read(tmp_path / "out", "/nose/detections") for d in m.detections]
    assert len(ids) == 5  # two of seven are blue
    assert all(ids)


def test_tracks_go_on_where_a_run_was_broken_off(tmp_path, model, flight, monkeypatch):
    whole, broken = tmp_path / "whole" / "out", tmp_path / "broken" / "out"
    whole.parent.mkdir()
    broken.parent.mkdir()
    arguments = [flight, "--model", model, "--tracker", "--tracker-min-hits", "1", "--max-batch", "2"]
    assert main([*arguments, "-o", str(whole)]) == 0
    add = Journal.add

    def stop_after_four(journal, answers):
        add(journal, answers)
        if journal.count >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stop_after_four)
        assert main([*arguments, "-o", str(broken)]) == 130
    assert main([*arguments, "-o", str(broken)]) == 0

    assert content(broken) == content(whole)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/**: {ros__parameters: {tilling: 2x2}}", "no parameter tilling; did you mean tiling"),
        ("/uav1/eyes: {ros__parameters: {tiling: 2x2}}", "parameters for /uav1/eyes"),
        ("/**: {ros__parameters: {max_det: 5}}", "no model"),
    ],
)
def test_a_parameter_file_that_does_not_fit_is_one_line(tmp_path, flight, capsys, text, told):
    file = tmp_path / "params.yaml"
    file.write_text(text)
    assert main([flight, "--params-file", str(file), "-o", str(tmp_path / "out")]) == 1
    assert told in capsys.readouterr().err


def thermal(index: int) -> tuple[str, bytes]:
    """A 16-bit image in a narrow range of counts that wanders."""
    counts = 29_000 + 40 * index + 3 * picture(index)[..., 2].astype(np.uint16)
    message = STORE.types[messages.IMAGE_TYPE](
        header=header(index),
        height=64,
        width=64,
        encoding="16UC1",
        is_bigendian=0,
        step=128,
        data=counts.view(np.uint8).reshape(-1),
    )
    return messages.IMAGE_TYPE, bytes(STORE.serialize_cdr(message, messages.IMAGE_TYPE))


def frames_of(bag: Path, skip: int) -> list:
    with open_bag(bag) as opened:
        readers = {c.topic: ImageReader(10**6) for c in opened.connections}
        return list(read_pictures(STORE, opened, opened.connections, skip, readers, []))


def test_gone_on_half_way_a_thermal_range_is_what_it_would_have_been(tmp_path):
    bag = write(tmp_path / "bag", {"/thermal/image_raw": thermal}, 8)
    whole, rest = frames_of(bag, 0), frames_of(bag, 5)
    assert [p.log_ns for p in rest] == [p.log_ns for p in whole[5:]]
    for one, other in zip(rest, whole[5:], strict=True):
        np.testing.assert_array_equal(one.frame.pixels, other.frame.pixels)


MAKERS = {
    messages.COMPRESSED_TYPE: lambda head, index, data: {"header": head, "format": "h264"},
    messages.FOXGLOVE_VIDEO_TYPE: lambda head, index, data: {
        "timestamp": head.stamp,
        "frame_id": head.frame_id,
        "format": "h264",
    },
    messages.PACKET_TYPE: lambda head, index, data: {
        "header": head,
        "width": 96,
        "height": 64,
        "encoding": "h264",
        "pts": index,
        "flags": 0,
        "is_bigendian": False,
    },
}


@pytest.mark.parametrize("kind", MAKERS)
def test_compressed_video_is_answered_as_its_decoded_frames_are(tmp_path, model, kind):
    pictures = [
        cv2.resize(picture(index), (128, 128), interpolation=cv2.INTER_NEAREST) for index in range(12)
    ]
    packets = video.encode(pictures, gop=6)
    with BagWriter(tmp_path / "coded", STORE) as writer:
        for index, data in packets:
            fields = MAKERS[kind](header(index), index, data)
            message = STORE.types[kind](**fields, data=np.frombuffer(data, np.uint8))
            writer.write("/video", kind, bytes(STORE.serialize_cdr(message, kind)), (100 + index) * SECOND)
    decoded = frames_of(tmp_path / "coded", 0)
    assert len(decoded) == len(pictures)
    # Another start in the middle of the stream gives the same.
    np.testing.assert_array_equal(frames_of(tmp_path / "coded", 8)[0].frame.pixels, decoded[8].frame.pixels)

    def raw_frame(index: int) -> tuple[str, bytes]:
        return messages.IMAGE_TYPE, messages.image(STORE, header(index), decoded[index].frame.to_bgr())

    write(tmp_path / "raw", {"/video": raw_frame}, len(pictures))
    for name in ("coded", "raw"):
        assert main([str(tmp_path / name), "--model", str(model), "-o", str(tmp_path / f"{name}_found")]) == 0
    found = []
    for name in ("coded", "raw"):
        with open_bag(tmp_path / f"{name}_found") as bag:
            found.append([bytes(data) for c, _, data in bag.messages() if c.topic == "/video/detections"])
    assert found[0] == found[1]
    assert len(found[0]) == len(pictures)
    assert all(len(data) > 100 for data in found[0]), "each has its box"


@pytest.mark.parametrize("images", ["original", "annotated"])
def test_images_are_written_beside_the_detections_where_asked(tmp_path, model, flight, monkeypatch, images):
    command = [str(flight), "--model", str(model), "--images", images, "-o", str(tmp_path / "found")]
    add = Journal.add

    def stop_after_four(journal, answers):
        add(journal, answers)
        if journal.count >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "add", stop_after_four)
        assert main(command) == 130
    assert main(command) == 0
    found, given = {}, []
    with open_bag(tmp_path / "found") as bag:
        for connection, log_ns, data in bag.messages():
            found.setdefault(connection.topic, []).append((connection.msgtype, log_ns, bytes(data)))
    with open_bag(Path(flight)) as bag:
        given += [(c.topic, c.msgtype, log_ns, bytes(data)) for c, log_ns, data in bag.messages()]
    for topic in {topic for topic, kind, _, _ in given if kind in messages.IMAGE_TYPES}:
        sent = [(kind, log_ns, data) for name, kind, log_ns, data in given if name == topic]
        if images == "original":
            assert found[topic] == sent
            continue
        assert topic not in found
        pictures = found[f"{topic}/annotated/compressed"]
        assert [log_ns for _, log_ns, _ in pictures] == [log_ns for _, log_ns, _ in sent]
        for (kind, _, before), (_, _, after) in zip(sent, pictures, strict=True):
            head, frame = messages.frame_from_cdr(STORE, kind, before, 10**6)
            drawn_head, drawn = messages.frame_from_cdr(STORE, messages.COMPRESSED_TYPE, after, 10**6)
            assert drawn_head == head
            difference = np.abs(drawn.to_bgr().astype(int) - frame.to_bgr())
            assert difference.max() > 100, "a box is drawn in"
            assert np.median(difference) < 20, "the rest is the image"
