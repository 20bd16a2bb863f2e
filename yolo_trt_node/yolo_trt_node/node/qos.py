"""The profiles of our topics, and the standard parameters that override them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any

from rclpy.exceptions import ParameterException
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
    from rclpy.node import Node
    from rclpy.publisher import Publisher
    from rclpy.subscription import Subscription


_PACKETS = 60  # two seconds of a video's packets may wait for a busy executor


def image_qos(reliability: ReliabilityPolicy, *, video: bool = False) -> QoSProfile:
    """Return the profile of an image subscription.

    Args:
        reliability: what is asked for.
        video: whether each message builds on those before it; else of a camera only the newest image counts.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=_PACKETS if video else 1,
        reliability=reliability,
        durability=DurabilityPolicy.VOLATILE,
    )


def answer_qos() -> QoSProfile:
    """Return the profile of topics that have a message for each image."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)


def latched_qos() -> QoSProfile:
    """Return the profile of topics whose last message reaches who comes late."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


def create_publisher(node: LifecycleNode, kind: type, topic: str, qos: QoSProfile) -> LifecyclePublisher:
    """Create a publisher that is silent until the node is active, and whose profile parameters override.

    The parameters are ``qos_overrides.<topic>.publisher.{history,depth,reliability}``, read at start.

    Raises:
        ValueError: an override is none of its policy's values.
    """
    return _overridable(node, node.create_lifecycle_publisher, kind, topic, qos)


def create_speaker(node: Node, kind: type, topic: str, qos: QoSProfile) -> Publisher:
    """Create a publisher like `create_publisher`'s that speaks in every state of the node.

    Raises:
        ValueError: an override is none of its policy's values.
    """
    return _overridable(node, node.create_publisher, kind, topic, qos)


def create_subscription(
    node: Node, kind: type, topic: str, callback: Callable[[Any], None], qos: QoSProfile
) -> Subscription:
    """Create a subscription whose profile parameters override, as those of publishers.

    Raises:
        ValueError: an override is none of its policy's values.
    """
    return _overridable(node, node.create_subscription, kind, topic, callback, qos)


def _overridable(node: Node, create: Callable[..., Any], kind: type, topic: str, *rest: Any) -> Any:
    # A copy: overrides are written into the profile that is given.
    *others, qos = rest
    options = QoSOverridingOptions.with_default_policies()
    try:
        return create(kind, topic, *others, copy(qos), qos_overriding_options=options)
    except (RuntimeError, ParameterException) as error:
        raise ValueError(f"{node.resolve_topic_name(topic)}: {error}") from error
