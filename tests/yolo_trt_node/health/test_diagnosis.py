"""Every reason for missing detections is found, and of several the most likely one."""

from dataclasses import replace

import pytest
from yolo_trt_node.health.diagnosis import Cause, Diagnosis, InputObservation, Publisher, diagnose
from yolo_trt_node.health.statistics import TrafficWindow

TOPIC = "/camera/image_raw"
IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA = Publisher("/camera/driver", IMAGE, "best effort, volatile")
NOW = 1_700_000_000.0

NOTHING = TrafficWindow(duration_s=5.0)
STREAM = TrafficWindow(duration_s=5.0, received=150, published=150, silent_s=0.02, stamp_s=NOW - 0.05)


def observation(**changes) -> InputObservation:
    """A camera that works, but for the changes."""
    usual = InputObservation(
        topic=TOPIC,
        kind=IMAGE,
        qos="reliable, volatile",
        window=STREAM,
        timeout_s=3.0,
        listening_s=60.0,
        now_s=NOW,
        publishers=(CAMERA,),
        image_topics={TOPIC: IMAGE},
        other_nodes=2,
        environment={"ROS_DOMAIN_ID": "7"},
        middleware="rmw_fastrtps_cpp",
    )
    return replace(usual, **changes)


def silence(**changes) -> InputObservation:
    return observation(window=NOTHING, **changes)


def found(case: InputObservation, cause: Cause) -> str:
    diagnosis = diagnose(case)
    assert diagnosis is not None, "nothing was found"
    assert diagnosis.cause == cause
    assert str(diagnosis).startswith(f"{TOPIC}: {cause.value}. ")
    return diagnosis.details


def test_a_camera_that_works_gives_no_finding():
    assert diagnose(observation()) is None


def test_silence_means_something_only_after_the_timeout():
    assert diagnose(silence(publishers=(), listening_s=9.9, timeout_s=10.0)) is None
    found(silence(publishers=(), listening_s=10.1, timeout_s=10.0), Cause.NO_PUBLISHER)
    gap = replace(STREAM, silent_s=2.9)
    assert diagnose(observation(window=gap)) is None
    found(observation(window=replace(gap, silent_s=3.1)), Cause.SILENT)


def test_after_an_activation_the_silence_before_it_does_not_count():
    assert diagnose(observation(window=replace(NOTHING, silent_s=100.0), listening_s=4.9)) is None
    found(observation(window=replace(NOTHING, silent_s=100.0), listening_s=5.1), Cause.SILENT)


def test_the_first_image_may_take_as_long_as_discovery():
    assert diagnose(silence(publishers=(), listening_s=4.9)) is None
    found(silence(publishers=(), listening_s=5.1), Cause.NO_PUBLISHER)


class TestNobody:
    def test_alone_names_what_decides_on_visibility(self):
        text = found(silence(publishers=(), other_nodes=0, image_topics={}), Cause.ALONE)
        assert "ROS_DOMAIN_ID 7" in text
        assert "ROS_AUTOMATIC_DISCOVERY_RANGE" in text

    def test_alone_names_the_domains_in_use_on_this_machine(self):
        case = silence(publishers=(), other_nodes=0, image_topics={}, other_domains=(0, 42))
        assert "nodes in the ROS domain 0 and 42: start this node and" in found(case, Cause.ALONE)

    def test_the_most_similar_image_topics_come_first(self):
        topics = {
            "/lidar/intensity": IMAGE,
            "/camera/image_raw/compressed": COMPRESSED,
            "/camera/image_rect": IMAGE,
            "/camera1/image_raw": IMAGE,
            "/thermal": IMAGE,
        }
        text = found(silence(publishers=(), image_topics=topics), Cause.NO_PUBLISHER)
        assert text.startswith(
            "Images are on /camera1/image_raw (Image), /camera/image_rect (Image), "
            "/camera/image_raw/compressed (CompressedImage) and 2 more: set image_topic"
        )

    @pytest.mark.parametrize(("nodes", "words"), [(1, "1 other node is"), (5, "5 other nodes are")])
    def test_no_images_at_all(self, nodes, words):
        text = found(silence(publishers=(), image_topics={}, other_nodes=nodes), Cause.NO_PUBLISHER)
        assert text.startswith(f"{words} in sight, but none publishes images")

    def test_a_missing_clock_hints_at_the_bag(self):
        text = found(silence(publishers=(), sim_time=True), Cause.NO_PUBLISHER)
        assert "does the bag or the simulation run?" in text
        text = found(silence(publishers=(), sim_time=True, clock_publishers=1), Cause.NO_PUBLISHER)
        assert "bag" not in text


class TestMismatch:
    def test_another_type_of_image(self):
        text = found(silence(publishers=(replace(CAMERA, kind=COMPRESSED),)), Cause.WRONG_TYPE)
        assert f"/camera/driver publishes {COMPRESSED} there, and this node expects {IMAGE}" in text
        assert "image_transport" in text

    def test_no_image_at_all(self):
        text = found(silence(publishers=(replace(CAMERA, kind="std_msgs/msg/String"),)), Cause.WRONG_TYPE)
        assert "name a topic that carries images" in text

    def test_qos_names_both_profiles_and_the_parameter(self):
        text = found(silence(publishers=(replace(CAMERA, conflict="reliability"),)), Cause.INCOMPATIBLE_QOS)
        assert "/camera/driver offers best effort, volatile, this node asks for reliable, volatile" in text
        assert "image_reliability to auto" in text

    def test_other_policies_name_the_override(self):
        text = found(silence(publishers=(replace(CAMERA, conflict="durability"),)), Cause.INCOMPATIBLE_QOS)
        assert f"set qos_overrides.{TOPIC}.subscription.durability as the publisher has it" in text

    def test_one_publisher_that_fits_is_enough(self):
        others = (replace(CAMERA, conflict="reliability"), replace(CAMERA, kind=COMPRESSED), CAMERA)
        found(silence(publishers=others), Cause.SILENT)


class TestTransport:
    def test_silent_names_the_publisher(self):
        text = found(silence(), Cause.SILENT)
        assert "/camera/driver is matched and has sent nothing" in text
        assert f"ros2 topic hz {TOPIC}" in text

    def test_silence_of_reliable_images_names_the_profile_too(self):
        assert "fastdds_large_frames.xml" in found(silence(), Cause.SILENT)
        assert "fastdds" not in found(silence(qos="best effort, volatile"), Cause.SILENT)

    @pytest.mark.parametrize(
        ("middleware", "variable", "profile"),
        [
            ("rmw_fastrtps_cpp", "FASTRTPS_DEFAULT_PROFILES_FILE", "fastdds_large_frames.xml"),
            ("rmw_cyclonedds_cpp", "CYCLONEDDS_URI", "cyclonedds_large_frames.xml"),
        ],
    )
    def test_large_frames_name_the_profile_and_the_cameras_side(self, middleware, variable, profile):
        for window in (replace(NOTHING, lost=10), replace(STREAM, received=13, published=13, lost=165)):
            text = found(observation(window=window, middleware=middleware), Cause.LARGE_FRAMES)
            assert f"{window.received} images arrived in 5 s and {window.lost} were lost" in text
            assert variable in text
            assert profile in text
            assert "camera driver" in text.lower()

    def test_a_few_lost_images_are_no_reason(self):
        assert diagnose(observation(window=replace(STREAM, lost=20))) is None
        found(observation(window=replace(NOTHING, lost=1)), Cause.SILENT)

    def test_unreadable_tells_the_most_frequent_reason(self):
        window = replace(STREAM, published=0, unreadable={"step is 3": 10, "encoding hsv": 140})
        assert found(observation(window=window), Cause.UNREADABLE) == "140 of 150 in 5 s: encoding hsv"

    def test_a_few_unreadable_ones_are_no_reason(self):
        assert diagnose(observation(window=replace(STREAM, unreadable={"step is 3": 10}))) is None


class TestTimes:
    def test_no_clock(self):
        text = found(observation(sim_time=True, now_s=0.0), Cause.NO_CLOCK)
        assert "--clock" in text
        assert diagnose(observation(sim_time=True, clock_publishers=1)) is None

    @pytest.mark.parametrize(("stamp", "words"), [(0.0, "leaves it empty"), (5.5, "does not renew it")])
    def test_frozen(self, stamp, words):
        window = replace(STREAM, received=10, stamps_repeated=9, stamp_s=stamp)
        text = found(observation(window=window), Cause.FROZEN_STAMPS)
        assert f"10 images in 5 s with the stamp {stamp:.3f} s" in text
        assert words in text

    def test_two_images_with_one_stamp_are_not_frozen(self):
        assert diagnose(observation(window=replace(STREAM, received=2, stamps_repeated=1))) is None
        assert diagnose(observation(window=replace(STREAM, stamps_repeated=75))) is None

    def test_future(self):
        text = found(observation(window=replace(STREAM, stamp_s=NOW + 3.0)), Cause.FUTURE_STAMPS)
        assert text.startswith("3.0 s ahead of this node's clock: synchronise the clocks")
        assert diagnose(observation(window=replace(STREAM, stamp_s=NOW + 0.2))) is None
        case = observation(window=replace(STREAM, stamp_s=NOW + 3.0), sim_time=True, clock_publishers=1)
        assert "/clock" in found(case, Cause.FUTURE_STAMPS)

    def test_past(self):
        text = found(observation(window=replace(STREAM, stamp_s=1.0)), Cause.PAST_STAMPS)
        assert "play it with --clock and set use_sim_time" in text

    def test_an_old_image_is_not_in_the_past_because_none_came_since(self):
        window = replace(STREAM, silent_s=60.0, stamp_s=NOW - 60.1)
        assert diagnose(observation(window=window, timeout_s=100.0)) is None

    def test_a_simulation_that_pauses_has_no_images_in_the_future(self):
        window = replace(STREAM, silent_s=2.0, stamp_s=NOW)
        assert diagnose(observation(window=window, sim_time=True, clock_publishers=1)) is None


def test_only_causes_about_time_let_detections_through():
    passing = {cause for cause in Cause if not cause.blocks}
    assert passing == {Cause.NO_CLOCK, Cause.FROZEN_STAMPS, Cause.FUTURE_STAMPS, Cause.PAST_STAMPS}


def test_of_several_causes_the_outermost_is_told():
    """Take one obstacle away after the other; each time the next one is told."""
    spoilt = replace(
        NOTHING,
        received=10,
        lost=99,
        unreadable={"bad": 10},
        stamps_repeated=9,
        stamp_s=NOW + 9,
        silent_s=9.0,
    )
    case = observation(
        window=spoilt, publishers=(), image_topics={}, other_nodes=0, sim_time=True, clock_publishers=0
    )
    steps = [
        (Cause.ALONE, {"other_nodes": 3}),
        (Cause.NO_PUBLISHER, {"publishers": (replace(CAMERA, kind=COMPRESSED, conflict="reliability"),)}),
        (Cause.WRONG_TYPE, {"publishers": (replace(CAMERA, conflict="reliability"),)}),
        (Cause.INCOMPATIBLE_QOS, {"publishers": (CAMERA,)}),
        (Cause.LARGE_FRAMES, {"window": replace(spoilt, lost=0)}),
        (Cause.SILENT, {"window": replace(spoilt, lost=0, silent_s=0.1)}),
        (Cause.UNREADABLE, {"window": replace(spoilt, lost=0, silent_s=0.1, unreadable={})}),
        (Cause.NO_CLOCK, {"clock_publishers": 1}),
        (
            Cause.FROZEN_STAMPS,
            {"window": replace(spoilt, lost=0, silent_s=0.1, unreadable={}, stamps_repeated=0)},
        ),
        (
            Cause.FUTURE_STAMPS,
            {"window": replace(STREAM, stamp_s=NOW - 1000)},
        ),
        (Cause.PAST_STAMPS, {"window": STREAM}),
    ]
    assert {cause for cause, _ in steps} == set(Cause)
    for cause, relief in steps:
        diagnosis = diagnose(case)
        assert isinstance(diagnosis, Diagnosis)
        assert diagnosis.cause == cause
        case = replace(case, **relief)
    assert diagnose(case) is None


class TestEndOfAReplay:
    def test_the_end_of_bag_and_clock_is_no_complaint(self):
        ended = observation(sim_time=True, clock_publishers=0, clock_gone_s=0.0)
        assert diagnose(ended) is None
        assert diagnose(replace(ended, clock_gone_s=20.0, window=replace(NOTHING, silent_s=20.5))) is None

    def test_images_that_come_on_without_a_clock_are_one(self):
        case = observation(sim_time=True, clock_publishers=0, clock_gone_s=3.0)
        found(case, Cause.NO_CLOCK)

    def test_without_simulated_time_the_clock_is_none_of_it(self):
        found(silence(publishers=(), clock_gone_s=1.0), Cause.NO_PUBLISHER)


def test_the_remedy_is_one_that_several_cameras_have():
    case = silence(publishers=(), image_topics={"/nose/image": IMAGE}, camera="front")
    details = found(case, Cause.NO_PUBLISHER)
    assert "parameter cameras in place of front" in details
    assert "image_topic" not in details


def test_a_question_ends_with_one_mark():
    case = silence(publishers=(), image_topics={}, sim_time=True)
    details = found(case, Cause.NO_PUBLISHER)
    assert "if it has a life cycle? use_sim_time is set" in details
    assert "?." not in details
