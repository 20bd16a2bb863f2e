"""Packets of compressed video become frames, whatever happens on the way."""

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from support import video
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.feed import VideoFeed
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.images.video import VideoDecoder, codec_of, holds_key

COUNT, GOP = 24, 8
MAX_PIXELS = 1_000_000


def pictures() -> list[np.ndarray]:
    """Pictures whose brightness tells their index."""
    shape = (64, 96, 3)
    return [np.full(shape, 20 + 9 * index, np.uint8) for index in range(COUNT)]


def index_of(frame) -> int:
    return round((float(frame.to_bgr().mean()) - 20) / 9)


@pytest.fixture(scope="module", params=["h264", "hevc"])
def stream(request):
    return request.param, video.encode(pictures(), request.param, gop=GOP)


def decoded(decoder, packets):
    """(token, index seen) of each frame, and the reasons of what was refused."""
    found, refused = [], []
    for token, data in packets:
        try:
            found += [(was, index_of(frame)) for was, frame in decoder.decode(data, token)]
        except ImageError as error:
            refused.append(error.reason)
    found += [(was, index_of(frame)) for was, frame in decoder.finish()]
    return found, refused


def test_every_packet_gives_its_own_frame_at_once(stream):
    codec, packets = stream
    decoder = VideoDecoder(codec, MAX_PIXELS)
    for token, data in packets:
        ((was, frame),) = decoder.decode(data, token)
        assert (was, index_of(frame)) == (token, token)
        assert decoder.delay == 0
    assert decoder.finish() == []


def test_frames_that_come_out_of_order_keep_their_own_token():
    packets = video.encode(pictures(), b_frames=2)
    assert [index for index, _ in packets] != sorted(index for index, _ in packets)
    decoder = VideoDecoder("h264", MAX_PIXELS)
    found, refused = decoded(decoder, packets)
    assert not refused
    assert sorted(found) == [(index, index) for index in range(COUNT)]


def test_in_mid_stream_it_waits_for_a_key_frame_and_says_so(stream):
    codec, packets = stream
    found, refused = decoded(VideoDecoder(codec, MAX_PIXELS), packets[3:])
    assert found == [(index, index) for index in range(GOP, COUNT)]
    assert refused == ["waiting for a key frame"] * (GOP - 3)


def test_a_gap_ends_at_the_next_key_frame(stream):
    codec, packets = stream
    decoder = VideoDecoder(codec, MAX_PIXELS)
    found, reasons = [], []
    for token, data in packets:
        if token == 4:
            continue  # lost
        try:
            found += [was for was, _ in decoder.decode(data, token, gap=token == 5)]
        except ImageError as error:
            reasons.append(error.reason)
    assert reasons == ["waiting for a key frame"] * 3
    assert found == [*range(4), *range(GOP, COUNT)]


def test_numbered_packets_tell_of_a_gap(stream):
    codec, packets = stream
    reader = ImageReader(MAX_PIXELS)
    found, reasons = [], []
    for index, data in packets:
        message = SimpleNamespace(encoding=codec, pts=index, flags=0, is_bigendian=0, data=data)
        if index == 12:
            continue
        try:
            found += [was for was, _ in reader.read(message, index)]
        except ImageError as error:
            reasons.append(error.reason)
    assert reasons == ["waiting for a key frame"] * 3
    assert found == [*range(12), *range(16, COUNT)]


@pytest.mark.parametrize(
    "make",
    [
        lambda data: SimpleNamespace(format="h264", data=data),
        lambda data: SimpleNamespace(encoding="h264", height=0, width=0, step=0, is_bigendian=0, data=data),
        lambda data: SimpleNamespace(encoding="libx264", pts=10**9, flags=1, is_bigendian=False, data=data),
    ],
)
def test_every_kind_of_message_is_read(make):
    reader = ImageReader(MAX_PIXELS)
    packets = video.encode(pictures()[:3])
    found = [was for index, data in packets for was, _ in reader.read(make(data), index)]
    assert found == [0, 1, 2]
    assert reader.remembers


def test_damaged_packets_are_refused_and_the_next_key_frame_is_read(stream):
    codec, packets = stream
    decoder = VideoDecoder(codec, MAX_PIXELS)
    rng = np.random.default_rng(0)
    damaged = [
        (token, rng.integers(0, 256, len(data), np.uint8).tobytes() if 2 <= token < GOP else data)
        for token, data in packets
    ]
    found, _ = decoded(decoder, damaged)
    assert set(found) >= {(index, index) for index in range(GOP, COUNT)}
    for data in (b"", b"\x00", b"\x00\x00\x01", b"\xff" * 50):
        with pytest.raises(ImageError):
            VideoDecoder(codec, MAX_PIXELS).decode(data, 0)


def test_frames_beyond_the_limit_are_refused(stream):
    codec, packets = stream
    decoder = VideoDecoder(codec, 64 * 96 - 1)
    with pytest.raises(ImageError, match="damaged packet"):
        decoder.decode(packets[0][1], 0)


def test_without_pyav_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImageError, match="pip install av"):
        VideoDecoder("h264", MAX_PIXELS)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("h264", "h264"),
        ("H.264", "h264"),
        ("libx264", "h264"),
        ("h264_nvenc", "h264"),
        ("avc", "h264"),
        ("h264;yuv420p;bgr8;bgr8", "h264"),
        ("h265", "hevc"),
        ("hevc_vaapi", "hevc"),
        ("hevc", "hevc"),
        ("jpeg", ""),
        ("bgr8; jpeg compressed bgr8", ""),
        ("av1", ""),
        ("", ""),
        ("mono8", ""),
    ],
)
def test_codecs_are_known_by_the_names_that_messages_have(name, codec):
    assert codec_of(name) == codec


def test_key_frames_are_told_from_the_others(stream):
    codec, packets = stream
    assert [index for index, data in packets if holds_key(codec, data)] == list(range(0, COUNT, GOP))


def test_a_live_stream_is_decoded_whole_and_its_delay_told():
    packets = video.encode(pictures(), b_frames=2)
    frames, refused, told = [], [], []
    feed = VideoFeed(MAX_PIXELS, frames.append, refused.append, told.append)
    for index, data in packets:
        header = SimpleNamespace(stamp=SimpleNamespace(sec=index, nanosec=0))
        assert feed.add(SimpleNamespace(format="h264", data=data), header)
    deadline = time.monotonic() + 60
    while len(frames) < COUNT - 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    feed.close()
    feed.close()
    assert not refused
    assert [index_of(f.frame) for f in frames] == [f.header.stamp.sec for f in frames]
    assert any("packets late" in line for line in told)
    # What waits for a later packet has waited longer than the decoder worked on the last one.
    assert all(f.delay_s >= f.seconds for f in frames)
    assert any(f.delay_s > f.seconds for f in frames)


def test_a_backlog_beyond_all_measure_is_a_gap():
    packets = video.encode(pictures(), gop=GOP)
    waiting, going_on = threading.Event(), threading.Event()
    frames, refused = [], []

    def deliver(frame):
        frames.append(frame.header)
        waiting.set()
        going_on.wait(60)

    feed = VideoFeed(MAX_PIXELS, deliver, refused.append, lambda text: None)
    header = SimpleNamespace(stamp=SimpleNamespace(sec=0, nanosec=0))
    message = SimpleNamespace(format="h264", data=packets[0][1])
    feed.add(message, header)
    assert waiting.wait(60)
    taken = [feed.add(message, header) for _ in range(200)]
    assert taken.count(True) < 200
    going_on.set()
    feed.close()
