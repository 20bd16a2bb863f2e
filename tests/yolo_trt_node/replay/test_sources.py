"""Bags, folders and videos become a camera's messages."""

import cv2
import numpy as np
import pytest
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image
from yolo_trt_node.boxes import Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, typestore
from yolo_trt_node.replay.coders import VIDEO_MESSAGES
from yolo_trt_node.replay.sources import SourceError, open_source

STORE = typestore()
SECOND = 1_000_000_000


def gray(value: int) -> np.ndarray:
    return np.full((48, 64, 3), value, np.uint8)


def value_of(message) -> int:
    pixels = message.data if isinstance(message, Image) else cv2.imdecode(np.array(message.data), 1)
    return round(float(np.mean(pixels)))


@pytest.fixture
def folder(tmp_path):
    for number in (10, 2, 1):
        cv2.imwrite(str(tmp_path / f"frame{number}.png"), gray(number))
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


@pytest.fixture
def video(tmp_path):
    file = tmp_path / "flight.avi"
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), 20.0, (64, 48))
    for value in (40, 80, 120):
        writer.write(gray(value))
    writer.release()
    return file


def make_bag(path, *topics: tuple[str, str, bytes]):
    with BagWriter(path, STORE) as writer:
        for index, (topic, kind, data) in enumerate(topics):
            writer.write(topic, kind, data, (5 + index) * SECOND)
    return path


def raw(value: int) -> bytes:
    return messages.image(STORE, messages.header(STORE, 3 * SECOND, "nose"), gray(value))


def jpeg(value: int) -> bytes:
    data = cv2.imencode(".jpg", gray(value))[1].tobytes()
    return messages.compressed_image(STORE, messages.header(STORE, 4 * SECOND, "nose"), "jpeg", data)


def transforms() -> bytes:
    kind = "tf2_msgs/msg/TFMessage"
    return bytes(STORE.serialize_cdr(STORE.types[kind](transforms=[]), kind))


def read(path, kind: type = Image, **options) -> list:
    with open_source(path, STORE, **options) as source:
        return [(m.topic, m.time_ns, deserialize_message(m.data, kind)) for m in source.messages()]


def test_a_folder_is_played_in_natural_order(folder):
    played = read(folder, fps=5, frame_id="nose", topic="/eye")
    assert [value_of(message) for _, _, message in played] == [1, 2, 10]
    assert [time_ns for _, time_ns, _ in played] == [0, SECOND // 5, 2 * SECOND // 5]
    assert {topic for topic, _, _ in played} == {"/eye"}
    first = played[0][2]
    assert (first.header.frame_id, first.encoding, first.width, first.height, first.step) == (
        "nose", "bgr8", 64, 48, 192,
    )  # fmt: skip


def test_image_files_are_passed_on_as_they_are(folder):
    played = read(folder, CompressedImage, compressed=True)
    assert {topic for topic, _, _ in played} == {"/camera/image_raw/compressed"}
    assert bytes(played[0][2].data) == (folder / "frame1.png").read_bytes()
    assert played[0][2].format == "png"


def test_other_files_become_jpeg(tmp_path):
    cv2.imwrite(str(tmp_path / "a.bmp"), gray(90))
    ((_, _, message),) = read(tmp_path, CompressedImage, compressed=True)
    assert message.format == "jpeg"
    assert abs(value_of(message) - 90) <= 1


def test_a_file_that_is_no_image_is_counted(folder, capsys):
    (folder / "frame3.jpg").write_bytes(b"no picture")
    with open_source(folder, STORE) as source:
        assert len(list(source.messages())) == 3
        assert source.unreadable == 1
    assert "frame3.jpg cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(("fps", "step_ns"), [(0, SECOND // 20), (4, SECOND // 4)])
def test_a_video_is_played_at_its_own_rate_or_the_one_asked_for(video, fps, step_ns):
    played = read(video, fps=fps)
    assert [time_ns for _, time_ns, _ in played] == [0, step_ns, 2 * step_ns]
    for (_, _, message), value in zip(played, (40, 80, 120), strict=True):
        assert abs(value_of(message) - value) <= 3


def test_a_bag_is_played_as_it_was_recorded(tmp_path):
    bag = make_bag(tmp_path / "bag", ("/nose", messages.IMAGE_TYPE, raw(7)))
    ((topic, time_ns, message),) = read(bag)
    assert (topic, time_ns, message.header.stamp.sec, value_of(message)) == ("/nose", 5 * SECOND, 3, 7)


def test_of_a_bag_the_cameras_side_is_played(tmp_path):
    detections = serialized_detections(messages.header(STORE, 0, ""), Detections.empty())
    bag = make_bag(
        tmp_path / "bag",
        ("/nose", messages.IMAGE_TYPE, raw(7)),
        ("/tf", "tf2_msgs/msg/TFMessage", transforms()),
        ("/detections", messages.DETECTIONS_TYPE, detections),
    )
    with open_source(bag, STORE) as source:
        assert set(source.topics) == {"/nose", "/tf"}
        assert source.count == 2
    with open_source(bag, STORE, topics=["/detections"]) as source:
        assert set(source.topics) == {"/detections"}


def test_a_bags_images_can_get_another_name_and_be_compressed(tmp_path):
    bag = make_bag(
        tmp_path / "bag",
        ("/nose", messages.IMAGE_TYPE, raw(70)),
        ("/tf", "tf2_msgs/msg/TFMessage", transforms()),
    )
    with open_source(bag, STORE, topic="/eye", compressed=True) as source:
        assert set(source.topics) == {"/eye/compressed", "/tf"}
        first = next(source.messages())
    message = deserialize_message(first.data, CompressedImage)
    assert (first.topic, message.header.stamp.sec) == ("/eye/compressed", 3)
    assert abs(value_of(message) - 70) <= 1


def test_of_raw_and_compressed_twins_the_compressed_one_is_taken_as_it_is(tmp_path):
    bag = make_bag(
        tmp_path / "bag",
        ("/nose", messages.IMAGE_TYPE, raw(70)),
        ("/nose/compressed", messages.COMPRESSED_TYPE, jpeg(80)),
    )
    ((topic, _, message),) = read(bag, CompressedImage, compressed=True)
    assert (topic, message.header.stamp.sec) == ("/nose/compressed", 4)


def test_looped_sources_keep_their_rate_from_the_last_image_to_the_first(tmp_path, folder):
    with open_source(folder, STORE, fps=5) as source:
        assert source.period_ns == SECOND // 5
    three = [("/nose", messages.IMAGE_TYPE, raw(7))] * 3
    for name, topics, period_ns in (("three", three, SECOND), ("one", three[:1], SECOND // 10)):
        with open_source(make_bag(tmp_path / name, *topics), STORE) as source:
            assert source.period_ns == period_ns


def test_one_file_of_a_bag_is_a_bag(tmp_path):
    make_bag(tmp_path / "bag", ("/nose", messages.IMAGE_TYPE, raw(7)))
    assert len(read(tmp_path / "bag" / "bag.mcap")) == 1


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("nowhere", {}, "there is no"),
        ("empty", {}, "is no bag and holds no images"),
        ("text.mp4", {}, "cannot read it as a video"),
        ("bag", {"topics": ["/other"]}, r"has no /other; it holds /nose \(sensor_msgs/msg/Image\)"),
        ("tf", {"topic": "/eye"}, "these hold images: none"),
        ("info", {}, "has no camera topics; it holds /label_info"),
        ("pictures", {"topics": ["/nose"]}, "is no bag, so it has no topics"),
    ],
)
def test_what_cannot_be_played_is_said(tmp_path, name, options, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.mp4").write_text("no video")
    make_bag(tmp_path / "bag", ("/nose", messages.IMAGE_TYPE, raw(7)))
    make_bag(tmp_path / "tf", ("/tf", "tf2_msgs/msg/TFMessage", transforms()))
    header = messages.header(STORE, 0, "")
    info = messages.label_info(STORE, header, ["car"], 0.5)
    make_bag(tmp_path / "info", ("/label_info", messages.LABEL_INFO_TYPE, info))
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), gray(1))
    with pytest.raises(SourceError, match=words):
        read(tmp_path / name, **options)


def turned_jpeg(picture: np.ndarray) -> bytes:
    """A JPEG that says that it is to be turned by a quarter clockwise (EXIF orientation 6)."""
    data = cv2.imencode(".jpg", picture)[1].tobytes()
    exif = b"Exif\0\0" + b"MM\0*\0\0\0\x08" + b"\0\1" + b"\x01\x12\0\3\0\0\0\1\0\6\0\0" + bytes(4)
    return data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:]


def test_exif_turns_an_image_however_it_is_sent(tmp_path):
    picture = gray(200)
    picture[:, :8] = 0
    (tmp_path / "a.jpg").write_bytes(turned_jpeg(picture))
    ((_, _, raw_one),) = read(tmp_path)
    ((_, _, coded),) = read(tmp_path, CompressedImage, compressed=True)
    assert (raw_one.height, raw_one.width) == (64, 48)
    seen = cv2.imdecode(np.array(coded.data), cv2.IMREAD_UNCHANGED)
    assert seen.shape == (64, 48, 3)
    assert abs(seen.astype(int) - np.array(raw_one.data).reshape(64, 48, 3)).mean() < 5


def decoded(path, **options) -> list[tuple[str, int, int]]:
    """(topic, time, gray) of each frame that comes out of the video that a source sends."""
    reader, found = ImageReader(1_000_000), []
    with open_source(path, STORE, **options) as source:
        for sent in source.messages():
            message = messages.from_cdr(STORE, source.topics[sent.topic].kind, sent.data)
            frames = reader.read(message, sent.time_ns)
            assert len(frames) == 1, "each packet is a picture"
            found += [(sent.topic, at_ns, round(frame.to_bgr().mean())) for at_ns, frame in frames]
    return found


@pytest.fixture
def encoders():
    av = pytest.importorskip("av", reason="PyAV is not installed")
    if not {"libx264", "libx265"} <= av.codecs_available:
        pytest.skip("this PyAV has no encoders")


@pytest.mark.parametrize("form", VIDEO_MESSAGES)
def test_pictures_are_sent_as_video_in_every_message(tmp_path, encoders, form):
    # Of odd sides, and the last of another size: an encoder takes even ones, and its own for each.
    for index, value in enumerate((40, 90, 160)):
        cv2.imwrite(str(tmp_path / f"{index}.png"), gray(value)[: 47 if index < 2 else 30, :63])
    codec = "h265" if form == "ffmpeg" else "h264"
    found = decoded(tmp_path, video=codec, video_message=form, topic="/eye", fps=5)
    assert [time_ns for _, time_ns, _ in found] == [0, SECOND // 5, 2 * SECOND // 5]
    assert np.allclose([value for _, _, value in found], (40, 90, 160), atol=3)
    assert {topic for topic, _, _ in found} == {f"/eye{VIDEO_MESSAGES[form][1]}"}


def test_a_bags_raw_images_and_a_file_are_sent_as_video(tmp_path, video, encoders):
    bag = make_bag(
        tmp_path / "bag",
        ("/nose", messages.IMAGE_TYPE, raw(70)),
        ("/nose", messages.IMAGE_TYPE, raw(80)),
    )
    found = decoded(bag, video="h264", video_message="ffmpeg")
    assert [(topic, time_ns) for topic, time_ns, _ in found] == [
        ("/nose/ffmpeg", 5 * SECOND),
        ("/nose/ffmpeg", 6 * SECOND),
    ]
    assert np.allclose([value for _, _, value in found], (70, 80), atol=3)
    assert np.allclose([value for _, _, value in decoded(video, video="h264")], (40, 80, 120), atol=4)
