"""Where a camera's images are read from, and how many of them."""

import time
from types import SimpleNamespace

import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.qos import QoSPolicyKind, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from yolo_trt_node.node import image_source
from yolo_trt_node.node.camera import CameraChannel
from yolo_trt_node.node.image_source import ImageSource, RateLimit, choose_source
from yolo_trt_node.node_options import LiveOptions

RAW, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
TOPIC = "/front/image"
BELOW = f"{TOPIC}/compressed"


def choose(published, *, topic=TOPIC, transport="auto", reliability="auto", current=None):
    """Choose among topics with their publishers, each as (type, whether reliable)."""
    return choose_source(topic, transport, reliability, lambda name: published.get(name, []), current)


@pytest.mark.parametrize(
    ("published", "transport", "topic", "kind"),
    [
        ({}, "auto", TOPIC, Image),
        ({}, "raw", TOPIC, Image),
        ({}, "compressed", BELOW, CompressedImage),
        ({TOPIC: [(RAW, True)]}, "auto", TOPIC, Image),
        ({TOPIC: [(COMPRESSED, True)]}, "auto", TOPIC, CompressedImage),
        ({BELOW: [(COMPRESSED, True)]}, "auto", BELOW, CompressedImage),
        ({TOPIC: [(RAW, True)], BELOW: [(COMPRESSED, True)]}, "auto", TOPIC, Image),
        ({TOPIC: [(RAW, True)], BELOW: [(COMPRESSED, True)]}, "compressed", BELOW, CompressedImage),
        ({TOPIC: [(COMPRESSED, True)]}, "compressed", TOPIC, CompressedImage),
        ({BELOW: [(COMPRESSED, True)]}, "raw", TOPIC, Image),
        ({TOPIC: [("std_msgs/msg/String", True)]}, "auto", TOPIC, Image),
    ],
)
def test_the_transport_is_the_one_wanted_or_the_one_published(published, transport, topic, kind):
    source = choose(published, transport=transport)
    assert (source.topic, source.kind) == (topic, kind)


@pytest.mark.parametrize("transport", ["auto", "compressed"])
def test_a_topic_that_is_compressed_by_its_name_is_read_itself(transport):
    published = {BELOW: [(COMPRESSED, True)]}
    assert choose(published, topic=BELOW, transport=transport) == ImageSource(BELOW, CompressedImage, True)


@pytest.mark.parametrize(
    ("offered", "reliability", "reliable"),
    [
        ([True], "auto", True),
        ([False], "auto", False),
        ([True, False], "auto", True),
        ([], "auto", False),
        ([True], "best_effort", False),
        ([False], "reliable", True),
    ],
)
def test_reliability_is_the_one_wanted_or_the_least_offered(offered, reliability, reliable):
    published = {TOPIC: [(RAW, offer) for offer in offered]}
    assert choose(published, reliability=reliability).reliable is reliable


def test_what_was_read_stays_while_nobody_publishes():
    before = ImageSource(BELOW, CompressedImage, True)
    assert choose({}, current=before) == before


def taken(input_hz, rate_hz, seconds=10):
    limit = RateLimit()
    return sum(limit.take(100 + index / input_hz, rate_hz) for index in range(int(input_hz * seconds)))


@pytest.mark.parametrize(
    ("input_hz", "rate_hz", "expected"),
    [(30, 0, 300), (30, 20, 200), (30, 10, 100), (30, 30, 300), (30, 100, 300), (100, 7, 70), (5, 0.5, 5)],
)
def test_the_rate_is_kept_on_average(input_hz, rate_hz, expected):
    assert taken(input_hz, rate_hz) == pytest.approx(expected, abs=2)


def test_images_that_come_a_little_early_or_late_are_all_taken_at_their_own_rate():
    limit, rng = RateLimit(), np.random.default_rng(0)
    times = 100 + np.arange(300) / 30 + rng.uniform(-0.005, 0.005, 300)
    assert [limit.take(time, 30.0) for time in times].count(True) >= 295


def test_after_a_silence_there_is_no_burst():
    limit = RateLimit()
    assert limit.take(0.0, 10)
    assert [limit.take(50 + index / 1000, 10) for index in range(100)].count(True) <= 2


def test_of_mixed_publishers_the_reliable_ones_are_read_until_they_turn_out_silent():
    published = {TOPIC: [(RAW, True), (RAW, False)]}
    assert choose(published).reliable
    source = choose_source(TOPIC, "auto", "auto", lambda name: published.get(name, []), gave_up=True)
    assert not source.reliable
    only = {TOPIC: [(RAW, True)]}
    assert choose_source(TOPIC, "auto", "auto", lambda name: only.get(name, []), gave_up=True).reliable


@pytest.mark.parametrize(
    ("before_hz", "after_hz", "wait_s"), [(0.01, 10.0, 0.1), (0.01, 0.0, 0.0), (10.0, 0.5, 2.0)]
)
def test_a_new_rate_takes_effect_at_once(before_hz, after_hz, wait_s):
    limit = RateLimit()
    assert limit.take(100.0, before_hz)
    if wait_s:
        assert not limit.take(100.0 + 0.5 * wait_s, after_hz)
    assert limit.take(100.0 + wait_s, after_hz)


class FakeNode:
    """A node whose graph and log are the test's."""

    def __init__(self):
        self.offers = {}
        self.lines = []

    def get_publishers_info_by_topic(self, topic):
        return [
            SimpleNamespace(
                topic_type=RAW,
                node_namespace="/",
                node_name=name,
                endpoint_gid=list(name.encode()),
                qos_profile=SimpleNamespace(
                    reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
                ),
            )
            for name, reliable in self.offers.get(topic, {}).items()
        ]

    def get_logger(self):
        return SimpleNamespace(info=self.lines.append, warning=self.lines.append)

    def resolve_topic_name(self, topic):
        return topic

    def create_lifecycle_publisher(self, *_, **__):
        return SimpleNamespace(get_subscription_count=lambda: 1)

    def create_subscription(self, kind, topic, callback, profile, **_):
        return SimpleNamespace(topic=topic, profile=profile)

    def destroy_subscription(self, subscription):
        pass

    def has_parameter(self, name):
        return True

    def get_parameter(self, name):
        return SimpleNamespace(value="auto")


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(time, "monotonic", lambda: now.s)
    return now


@pytest.fixture
def camera(clock):
    node = FakeNode()
    made = CameraChannel(node, TOPIC, transport="auto", reliability="auto", live=LiveOptions)
    made.node = node
    return made


def image(stamp=1):
    return Image(header=Header(stamp=Time(sec=stamp)))


def test_a_silent_best_effort_publisher_does_not_throw_away_a_reliable_camera(camera, clock):
    camera.node.offers[TOPIC] = {"driver": True}
    camera.open(lambda message: False)
    camera.node.offers[TOPIC] = {"driver": True, "ghost": False}
    for _ in range(20):
        clock.s += 0.5
        camera._on_image(image())
        camera.follow()
    assert camera.source.reliable


def test_where_only_the_best_effort_publisher_sends_it_is_read_and_the_log_names_both(camera, clock):
    camera.node.offers[TOPIC] = {"driver": False, "ghost": True}
    camera.open(lambda message: False)
    assert camera.source.reliable
    for _ in range(6):
        clock.s += 0.5
        camera.follow()
    assert not camera.source.reliable
    assert "(/driver best_effort, /ghost reliable)" in camera.node.lines[-1]
    camera._on_image(image())
    camera.follow()
    assert not camera.source.reliable


def test_another_publisher_begins_new_statistics(camera, clock):
    camera.node.offers[TOPIC] = {"old": True}
    camera.open(lambda message: False)
    camera.follow()
    camera._on_image(image())
    camera.statistics.lost(9)
    camera.node.offers[TOPIC] = {}
    clock.s += 30
    camera.follow()
    assert camera.statistics.source_changes == 0
    camera.node.offers[TOPIC] = {"new": True}
    camera.follow()
    assert camera.statistics.source_changes == 1
    window = camera.statistics.window()
    assert (window.received, window.lost, window.silent_s) == (0, 0, None)
    assert window.longest_gap_s < 20


def test_a_profile_that_does_not_fit_is_told_in_our_words(camera):
    camera.node.offers[TOPIC] = {"driver": True}
    camera.open(lambda message: False)
    camera._on_incompatible(SimpleNamespace(last_policy_kind=QoSPolicyKind.RELIABILITY))
    assert camera.node.lines[-1].endswith("image_reliability auto settles it")
    camera._on_incompatible(SimpleNamespace(last_policy_kind=QoSPolicyKind.DURABILITY))
    assert "another durability" in camera.node.lines[-1]
    assert "will not come" in camera.node.lines[-1]


def test_packets_of_video_are_found_where_their_package_is_installed(monkeypatch):
    class Packet:
        pass

    real = {kind: name for kind, name in image_source.TYPE_NAMES.items() if name != image_source.PACKET_TYPE}
    monkeypatch.setattr(image_source, "TYPE_NAMES", {**real, Packet: image_source.PACKET_TYPE})
    offered = [(image_source.PACKET_TYPE, True)]
    for topic, published, transport in (
        (f"{TOPIC}/ffmpeg", {f"{TOPIC}/ffmpeg": offered}, "auto"),
        (TOPIC, {TOPIC: offered}, "video"),
        (f"{TOPIC}/ffmpeg", {f"{TOPIC}/ffmpeg": offered, TOPIC: [(RAW, True)]}, "video"),
    ):
        assert choose(published, transport=transport) == ImageSource(topic, Packet, True)
    assert choose({f"{TOPIC}/ffmpeg": offered, TOPIC: [(RAW, True)]}).kind is Image
