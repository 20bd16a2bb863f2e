"""Where frames are, from /tf and /tf_static.

tf2_ros is no part of every ROS 2 that this node runs on (the wheels have none), and of what it does only one
look-up is needed: so what flies is what is tested, everywhere. The conventions are its own: /tf is
interpolated between two broadcasts and never extrapolated, /tf_static holds for ever.
"""

from __future__ import annotations

import bisect
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from yolo_trt_node.node.qos import create_subscription

if TYPE_CHECKING:
    from rclpy.node import Node
    from rclpy.subscription import Subscription

Floats = NDArray[np.float64]

# tf2's defaults: ten seconds are remembered, and a hundred messages wait for a busy receiver.
KEEP_NS = 10_000_000_000
_DEPTH = 100
# More than any vehicle has; beyond them memory would grow with whatever is broadcast.
_MOST_FRAMES = 1000
_MOST_POSES = 4000
_LONGEST_NAME = 256
# Broadcasts that lie further back than this are a clock that was set, not messages out of order.
_JUMP_NS = 1_000_000_000


class TransformError(LookupError):
    """A transform that is not known; the message says between which frames and why."""


class NotYetError(TransformError):
    """A transform that broadcasts to come may bring."""


@dataclass(frozen=True)
class FramePose:
    """A frame's pose in another.

    Attributes:
        rotation: 3 x 3, from this frame's axes to the other's.
        position: 3, of this frame's origin in the other, metres.
    """

    rotation: Floats
    position: Floats

    def __matmul__(self, inner: FramePose) -> FramePose:
        """Return the pose of a frame that has the pose ``inner`` in this one."""
        return FramePose(self.rotation @ inner.rotation, self.rotation @ inner.position + self.position)

    def inverse(self) -> FramePose:
        """Return the other frame's pose in this one."""
        return FramePose(self.rotation.T, -self.rotation.T @ self.position)


_HERE = FramePose(np.eye(3), np.zeros(3))


@dataclass
class _Link:
    """A frame's poses in its parent: quaternions (x, y, z, w) and positions by stamp, oldest first."""

    parent: str
    static: bool
    stamps_ns: list[int] = field(default_factory=list)
    quaternions: list[Floats] = field(default_factory=list)
    positions: list[Floats] = field(default_factory=list)


class TransformBuffer:
    """The last seconds of all transforms; may be filled in one thread and asked in others."""

    def __init__(self) -> None:
        """Start empty."""
        self._links: dict[str, _Link] = {}
        # Why broadcasts of a frame were ignored, the last time.
        self._refused: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(
        self,
        parent: str,
        child: str,
        stamp_ns: int,
        position: tuple[float, float, float],
        quaternion: tuple[float, float, float, float],
        *,
        static: bool,
    ) -> None:
        """Take one broadcast.

        Args:
            parent: the frame that the pose is given in.
            child: the frame whose pose it is.
            stamp_ns: when; of no meaning for a static one.
            position: x, y, z in metres.
            quaternion: x, y, z, w; one that is no rotation is ignored, as tf2 does, and `lookup` says so.
            static: whether it holds for ever.

        Of very many frames those that moved longest ago are forgotten; static ones are taken up to a limit.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        if max(len(parent), len(child)) > _LONGEST_NAME:
            return
        turn, place = np.array(quaternion, np.float64), np.array(position, np.float64)
        length = float(np.linalg.norm(turn))
        if not (math.isfinite(length) and abs(length - 1) < 0.01 and np.isfinite(place).all()):
            self._refuse(child, place, turn)
            return
        with self._lock:
            self._refused.pop(child, None)
            # The newest at the end, so that the first to be forgotten is the one that moved longest ago.
            link = self._links.pop(child, None)
            if link is not None:
                self._links[child] = link
            elif not self._make_room(static):
                return
            if link is None or link.parent != parent or link.static or static:
                link = self._links[child] = _Link(parent, static)
            stamps = link.stamps_ns
            if stamps and stamp_ns < stamps[-1] - _JUMP_NS:
                # A clock that was set back, or a bag that starts again: what was is not true any more.
                for history in (stamps, link.quaternions, link.positions):
                    history.clear()
            at = bisect.bisect_left(stamps, stamp_ns)
            if at < len(stamps) and stamps[at] == stamp_ns:
                return
            stamps.insert(at, stamp_ns)
            link.quaternions.insert(at, turn / length)
            link.positions.insert(at, place)
            old = bisect.bisect_left(stamps, stamps[-1] - KEEP_NS)
            old = max(old, len(stamps) - _MOST_POSES)
            for history in (stamps, link.quaternions, link.positions):
                del history[:old]

    def _refuse(self, child: str, place: Floats, turn: Floats) -> None:
        """Remember a broadcast that is no pose, of so many frames at most."""
        shown = ", ".join(f"{value:g}" for value in (turn if np.isfinite(place).all() else place))
        what = "rotation" if np.isfinite(place).all() else "translation"
        with self._lock:
            self._refused.pop(child, None)
            if len(self._refused) >= _MOST_FRAMES:
                del self._refused[next(iter(self._refused))]
            self._refused[child] = f"{child!r} is broadcast with the {what} ({shown}), which is none"

    def _make_room(self, static: bool) -> bool:
        """Make room for one more frame; return whether there is any."""
        kin = [child for child, link in self._links.items() if link.static == static]
        if len(kin) < _MOST_FRAMES:
            return True
        if static:
            return False
        del self._links[kin[0]]
        return True

    def _with_refused(self, error: TransformError, frames: set[str]) -> TransformError:
        """Say of an error's frames, too, what was broadcast of them and is no pose."""
        reasons = [self._refused[frame] for frame in sorted(frames) if frame in self._refused]
        return type(error)("; ".join([*reasons, str(error)])) if reasons else error

    def lookup(self, target: str, source: str, stamp_ns: int) -> FramePose:
        """Return the pose of the frame ``source`` in the frame ``target`` at a time.

        Raises:
            NotYetError: a frame is unknown, the two are not connected, or the newest broadcast of the way
                between them is older than that.
            TransformError: the time lies before what is remembered.
        """
        target, source = target.lstrip("/"), source.lstrip("/")
        with self._lock:
            from_source, from_target = self._way_up(source), self._way_up(target)
            common = next((frame for frame in from_source if frame in from_target), None)
            ways = {*from_source, *from_target}
            if common is None:
                error = NotYetError(self._unconnected(target, source, from_source, from_target))
                raise self._with_refused(error, ways)
            pose = back = _HERE
            try:
                for frame in from_source[: from_source.index(common)]:
                    pose = self._pose(frame, stamp_ns) @ pose
                for frame in from_target[: from_target.index(common)]:
                    back = self._pose(frame, stamp_ns) @ back
            except TransformError as error:
                raise self._with_refused(error, ways) from None
        return back.inverse() @ pose

    def _way_up(self, frame: str) -> list[str]:
        """List a frame and all above it."""
        way = [frame]
        while way[-1] in self._links and self._links[way[-1]].parent not in way:
            way.append(self._links[way[-1]].parent)
        return way

    def _unconnected(self, target: str, source: str, from_source: list[str], from_target: list[str]) -> str:
        text = f"no transform from {source!r} to {target!r}: "
        known = set(self._links) | {link.parent for link in self._links.values()}
        if not known:
            return text + "nothing was received on /tf or /tf_static"
        missing = [frame for frame in (source, target) if frame not in known]
        if missing:
            return (
                text + "nobody broadcasts " + " or ".join(map(repr, missing)) + "; the frames on /tf and "
                "/tf_static are " + ", ".join(sorted(known))
            )
        return text + (
            f"they hang in different trees; above {source!r} stands {from_source[-1]!r}, above {target!r} "
            f"stands {from_target[-1]!r}, and nobody broadcasts one in the other"
        )

    def _pose(self, child: str, stamp_ns: int) -> FramePose:
        """Return a frame's pose in its parent."""
        link = self._links[child]
        stamps = link.stamps_ns
        at = bisect.bisect_left(stamps, stamp_ns)
        if link.static:
            return FramePose(_matrix(link.quaternions[-1]), link.positions[-1])
        if at < len(stamps) and stamps[at] == stamp_ns:
            return FramePose(_matrix(link.quaternions[at]), link.positions[at])
        link_text = f"the transform from {child!r} to {link.parent!r}"
        if at == len(stamps):
            late = (stamp_ns - stamps[-1]) / 1e9
            raise NotYetError(f"{link_text} is known only until {late:.3f} s before the image's stamp")
        if at == 0:
            early = (stamps[0] - stamp_ns) / 1e9
            raise TransformError(f"{link_text} is known only from {early:.3f} s after the image's stamp on")
        share = (stamp_ns - stamps[at - 1]) / (stamps[at] - stamps[at - 1])
        place = (1 - share) * link.positions[at - 1] + share * link.positions[at]
        return FramePose(_matrix(_between(link.quaternions[at - 1], link.quaternions[at], share)), place)


class TransformListener:
    """Fills a buffer from /tf and /tf_static while it lives."""

    def __init__(self, node: Node, heard: Callable[[], None]) -> None:
        """Subscribe.

        Args:
            node: whose executor receives.
            heard: called after each message.

        Raises:
            ValueError: the package tf2_msgs is not there.
        """
        try:
            from tf2_msgs.msg import TFMessage
        except ImportError as error:
            raise ValueError(
                "ground_frame needs the package tf2_msgs (sudo apt install ros-$ROS_DISTRO-tf2-msgs), which "
                f"cannot be imported: {error}"
            ) from error
        self.buffer = TransformBuffer()
        self._node = node
        self._heard = heard
        self._subscriptions: list[Subscription] = []
        for topic, durability, static in (
            ("/tf", DurabilityPolicy.VOLATILE, False),
            ("/tf_static", DurabilityPolicy.TRANSIENT_LOCAL, True),
        ):
            receive = partial(self._receive, static=static)
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=_DEPTH,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=durability,
            )
            self._subscriptions.append(create_subscription(node, TFMessage, topic, receive, qos))

    def close(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _receive(self, message: object, *, static: bool) -> None:
        for item in message.transforms:  # type: ignore[attr-defined]
            place, turn, stamp = item.transform.translation, item.transform.rotation, item.header.stamp
            self.buffer.add(
                item.header.frame_id,
                item.child_frame_id,
                stamp.sec * 1_000_000_000 + stamp.nanosec,
                (place.x, place.y, place.z),
                (turn.x, turn.y, turn.z, turn.w),
                static=static,
            )
        self._heard()


def _between(a: Floats, b: Floats, share: float) -> Floats:
    """Turn steadily from one unit quaternion to another (slerp), the short way."""
    cosine = float(a @ b)
    if cosine < 0:
        b, cosine = -b, -cosine
    angle = math.acos(min(1.0, cosine))
    if angle < 1e-6:
        return a
    return (math.sin((1 - share) * angle) * a + math.sin(share * angle) * b) / math.sin(angle)


def _matrix(quaternion: Floats) -> Floats:
    """Return the rotation matrix of a unit quaternion x, y, z, w."""
    x, y, z, w = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
