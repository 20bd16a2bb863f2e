"""One camera: where its images come from, where its answers go, and what became of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from rcl_interfaces.msg import ParameterDescriptor
from rclpy.qos import QoSPolicyKind, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription
from sensor_msgs.msg import Image
from vision_msgs.msg import Detection2DArray, Detection3DArray

try:
    from rclpy.event_handler import (
        QoSMessageLostInfo,
        QoSRequestedIncompatibleQoSInfo,
        SubscriptionEventCallbacks,
    )
except ModuleNotFoundError:  # Humble
    from rclpy.qos_event import (
        QoSMessageLostInfo,
        QoSRequestedIncompatibleQoSInfo,
        SubscriptionEventCallbacks,
    )

from yolo_trt_node.health.statistics import CameraStatistics
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.feed import VideoFeed
from yolo_trt_node.images.reader import video_codec
from yolo_trt_node.node.image_source import (
    TYPE_NAMES,
    VIDEO_TYPES,
    ImageSource,
    RateLimit,
    choose_source,
)
from yolo_trt_node.node.messages import header_of
from yolo_trt_node.node.qos import answer_qos, create_publisher, image_qos
from yolo_trt_node.node_options import RELIABILITIES, LiveOptions
from yolo_trt_node.tracking import Tracker

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode, LifecyclePublisher

    from yolo_trt_node.node.ground import GroundProjection

# Image, CompressedImage, or what `image_source` finds; a frame of a video that is decoded already.
AnyImage: TypeAlias = Any

_REPEAT_S = 5.0
RATE_REASON = "max_rate_hz"
UNHEARD_REASON = "nobody listens"
# Where the reliable ones among mixed publishers send nothing for so long, all are read.
MIXED_PATIENCE_S = 2.0


class CameraChannel:
    """One camera of the node.

    Attributes:
        name: as in the parameter ``cameras``; empty for the only one.
        topic: full name of its image topic.
        source: what is subscribed to; ``None`` while the node is not active.
        statistics: what became of its images.
        outputs: its publishers, by the last part of their topic.
        tracker: gives its detections ids; ``None`` where nothing tracks.
        ground: puts its detections on the ground; ``None`` where nothing is projected.
    """

    def __init__(
        self,
        node: LifecycleNode,
        name: str,
        *,
        transport: str,
        reliability: str,
        live: Callable[[], LiveOptions],
        max_pixels: int = 64_000_000,
        projected: bool = False,
    ) -> None:
        """Create the publishers; the subscription waits for `open`.

        Args:
            node: the node.
            name: empty: topics ``image``, ``detections``, ``annotated``; a name: these under it; a topic
                (it holds a slash): its images, and the outputs under it.
            transport: as in `choose_source`.
            reliability: likewise.
            live: gives what may change at run time, as it is now.
            max_pixels: larger frames of compressed video are refused.
            projected: whether there is an output ``detections_3d``, too.
        """
        self.name = name
        self.topic = node.resolve_topic_name(name if "/" in name else self._under("image", name))
        self.source: ImageSource | None = None
        self.statistics = CameraStatistics()
        self._node = node
        self._transport = transport
        self._reliability = reliability
        self._live = live
        self._rate = RateLimit()
        self._max_pixels = max_pixels
        self._feed: VideoFeed | None = None
        self._video = False
        self._lock = threading.Lock()
        self._put: Callable[[AnyImage], bool] | None = None
        self._subscription: Subscription | None = None
        self._publishers: frozenset[tuple[int, ...]] = frozenset()
        self._gave_up = False
        self._heard_s = 0.0
        self._asked: dict[str, list[Any]] = {}
        self._silent_until_s: dict[str, float] = {}
        self.tracker: Tracker | None = None
        self.ground: GroundProjection | None = None
        kinds = {"detections": Detection2DArray, "annotated": Image}
        if projected:
            kinds["detections_3d"] = Detection3DArray
        self.outputs: dict[str, LifecyclePublisher] = {
            topic: create_publisher(node, kind, self._under(topic, name), answer_qos())
            for topic, kind in kinds.items()
        }

    @staticmethod
    def _under(topic: str, name: str) -> str:
        return f"{name}/{topic}" if name else topic

    @property
    def wanted(self) -> bool:
        """Whether its images are to be looked at: somebody listens, or the parameter says so."""
        return self._live().infer_without_listeners or any(
            publisher.get_subscription_count() for publisher in self.outputs.values()
        )

    @property
    def input(self) -> tuple[str, str]:
        """Full name of the topic that is read, and its type as the graph names it."""
        source = self.source or ImageSource(self.topic, Image, False)
        return source.topic, TYPE_NAMES[source.kind]

    def open(self, put: Callable[[AnyImage], bool]) -> None:
        """Subscribe.

        Args:
            put: takes each image; returns whether it displaced one that was still waiting.
        """
        with self._lock:
            self._asked = {}
            self._put = put
            self._subscribe(self._choose())

    def follow(self) -> None:
        """Subscribe anew where the publishers have become others than before."""
        with self._lock:
            if self._put is None or self.source is None:
                return
            before = self.source
            self._asked = {}
            changed = self._publishers_changed(before)
            source = self._choose()
            if self._feed is not None and not self._video and source == before:
                # Video under a name that stills have as well: from now on with room for its packets.
                self._video = True
                self._unsubscribe()
                self._subscribe(source)
            if source != before:
                self._unsubscribe()
                self._subscribe(source)
                self._node.get_logger().info(
                    f"{self.topic}: now reading {TYPE_NAMES[source.kind]} from {source.topic}, "
                    f"{source.reliability.name.lower()}, as its publishers offer it{self._offered(source)}"
                )
            if changed or (source.topic, source.kind) != (before.topic, before.kind):
                self.statistics.restart()

    def _publishers_of(self, topic: str) -> list[Any]:
        """Ask the graph, which is slow, once a look for each topic."""
        if topic not in self._asked:
            self._asked[topic] = self._node.get_publishers_info_by_topic(topic)
        return self._asked[topic]

    def _publishers_changed(self, source: ImageSource) -> bool:
        """Note who publishes what is read; return whether those of before have all gone and others come."""
        infos = self._publishers_of(source.topic)
        now = frozenset(
            tuple(info.endpoint_gid) for info in infos if info.topic_type == TYPE_NAMES[source.kind]
        )
        if not now or now == self._publishers:
            # Of no effect where all are reliable.
            self._gave_up |= source.reliable and time.monotonic() - self._heard_s > MIXED_PATIENCE_S
            return False
        replaced = bool(self._publishers) and not now & self._publishers
        self._publishers, self._gave_up = now, False
        self._heard_s = time.monotonic()
        return replaced

    def _offered(self, source: ImageSource) -> str:
        """Name the publishers of a topic, where some offer less than others."""
        infos = self._publishers_of(source.topic)
        offers = {
            f"{info.node_namespace.rstrip('/')}/{info.node_name}": info.qos_profile.reliability.name.lower()
            for info in infos
        }
        if len(set(offers.values())) < 2:
            return ""
        return f" ({', '.join(f'{name} {offer}' for name, offer in sorted(offers.items()))})"

    def close(self) -> None:
        """Stop listening."""
        with self._lock:
            self._put = None
            self._unsubscribe()
            self.source = None
        if self.ground is not None:
            self.ground.close()

    def destroy(self) -> None:
        """Give everything back."""
        self.close()
        for publisher in self.outputs.values():
            self._node.destroy_lifecycle_publisher(publisher)
        self.outputs = {}

    def _choose(self) -> ImageSource:
        def offers(topic: str) -> list[tuple[str, bool]]:
            return [
                (info.topic_type, info.qos_profile.reliability == ReliabilityPolicy.RELIABLE)
                for info in self._publishers_of(topic)
            ]

        source = choose_source(
            self.topic, self._transport, self._reliability, offers, self.source, self._gave_up
        )
        override = self._reliability_override(source.topic)
        return source if override == "auto" else replace(source, reliable=override == "reliable")

    def _reliability_override(self, topic: str) -> str:
        """Return what the standard parameter says; rclpy's own reading would freeze what it met first."""
        name = f"qos_overrides.{topic}.subscription.reliability"
        if not self._node.has_parameter(name):
            descriptor = ParameterDescriptor(
                description=f"reliability for subscription `{topic}`; auto: as image_reliability says",
                additional_constraints="one of: " + ", ".join(RELIABILITIES),
                read_only=True,
            )
            self._node.declare_parameter(name, "auto", descriptor)
        value = str(self._node.get_parameter(name).value)
        if value not in RELIABILITIES:
            raise ValueError(f"{name} is {value!r}; use one of {', '.join(RELIABILITIES)}")
        return value

    def _subscribe(self, source: ImageSource) -> None:
        self._video = TYPE_NAMES[source.kind] in VIDEO_TYPES or (self._video and source == self.source)
        self._subscription = self._node.create_subscription(
            source.kind,
            source.topic,
            self._on_image,
            image_qos(source.reliability, video=self._video),
            event_callbacks=SubscriptionEventCallbacks(
                message_lost=self._on_lost, incompatible_qos=self._on_incompatible
            ),
            qos_overriding_options=QoSOverridingOptions((QoSPolicyKind.HISTORY, QoSPolicyKind.DEPTH)),
        )
        self.source = source
        self._heard_s = time.monotonic()

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        if self._feed is not None:
            self._feed.close()
            self._feed = None

    def _on_lost(self, event: QoSMessageLostInfo) -> None:
        self.statistics.lost(event.total_count_change)
        if (feed := self._feed) is not None:
            feed.lost()

    def _on_incompatible(self, event: QoSRequestedIncompatibleQoSInfo) -> None:
        """Say what follows, in place of rcl's "no messages will be received"."""
        if (source := self.source) is None:
            return
        policy = QoSPolicyKind(int(event.last_policy_kind)).name.lower()
        text = f"{source.topic}: a publisher offers another {policy} than this node asks for"
        if policy == "reliability" and self._reliability == "auto":
            self._node.get_logger().info(f"{text}; image_reliability auto settles it")
        else:
            self._node.get_logger().warning(f"{text}, and its images will not come; see /diagnostics")

    def _on_image(self, message: AnyImage) -> None:
        self._heard_s = time.monotonic()
        header = header_of(message)
        self.statistics.received(header.stamp.sec + header.stamp.nanosec * 1e-9)
        if self._put is None:
            return
        if video_codec(message):
            if (feed := self._feed) is None:
                feed = self._feed = VideoFeed(self._max_pixels, self._offer, self._refuse, self._tell)
            if not feed.add(message, header):
                self.statistics.dropped()
            return
        self._offer(message)

    def _tell(self, text: str) -> None:
        self._node.get_logger().info(f"{self.topic}: {text}")

    def _refuse(self, error: ImageError) -> None:
        """Count a packet of video that gives no frame; the same is said again only after a while."""
        self.statistics.unreadable(error.reason)
        # By hand: the logger's own throttle would let one camera silence the others.
        if time.monotonic() > self._silent_until_s.get(error.reason, 0.0):
            self._silent_until_s[error.reason] = time.monotonic() + _REPEAT_S
            self._node.get_logger().warning(f"{self.topic}: {error}")

    def _offer(self, message: AnyImage) -> None:
        """Hand an image on, or a frame of a video, if it is wanted now."""
        if (put := self._put) is None:
            return
        if not self.wanted:
            self.statistics.skipped(UNHEARD_REASON)
        elif not self._rate.take(time.monotonic(), self._live().max_rate_hz):
            self.statistics.skipped(RATE_REASON)
        elif put(message):
            self.statistics.dropped()
