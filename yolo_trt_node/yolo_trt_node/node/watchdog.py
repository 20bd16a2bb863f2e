"""Watches one camera's input: asks the graph, finds the reason, says it once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import rclpy
from rclpy.duration import Infinite
from rclpy.qos import QoSCompatibility, QoSProfile, qos_check_compatible
from rclpy.topic_endpoint_info import TopicEndpointInfo

from yolo_trt_node.health.diagnosis import Diagnosis, InputObservation, Publisher, diagnose
from yolo_trt_node.health.statistics import TrafficWindow
from yolo_trt_node.images.messages import IMAGE_TYPES

if TYPE_CHECKING:
    from rclpy.node import Node

# The policies that a publisher and a subscription can disagree about.
POLICIES = ("reliability", "durability", "deadline", "liveliness", "liveliness_lease_duration")
VISIBILITY = ("ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS")

FIRST_REMINDER_S = 10.0
LAST_REMINDER_S = 600.0


def observe(
    node: Node,
    topic: str,
    kind: str,
    window: TrafficWindow,
    *,
    timeout_s: float,
    listening_s: float,
    clock_gone_s: float | None = None,
    camera: str = "",
) -> InputObservation:
    """Look at the clock, and at the graph where no image comes.

    Args:
        node: through whose eyes.
        topic: full name of the image topic.
        kind: type of the subscription, as ``sensor_msgs/msg/Image``.
        window: what came in the last seconds.
        timeout_s: after so many seconds without an image something is wrong.
        listening_s: seconds since the subscription was made.
        clock_gone_s: seconds since ``/clock`` lost its last publisher; ``None``: it has one, or never had.
        camera: the camera's entry in the parameter ``cameras``; empty for the only one.
    """
    sim_time = bool(node.get_parameter("use_sim_time").value)
    observation = InputObservation(
        topic=topic,
        kind=kind,
        window=window,
        timeout_s=timeout_s,
        listening_s=listening_s,
        now_s=node.get_clock().now().nanoseconds / 1e9,
        sim_time=sim_time,
        clock_publishers=node.count_publishers("/clock") if sim_time else 0,
        clock_gone_s=clock_gone_s,
        camera=camera,
        middleware=rclpy.get_rmw_implementation_identifier(),
    )
    return _with_graph(node, observation) if observation.silent else observation


def _with_graph(node: Node, observation: InputObservation) -> InputObservation:
    topic = observation.topic
    ours = (node.get_namespace(), node.get_name())
    subscriptions = [info for info in node.get_subscriptions_info_by_topic(topic) if _owner(info) == ours]
    wanted = subscriptions[0].qos_profile if subscriptions else None
    return replace(
        observation,
        qos=describe(wanted) if wanted else "",
        publishers=tuple(
            Publisher(
                node="/".join(part.rstrip("/") for part in _owner(info)),
                kind=info.topic_type,
                qos=describe(info.qos_profile),
                conflict=conflict(info.qos_profile, wanted) if wanted else "",
            )
            for info in node.get_publishers_info_by_topic(topic)
        ),
        image_topics=dict(_image_topics(node, topic)),
        other_nodes=sum(
            (namespace, name) != ours and not name.startswith("_")
            for name, namespace in node.get_node_names_and_namespaces()
        ),
        environment=_environment(),
        other_domains=tuple(other_domains(_domain())),
    )


def rivals(node: Node, topics: Iterable[str]) -> str:
    """Name the nodes that have this one's name, or publish what only it should; empty where there is none.

    Args:
        node: this one.
        topics: full names of what it publishes.
    """
    ours = (node.get_namespace(), node.get_name())
    found = []
    twins = sum((namespace, name) == ours for name, namespace in node.get_node_names_and_namespaces())
    if twins > 1:
        found.append(f"{twins} nodes are called {_full(ours)}")
    for topic in topics:
        owners = [_full(_owner(info)) for info in node.get_publishers_info_by_topic(topic)]
        if len(owners) > 1:
            found.append(f"{' and '.join(sorted(owners))} publish {topic}")
    return "; ".join(found)


def _full(owner: tuple[str, str]) -> str:
    return f"{owner[0].rstrip('/')}/{owner[1]}"


def _owner(info: TopicEndpointInfo) -> tuple[str, str]:
    return info.node_namespace, info.node_name


def _image_topics(node: Node, except_for: str) -> Iterator[tuple[str, str]]:
    """Yield the topics that others publish images on, and their types."""
    ours = (node.get_namespace(), node.get_name())
    for topic, kinds in node.get_topic_names_and_types():
        if topic == except_for or not any(kind in IMAGE_TYPES for kind in kinds):
            continue
        if topic.rpartition("/")[2] == "annotated":
            continue  # what detectors make of images is no camera
        for info in node.get_publishers_info_by_topic(topic):
            if _owner(info) != ours and info.topic_type in IMAGE_TYPES:
                yield topic, info.topic_type
                break


def describe(profile: QoSProfile) -> str:
    """Tell a profile's policies that decide on a match, in words."""
    words = [policy.name.lower().replace("_", " ") for policy in (profile.reliability, profile.durability)]
    if 0 < profile.deadline.nanoseconds < Infinite.nanoseconds:
        words.append(f"deadline {profile.deadline.nanoseconds / 1e9:g} s")
    return ", ".join(words)


def conflict(offered: QoSProfile, wanted: QoSProfile) -> str:
    """Return the policy that keeps a publisher from matching a subscription, empty for none.

    It is the one that, taken from the publisher, makes them match. Where several disagree, it is the first.
    """

    def matches(subscription: QoSProfile) -> bool:
        return qos_check_compatible(offered, subscription)[0] != QoSCompatibility.ERROR

    if matches(wanted):
        return ""
    adapted = QoSProfile(**{name: getattr(wanted, name) for name in ("history", "depth", *POLICIES)})
    for policy in POLICIES:
        before = qos_check_compatible(offered, adapted)[1]
        setattr(adapted, policy, getattr(offered, policy))
        if qos_check_compatible(offered, adapted)[1] != before:
            return policy
    return POLICIES[0]


def _environment() -> dict[str, str]:
    """Return what decides who sees whom."""
    found = {"ROS_DOMAIN_ID": str(_domain()), "RMW": rclpy.get_rmw_implementation_identifier()}
    found |= {name: os.environ[name] for name in VISIBILITY[1:] if os.environ.get(name)}
    return found


def _domain() -> int:
    return int(os.environ.get("ROS_DOMAIN_ID") or 0)


def other_domains(ours: int, root: Path = Path("/")) -> Iterator[int]:
    """Yield the ROS domains other than ours whose ports are open on this machine.

    A DDS participant listens on UDP port 7400 + 250 x domain + 10 + 2 x (its number on the machine), says
    RTPS 2.2, 9.6.1.1. Domains above 101 share their ports with other programs' clients and are left out.
    """
    found = set()
    for table in ("proc/net/udp", "proc/net/udp6"):
        try:
            lines = (root / table).read_text().splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            port = re.match(r"\s*\d+:\s*[0-9A-F]+:([0-9A-F]{4})\s", line)
            domain, offset = divmod(int(port[1], 16) - 7400, 250) if port else (-1, 0)
            if 0 <= domain <= 101 and domain != ours and 10 <= offset < 50 and offset % 2 == 0:
                found.add(domain)
    yield from sorted(found)


@dataclass
class _Said:
    diagnosis: Diagnosis
    since_s: float
    next_s: float
    wait_s: float


class Watchdog:
    """Remembers what has been said about one camera, so that it is said once and not every second."""

    def __init__(self) -> None:
        """Nothing has been said yet."""
        self._said: _Said | None = None
        self._over = False

    @property
    def diagnosis(self) -> Diagnosis | None:
        """What is wrong now, as far as it is known."""
        return None if self._said is None else self._said.diagnosis

    def look(self, observation: InputObservation, now_s: float) -> tuple[str, bool] | None:
        """Look for the reason; return a line to log, if one is due, and whether it is a complaint.

        A finding is said when it is new and when its cause changes, and then again after growing times.

        Args:
            observation: all that is known.
            now_s: steady seconds.
        """
        diagnosis, said = diagnose(observation), self._said
        ended, self._over = observation.replay_is_over and not self._over, observation.replay_is_over
        if ended:
            self._said = None
            return f"{observation.topic}: the publisher of /clock has ended, and the images with it", False
        if diagnosis is None:
            if said is not None and observation.window.silent_s is None:
                return None  # another source has come, and has sent nothing yet
            self._said = None
            if said is None:
                return None
            away_s = now_s - said.since_s
            return (
                f"{observation.topic}: input is back after {away_s:.1f} s ({said.diagnosis.cause.value})",
                False,
            )
        if said is None or said.diagnosis.cause != diagnosis.cause:
            since_s = said.since_s if said is not None else now_s - _age_s(observation)
            self._said = _Said(diagnosis, since_s, now_s + FIRST_REMINDER_S, FIRST_REMINDER_S)
            return str(diagnosis), True
        said.diagnosis = diagnosis
        if now_s < said.next_s:
            return None
        said.wait_s = min(2 * said.wait_s, LAST_REMINDER_S)
        said.next_s = now_s + said.wait_s
        return f"{diagnosis} (for {now_s - said.since_s:.0f} s now)", True


def _age_s(observation: InputObservation) -> float:
    """Return how long the trouble has lasted when it is found."""
    silent_s = observation.window.silent_s
    if not observation.silent:
        return 0.0
    return observation.listening_s if silent_s is None else min(silent_s, observation.listening_s)
