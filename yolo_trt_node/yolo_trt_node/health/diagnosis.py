"""Why no detections come: from what is known of a camera to the one most likely reason.

Pure: `diagnose` looks at a `InputObservation` and nothing else, so that every case has a test without ROS.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from yolo_trt_node.health.statistics import TrafficWindow

# Publishers and subscriptions may need so long to find each other.
DISCOVERY_S = 5.0
# Clocks of two computers that NTP keeps differ by less.
FUTURE_S = 0.5
# No camera, codec or network takes as long.
PAST_S = 10.0
# So many images with one and the same stamp are no coincidence.
FROZEN_IMAGES = 3
# One image that is lost while publisher and subscription find each other is none of it.
LOST_IMAGES = 2
SIMILAR_SHOWN = 3

FAST_DDS_PROFILE = "config/dds/fastdds_large_frames.xml"
CYCLONE_PROFILE = "config/dds/cyclonedds_large_frames.xml"


class Cause(Enum):
    """The reasons there are; the value begins the message. ``docs/no_detections.md`` explains each."""

    ALONE = "no other ROS node is in sight"
    NO_PUBLISHER = "nobody publishes the image topic"
    WRONG_TYPE = "the image topic has another type"
    INCOMPATIBLE_QOS = "the publisher's QoS does not fit"
    LARGE_FRAMES = "matched, but almost nothing arrives"
    SILENT = "the publisher is alive, but silent"
    UNREADABLE = "no image can be read"
    NO_CLOCK = "use_sim_time is set, but nobody publishes /clock"
    FROZEN_STAMPS = "the image stamps do not move"
    FUTURE_STAMPS = "the image stamps lie in the future"
    PAST_STAMPS = "the image stamps lie far in the past"

    @property
    def blocks(self) -> bool:
        """Whether no detections come as long as it lasts; otherwise they come, with times that mislead."""
        return self not in (Cause.NO_CLOCK, Cause.FROZEN_STAMPS, Cause.FUTURE_STAMPS, Cause.PAST_STAMPS)


@dataclass(frozen=True)
class Diagnosis:
    """What is most likely wrong.

    Attributes:
        cause: the reason.
        topic: the image topic that it is about.
        details: what was seen, and what to do.
    """

    cause: Cause
    topic: str
    details: str

    def __str__(self) -> str:
        """Render the whole message."""
        return f"{self.topic}: {self.cause.value}. {self.details}"


@dataclass(frozen=True)
class Publisher:
    """A publisher of the image topic.

    Attributes:
        node: full name of its node.
        kind: type of its messages, as ``sensor_msgs/msg/Image``.
        qos: its profile in words.
        conflict: which policy keeps it from matching our subscription, as ``reliability``; empty for none.
    """

    node: str
    kind: str
    qos: str
    conflict: str = ""


@dataclass(frozen=True)
class InputObservation:
    """All that is known of one camera's input.

    Attributes:
        topic: full name of the topic that is subscribed to.
        kind: type of the subscription's messages, as ``sensor_msgs/msg/Image``.
        window: what came in the last seconds.
        timeout_s: after so many seconds without an image something is wrong.
        listening_s: seconds since the subscription was made.
        now_s: the node's clock, seconds.
        sim_time: whether that clock follows ``/clock``.
        clock_publishers: how many publishers ``/clock`` has.
        clock_gone_s: seconds since ``/clock`` lost its last publisher; ``None``: it has one, or never had.
        camera: the camera's entry in the parameter ``cameras``; empty for the only one.
        middleware: the RMW implementation.
        qos: the subscription's profile in words. This and what follows is looked up only in silence.
        publishers: those of the topic.
        image_topics: topics with images on them, and their types.
        other_nodes: how many nodes of others are in the graph.
        environment: what decides who sees whom (ROS_DOMAIN_ID and the like), as it is set.
        other_domains: ROS domains other than ours that are in use on this machine.
    """

    topic: str
    kind: str
    window: TrafficWindow
    timeout_s: float
    listening_s: float
    now_s: float
    sim_time: bool = False
    clock_publishers: int = 0
    clock_gone_s: float | None = None
    camera: str = ""
    middleware: str = ""
    qos: str = ""
    publishers: tuple[Publisher, ...] = ()
    image_topics: Mapping[str, str] = field(default_factory=dict)
    other_nodes: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)
    other_domains: tuple[int, ...] = ()

    @property
    def replay_is_over(self) -> bool:
        """Whether the bag or the simulation that gave the time has ended, and no image has come since."""
        if not self.sim_time or self.clock_gone_s is None:
            return False
        return self.window.silent_s is None or self.window.silent_s >= self.clock_gone_s

    @property
    def silent(self) -> bool:
        """Whether no image has come for longer than the timeout."""
        since_s = self.window.silent_s
        if since_s is None or since_s > self.listening_s:
            return self.listening_s > max(self.timeout_s, DISCOVERY_S)
        return since_s > self.timeout_s


def diagnose(observation: InputObservation) -> Diagnosis | None:
    """Return the most likely reason why no detections come, or come with wrong times; ``None``: all is well.

    What keeps images from arriving comes first, from the outside (nobody there) to the inside (matched, but
    lost on the way); then what keeps them from being used; then what spoils their times.
    """
    if observation.replay_is_over:
        return None
    for look in (_nobody, _mismatch, _lost, _silent, _unreadable, _no_clock, _stamps):
        diagnosis = look(observation)
        if diagnosis is not None:
            return diagnosis
    return None


def _nobody(observation: InputObservation) -> Diagnosis | None:
    if not observation.silent or observation.publishers:
        return None
    if observation.other_nodes == 0 and not observation.image_topics:
        settings = ", ".join(f"{name} {value}" for name, value in observation.environment.items())
        if observation.other_domains:
            found = "This machine also has nodes in the ROS domain " + " and ".join(
                map(str, observation.other_domains)
            )
            advice = f"{found}: start this node and the camera driver with the same ROS_DOMAIN_ID"
        else:
            advice = (
                "Is the camera driver running? It must have the same ROS_DOMAIN_ID and a middleware that "
                "understands this one; on another machine ROS_LOCALHOST_ONLY must be unset, "
                "ROS_AUTOMATIC_DISCOVERY_RANGE be SUBNET, and UDP multicast get through"
            )
        return Diagnosis(
            Cause.ALONE, observation.topic, _with_clock(f"{advice}. Here: {settings}", observation)
        )
    return Diagnosis(Cause.NO_PUBLISHER, observation.topic, _with_clock(_similar(observation), observation))


def _similar(observation: InputObservation) -> str:
    """Name the topics that may have been meant."""
    found = observation.image_topics
    if not found:
        return (
            f"{_nodes(observation.other_nodes)} in sight, but none publishes images: is the camera driver "
            "running, and active if it has a life cycle?"
        )
    likeness = difflib.SequenceMatcher(b=observation.topic)

    def ratio(name: str) -> float:
        likeness.set_seq1(name)
        return likeness.ratio()

    nearest = sorted(found, key=lambda name: (-ratio(name), name))[:SIMILAR_SHOWN]
    shown = ", ".join(f"{name} ({_short(found[name])})" for name in nearest)
    others = len(found) - len(nearest)
    remedy = (
        f"write the right one into the parameter cameras in place of {observation.camera}"
        if observation.camera
        else "set image_topic (launch) or remap image to the right one"
    )
    return (
        f"Images are on {shown}{f' and {others} more' if others else ''}: {remedy}; image_transport auto "
        "takes either type"
    )


def _mismatch(observation: InputObservation) -> Diagnosis | None:
    if not observation.silent or not observation.publishers:
        return None
    fitting = [publisher for publisher in observation.publishers if publisher.kind == observation.kind]
    if not fitting:
        other = observation.publishers[0]
        advice = (
            "set image_transport to auto (or compressed, or raw) to take what there is"
            if other.kind in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
            else "name a topic that carries images"
        )
        return Diagnosis(
            Cause.WRONG_TYPE,
            observation.topic,
            f"{other.node} publishes {other.kind} there, and this node expects {observation.kind}: {advice}",
        )
    if any(not publisher.conflict for publisher in fitting):
        return None
    other = fitting[0]
    override = f"qos_overrides.{observation.topic}.subscription.{other.conflict}"
    advice = (
        f"set image_reliability to auto (and {override}, if you have set it)"
        if other.conflict == "reliability"
        else f"set {override} as the publisher has it"
    )
    return Diagnosis(
        Cause.INCOMPATIBLE_QOS,
        observation.topic,
        f"{other.node} offers {other.qos}, this node asks for {observation.qos}; {other.conflict} keeps them "
        f"apart: {advice}, or change the publisher",
    )


def _lost(observation: InputObservation) -> Diagnosis | None:
    window = observation.window
    if window.lost < LOST_IMAGES or window.lost <= window.received:
        return None
    return Diagnosis(
        Cause.LARGE_FRAMES,
        observation.topic,
        f"{window.received} images arrived in {window.duration_s:.0f} s and {window.lost} were lost on the "
        f"way: {_large_frames_remedy(observation)}",
    )


def _large_frames_remedy(observation: InputObservation) -> str:
    if "cyclone" in observation.middleware:
        return (
            "the socket buffers are too small for them: raise net.core.rmem_max, and start this node and the "
            f"CAMERA DRIVER with CYCLONEDDS_URI=file://.../{CYCLONE_PROFILE}. The file says how"
        )
    return (
        "the sender's shared memory is by default smaller than a large image: start the CAMERA DRIVER with "
        f"FASTRTPS_DEFAULT_PROFILES_FILE=.../{FAST_DDS_PROFILE} (a profile on this side cannot help). The "
        "file says how"
    )


def _silent(observation: InputObservation) -> Diagnosis | None:
    if not observation.silent:
        return None
    names = " and ".join(sorted({publisher.node for publisher in observation.publishers}))
    details = (
        f"{names} is matched and has sent nothing that arrived for more than {observation.timeout_s:g} s: is "
        f"the camera connected, is the driver active, does `ros2 topic hz {observation.topic}` see images? "
        "Between containers: they need the same /dev/shm (--ipc=host)"
    )
    if "reliable" in observation.qos:
        # Reliable images are not lost, but sent again and again, for seconds.
        details += f". If the images are large, {_large_frames_remedy(observation)}"
    return Diagnosis(Cause.SILENT, observation.topic, _with_clock(details, observation))


def _unreadable(observation: InputObservation) -> Diagnosis | None:
    window = observation.window
    if not window.unreadable or window.published:
        return None
    reason, count = max(window.unreadable.items(), key=lambda item: item[1])
    return Diagnosis(
        Cause.UNREADABLE,
        observation.topic,
        f"{count} of {window.received} in {window.duration_s:.0f} s: {reason}",
    )


def _no_clock(observation: InputObservation) -> Diagnosis | None:
    if not observation.sim_time or observation.clock_publishers or not observation.window.received:
        return None
    return Diagnosis(
        Cause.NO_CLOCK,
        observation.topic,
        "Images arrive, but this node's time stands still and frame ages mean nothing: play the bag with "
        "--clock, start the simulation's clock, or set use_sim_time to false",
    )


def _stamps(observation: InputObservation) -> Diagnosis | None:
    window = observation.window
    if not window.received or window.stamp_s is None:
        return None
    stamp_s = window.stamp_s
    if window.received >= FROZEN_IMAGES and window.stamps_repeated >= window.received - 1:
        why = (
            "the driver leaves it empty, or runs with use_sim_time and no /clock"
            if stamp_s == 0
            else "the driver does not renew it, or its clock (/clock, with use_sim_time) stands still"
        )
        return Diagnosis(
            Cause.FROZEN_STAMPS,
            observation.topic,
            f"{window.received} images in {window.duration_s:.0f} s with the stamp {stamp_s:.3f} s: {why}. "
            "Frame ages mean nothing, and nothing can be matched by time",
        )
    ahead_s = stamp_s - observation.now_s
    if ahead_s > FUTURE_S:
        advice = (
            "the clock that this node follows (/clock) is not the one of the images"
            if observation.sim_time
            else "synchronise the clocks of both computers (chrony, PTP); if a bag or a simulation sends the "
            "images, set use_sim_time"
        )
        return Diagnosis(
            Cause.FUTURE_STAMPS, observation.topic, f"{ahead_s:.1f} s ahead of this node's clock: {advice}"
        )
    behind_s = -ahead_s - (window.silent_s or 0.0)
    if behind_s > PAST_S:
        advice = (
            "the clock that this node follows (/clock) is not the one of the images"
            if observation.sim_time
            else "if a bag is played, play it with --clock and set use_sim_time; otherwise synchronise the "
            "clocks, or make the driver stamp with the time of day and not the time since its start"
        )
        return Diagnosis(
            Cause.PAST_STAMPS, observation.topic, f"{behind_s:.0f} s behind this node's clock: {advice}"
        )
    return None


def _with_clock(details: str, observation: InputObservation) -> str:
    """Add that the clock is missing as well, which hints at a bag or a simulation that does not run."""
    if not observation.sim_time or observation.clock_publishers:
        return details
    stop = "" if details.endswith("?") else "."
    return (
        f"{details}{stop} use_sim_time is set and nobody publishes /clock either: does the bag or the "
        "simulation run?"
    )


def _nodes(count: int) -> str:
    return "1 other node is" if count == 1 else f"{count} other nodes are"


def _short(kind: str) -> str:
    return kind.rsplit("/", 1)[-1]
