"""The profiles of our topics, and the standard parameters that override them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode, LifecyclePublisher


# Functions, not constants: overrides are written into the profile that is given.
def image_qos(reliability: ReliabilityPolicy) -> QoSProfile:
    """Return the profile of an image subscription: of a camera only the newest image counts."""
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=1,
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
    try:
        return node.create_lifecycle_publisher(
            kind, topic, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )
    except RuntimeError as error:
        raise ValueError(f"{node.resolve_topic_name(topic)}: {error}") from error
