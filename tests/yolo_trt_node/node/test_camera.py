"""Where a camera's images are read from, and how many of them."""

import numpy as np
import pytest
from sensor_msgs.msg import CompressedImage, Image
from yolo_trt_node.node.camera import RateLimit, Source, choose_source

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
    assert choose(published, topic=BELOW, transport=transport) == Source(BELOW, CompressedImage, True)


@pytest.mark.parametrize(
    ("offered", "reliability", "reliable"),
    [
        ([True], "auto", True),
        ([False], "auto", False),
        ([True, False], "auto", False),
        ([], "auto", False),
        ([True], "best_effort", False),
        ([False], "reliable", True),
    ],
)
def test_reliability_is_the_one_wanted_or_the_least_offered(offered, reliability, reliable):
    published = {TOPIC: [(RAW, offer) for offer in offered]}
    assert choose(published, reliability=reliability).reliable is reliable


def test_what_was_read_stays_while_nobody_publishes():
    before = Source(BELOW, CompressedImage, True)
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
