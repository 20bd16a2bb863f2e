"""Why no detections come: from what is known of a camera to the one most likely reason.

Pure: `explain` looks at a `Situation` and nothing else, so that every case has a test without ROS.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from yolo_trt_node.health.statistics import Window

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
class Finding:
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
class Situation:
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
    window: Window
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


def explain(situation: Situation) -> Finding | None:
    """Return the most likely reason why no detections come, or come with wrong times; ``None``: all is well.

    What keeps images from arriving comes first, from the outside (nobody there) to the inside (matched, but
    lost on the way); then what keeps them from being used; then what spoils their times.
    """
    if situation.replay_is_over:
        return None
    for look in (_nobody, _mismatch, _lost, _silent, _unreadable, _no_clock, _stamps):
        finding = look(situation)
        if finding is not None:
            return finding
    return None


def _nobody(situation: Situation) -> Finding | None:
    if not situation.silent or situation.publishers:
        return None
    if situation.other_nodes == 0 and not situation.image_topics:
        settings = ", ".join(f"{name} {value}" for name, value in situation.environment.items())
        if situation.other_domains:
            found = "This machine also has nodes in the ROS domain " + " and ".join(
                map(str, situation.other_domains)
            )
            advice = f"{found}: start this node and the camera driver with the same ROS_DOMAIN_ID"
        else:
            advice = (
                "Is the camera driver running? It must have the same ROS_DOMAIN_ID and a middleware that "
                "understands this one; on another machine ROS_LOCALHOST_ONLY must be unset, "
                "ROS_AUTOMATIC_DISCOVERY_RANGE be SUBNET, and UDP multicast get through"
            )
        return Finding(Cause.ALONE, situation.topic, _with_clock(f"{advice}. Here: {settings}", situation))
    return Finding(Cause.NO_PUBLISHER, situation.topic, _with_clock(_similar(situation), situation))


def _similar(situation: Situation) -> str:
    """Name the topics that may have been meant."""
    found = situation.image_topics
    if not found:
        return (
            f"{_nodes(situation.other_nodes)} in sight, but none publishes images: is the camera driver "
            "running, and active if it has a life cycle?"
        )
    likeness = difflib.SequenceMatcher(b=situation.topic)

    def ratio(name: str) -> float:
        likeness.set_seq1(name)
        return likeness.ratio()

    nearest = sorted(found, key=lambda name: (-ratio(name), name))[:SIMILAR_SHOWN]
    shown = ", ".join(f"{name} ({_short(found[name])})" for name in nearest)
    others = len(found) - len(nearest)
    remedy = (
        f"write the right one into the parameter cameras in place of {situation.camera}"
        if situation.camera
        else "set image_topic (launch) or remap image to the right one"
    )
    return (
        f"Images are on {shown}{f' and {others} more' if others else ''}: {remedy}; image_transport auto "
        "takes either type"
    )


def _mismatch(situation: Situation) -> Finding | None:
    if not situation.silent or not situation.publishers:
        return None
    fitting = [publisher for publisher in situation.publishers if publisher.kind == situation.kind]
    if not fitting:
        other = situation.publishers[0]
        advice = (
            "set image_transport to auto (or compressed, or raw) to take what there is"
            if other.kind in ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
            else "name a topic that carries images"
        )
        return Finding(
            Cause.WRONG_TYPE,
            situation.topic,
            f"{other.node} publishes {other.kind} there, and this node expects {situation.kind}: {advice}",
        )
    if any(not publisher.conflict for publisher in fitting):
        return None
    other = fitting[0]
    override = f"qos_overrides.{situation.topic}.subscription.{other.conflict}"
    advice = (
        f"set image_reliability to auto (and {override}, if you have set it)"
        if other.conflict == "reliability"
        else f"set {override} as the publisher has it"
    )
    return Finding(
        Cause.INCOMPATIBLE_QOS,
        situation.topic,
        f"{other.node} offers {other.qos}, this node asks for {situation.qos}; {other.conflict} keeps them "
        f"apart: {advice}, or change the publisher",
    )


def _lost(situation: Situation) -> Finding | None:
    window = situation.window
    if window.lost < LOST_IMAGES or window.lost <= window.received:
        return None
    return Finding(
        Cause.LARGE_FRAMES,
        situation.topic,
        f"{window.received} images arrived in {window.duration_s:.0f} s and {window.lost} were lost on the "
        f"way: {_large_frames_remedy(situation)}",
    )


def _large_frames_remedy(situation: Situation) -> str:
    if "cyclone" in situation.middleware:
        return (
            "the socket buffers are too small for them: raise net.core.rmem_max, and start this node and the "
            f"CAMERA DRIVER with CYCLONEDDS_URI=file://.../{CYCLONE_PROFILE}. The file says how"
        )
    return (
        "the sender's shared memory is by default smaller than a large image: start the CAMERA DRIVER with "
        f"FASTRTPS_DEFAULT_PROFILES_FILE=.../{FAST_DDS_PROFILE} (a profile on this side cannot help). The "
        "file says how"
    )


def _silent(situation: Situation) -> Finding | None:
    if not situation.silent:
        return None
    names = " and ".join(sorted({publisher.node for publisher in situation.publishers}))
    details = (
        f"{names} is matched and has sent nothing that arrived for more than {situation.timeout_s:g} s: is "
        f"the camera connected, is the driver active, does `ros2 topic hz {situation.topic}` see images? "
        "Between containers: they need the same /dev/shm (--ipc=host)"
    )
    if "reliable" in situation.qos:
        # Reliable images are not lost, but sent again and again, for seconds.
        details += f". If the images are large, {_large_frames_remedy(situation)}"
    return Finding(Cause.SILENT, situation.topic, _with_clock(details, situation))


def _unreadable(situation: Situation) -> Finding | None:
    window = situation.window
    if not window.unreadable or window.published:
        return None
    reason, count = max(window.unreadable.items(), key=lambda item: item[1])
    return Finding(
        Cause.UNREADABLE,
        situation.topic,
        f"{count} of {window.received} in {window.duration_s:.0f} s: {reason}",
    )


def _no_clock(situation: Situation) -> Finding | None:
    if not situation.sim_time or situation.clock_publishers or not situation.window.received:
        return None
    return Finding(
        Cause.NO_CLOCK,
        situation.topic,
        "Images arrive, but this node's time stands still and frame ages mean nothing: play the bag with "
        "--clock, start the simulation's clock, or set use_sim_time to false",
    )


def _stamps(situation: Situation) -> Finding | None:
    window = situation.window
    if not window.received or window.stamp_s is None:
        return None
    stamp_s = window.stamp_s
    if window.received >= FROZEN_IMAGES and window.stamps_repeated >= window.received - 1:
        why = (
            "the driver leaves it empty, or runs with use_sim_time and no /clock"
            if stamp_s == 0
            else "the driver does not renew it, or its clock (/clock, with use_sim_time) stands still"
        )
        return Finding(
            Cause.FROZEN_STAMPS,
            situation.topic,
            f"{window.received} images in {window.duration_s:.0f} s with the stamp {stamp_s:.3f} s: {why}. "
            "Frame ages mean nothing, and nothing can be matched by time",
        )
    ahead_s = stamp_s - situation.now_s
    if ahead_s > FUTURE_S:
        advice = (
            "the clock that this node follows (/clock) is not the one of the images"
            if situation.sim_time
            else "synchronise the clocks of both computers (chrony, PTP); if a bag or a simulation sends the "
            "images, set use_sim_time"
        )
        return Finding(
            Cause.FUTURE_STAMPS, situation.topic, f"{ahead_s:.1f} s ahead of this node's clock: {advice}"
        )
    behind_s = -ahead_s - (window.silent_s or 0.0)
    if behind_s > PAST_S:
        advice = (
            "the clock that this node follows (/clock) is not the one of the images"
            if situation.sim_time
            else "if a bag is played, play it with --clock and set use_sim_time; otherwise synchronise the "
            "clocks, or make the driver stamp with the time of day and not the time since its start"
        )
        return Finding(
            Cause.PAST_STAMPS, situation.topic, f"{behind_s:.0f} s behind this node's clock: {advice}"
        )
    return None


def _with_clock(details: str, situation: Situation) -> str:
    """Add that the clock is missing as well, which hints at a bag or a simulation that does not run."""
    if not situation.sim_time or situation.clock_publishers:
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
