"""Publish a bag, a folder of images or a video as a camera would.

Examples:
    ros2 run yolo_trt_node play_images photos/ --fps 5 --loop --topic /camera/image_raw
    ros2 run yolo_trt_node play_images flight.mp4 --compressed
    ros2 run yolo_trt_node play_images flight.mp4 --video h264
    ros2 run yolo_trt_node play_images flight_bag/ --clock
    ros2 run yolo_trt_node play_images flight_bag/ --restamp --wait-for-subscribers 1

Of a bag it plays the images, camera infos and transforms (or --topics), with the stamps they have; the images
of a folder or a video are stamped when they are published. rosbag2 is not needed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosgraph_msgs.msg import Clock

from yolo_trt_node.replay.bags import BagError, begins_with_stamp, read_stamp, typestore, with_stamp
from yolo_trt_node.replay.coders import VIDEO_CODECS, VIDEO_MESSAGES
from yolo_trt_node.replay.messages import IMAGE_TYPES
from yolo_trt_node.replay.sources import Recording, SourceError, Topic, open_source
from yolo_trt_node.stop_signals import interrupted_once

PLAYER_LOG_PERIOD_S = 10.0
"""How often it says how far it is, where nobody sits at a terminal."""

# As a camera driver has it: reliable serves every kind of subscriber.
_CAMERA_DEPTH = 5
_CLOCK_PERIOD_S = 0.01
_LOOK_PERIOD_S = 0.02
# A connection is known to one side before the other; and the detector, having found a publisher, subscribes
# anew with the reliability that it offers.
_SETTLE_S = 1.0
# What is still on its way to reliable subscribers is lost when the publisher goes.
_LINGER_S = 0.5
_TRANSFORMS = "tf2_msgs/msg/TFMessage"


def message_class(name: str) -> Any:
    """Return the rclpy class of a type name such as ``sensor_msgs/msg/Image``.

    Raises:
        BagError: its package is not installed.
    """
    package, _, kind = name.split("/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError) as error:
        raise BagError(f"the message type {name} is not installed here (package {package})") from error


class SimulatedClock:
    """Publishes the time of the recording on ``/clock``, never backwards within one pass."""

    def __init__(self, node: Node) -> None:
        """Create the publisher."""
        self._publisher = node.create_publisher(Clock, "/clock", 10)
        self._last_ns = -1
        self.set(0, 0.0, 1.0)

    def set(self, start_ns: int, start: float, rate: float) -> None:
        """Begin a pass.

        Args:
            start_ns: the time that it begins at, nanoseconds.
            start: when it begins, by the monotonic clock in seconds.
            rate: how many times as fast as real time it goes.
        """
        self._start_ns, self._start, self._rate = start_ns, start, rate
        self._last_ns = -1

    def tick(self, now: float) -> None:
        """Publish the time that belongs to a moment of the monotonic clock, in seconds."""
        time_ns = self._start_ns + max(0, round((now - self._start) * self._rate * 1e9))
        if time_ns >= self._last_ns:
            self._last_ns = time_ns
            seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
            self._publisher.publish(Clock(clock=Time(sec=seconds, nanosec=nanoseconds)))


class Player:
    """Publishes a source in its rhythm.

    Attributes:
        published: of each image topic, stamp in the source, stamp as published and time of publication (wall
            clock), in nanoseconds; kept only where a summary is wanted.
        frames: how many images were published.
        worst_delay_s: how late a message was at worst.
    """

    def __init__(self, source: Recording, store: Any, arguments: argparse.Namespace) -> None:
        """Create the publishers."""
        self._source = source
        self._store = store
        self._arguments = arguments
        self._node = rclpy.create_node("play_images")
        self._clock = SimulatedClock(self._node) if arguments.clock else None
        self._restamp = arguments.restamp or not source.has_stamps
        self._images = {name for name, topic in source.topics.items() if topic.kind in IMAGE_TYPES}
        self._publishers = {name: p for name, t in source.topics.items() if (p := self._publisher(name, t))}
        if not self._publishers:
            self.close()
            raise SourceError(f"{arguments.source}: none of {', '.join(source.topics)} can be played here")
        self.published: dict[str, list[tuple[int, int, int]]] = {name: [] for name in sorted(self._images)}
        self.frames = 0
        self.worst_delay_s = 0.0

    def _publisher(self, name: str, topic: Topic) -> Publisher | None:
        """Create a publisher; None, and a line in the log, for a type that is not installed."""
        try:
            kind = message_class(topic.kind)
        except BagError as error:
            print(f"play_images: {name} is left out: {error}", file=sys.stderr)
            return None
        return self._node.create_publisher(
            kind,
            name,
            QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=_CAMERA_DEPTH,
                reliability=ReliabilityPolicy.RELIABLE,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE,
            ),
        )

    def wait(self) -> None:
        """Wait until everybody who was asked for is there.

        Raises:
            SourceError: they did not come in time.
        """
        arguments = self._arguments
        wanted = arguments.wait_for_subscribers
        if not wanted and not arguments.wait_for:
            return
        tell("waiting for subscribers")
        patience = time.monotonic() + arguments.wait_timeout
        watched = [self._publishers[name] for name in sorted(self._images) if name in self._publishers]
        if self._clock:
            # Nodes on simulated time stand still, and do not even start up, before the first tick.
            self._clock.set(time.time_ns() if self._restamp else self._source.start_ns, time.monotonic(), 0.0)
        complete_since = time.monotonic()
        while time.monotonic() - complete_since < _SETTLE_S:
            self._sleep_until(time.monotonic() + _LOOK_PERIOD_S)
            lonely = [
                f"{p.topic_name} has {p.get_subscription_count()} of {wanted} subscribers"
                for p in watched
                if p.get_subscription_count() < wanted
            ]
            for topic in arguments.wait_for:
                if not self._node.count_publishers(topic):
                    lonely.append(f"{topic} has no publisher")
                if not self._node.count_subscribers(topic):
                    lonely.append(f"{topic} has no subscriber")
            if lonely:
                complete_since = time.monotonic()
                if complete_since > patience:
                    raise SourceError(f"after {arguments.wait_timeout:g} s {'; '.join(lonely)}")

    def play(self) -> None:
        """Publish from the beginning to the end, once or for ever."""
        while True:
            end = self._play_once()
            if not self._arguments.loop:
                break
            self._sleep_until(end)
        self._sleep_until(time.monotonic() + _LINGER_S)

    def close(self) -> None:
        """Give the node back."""
        self._node.destroy_node()

    def summary(self) -> dict[str, Any]:
        """Return what was done, for a JSON file."""
        return {
            "frames": self.frames,
            "unreadable": self._source.unreadable,
            "worst_delay_s": self.worst_delay_s,
            "published": self.published,
        }

    def _play_once(self) -> float:
        """Publish from the beginning to the end; return when the next pass is due, by the monotonic clock."""
        source, rate = self._source, self._arguments.rate
        start, start_ns = time.monotonic(), time.time_ns()
        if self._clock:
            self._clock.set(start_ns if self._restamp else source.start_ns, start, rate)
        # On simulated time the stamps keep their rhythm, and the time goes faster or slower.
        pace = 1.0 if self._clock else rate
        first_ns: int | None = None
        count, shown, due = 0, start, start
        for message in source.messages():
            if message.topic not in self._publishers:
                continue
            due = start + (message.time_ns - source.start_ns) / 1e9 / rate
            self._sleep_until(due)
            self.worst_delay_s = max(self.worst_delay_s, time.monotonic() - due)
            kind = source.topics[message.topic].kind
            stamped = begins_with_stamp(self._store, kind)
            if self._restamp and first_ns is None:
                # One shift for all keeps the rhythm of the stamps as the camera gave it.
                first_ns = read_stamp(message.data) if stamped else message.time_ns
            data = message.data
            if first_ns is not None:
                data = restamped(self._store, kind, data, first_ns, start_ns, pace)
            self._publishers[message.topic].publish(data)
            count += 1
            if message.topic in self._images:
                self.frames += 1
                if self._arguments.summary:
                    stamps = read_stamp(message.data), read_stamp(data)
                    self.published[message.topic].append((*stamps, time.time_ns()))
            if time.monotonic() - shown > (0.5 if sys.stderr.isatty() else PLAYER_LOG_PERIOD_S):
                shown = time.monotonic()
                tell(f"playing {count}/{source.count or '?'}", passing=True)
        if not count:
            raise SourceError(f"{self._arguments.source}: not one message could be played")
        seconds = max(1e-9, time.monotonic() - start)
        late = f", at worst {1e3 * self.worst_delay_s:.0f} ms late" if self.worst_delay_s > 0.01 else ""
        tell(f"played {count} messages in {seconds:.1f} s{late}")
        return due + source.period_ns / 1e9 / rate

    def _sleep_until(self, due: float) -> None:
        """Sleep until a moment of the monotonic clock, and keep the simulated time going meanwhile."""
        while self._clock and due - time.monotonic() > _CLOCK_PERIOD_S:
            self._clock.tick(time.monotonic())
            time.sleep(min(_CLOCK_PERIOD_S, max(0.0, due - time.monotonic())))
        time.sleep(max(0.0, due - time.monotonic()))
        if self._clock:
            self._clock.tick(due)


def tell(text: str, *, passing: bool = False) -> None:
    """Say how far it is: on a terminal the next text takes a passing one's place."""
    if sys.stderr.isatty():
        print(f"\r  {text}   ", end="" if passing else "\n", file=sys.stderr, flush=True)
    else:
        print(f"play_images: {text}", file=sys.stderr, flush=True)


def restamped(store: Any, kind: str, data: bytes, first_ns: int, start_ns: int, pace: float) -> bytes:
    """Return a message with its stamps moved, where its type has any.

    Args:
        store: the message types.
        kind: type name such as ``sensor_msgs/msg/Image``.
        data: CDR with its 4-byte encapsulation.
        first_ns: the recording's first stamp, nanoseconds.
        start_ns: what it becomes.
        pace: how many times closer together the stamps come to lie.
    """

    def moved(stamp_ns: int) -> int:
        return start_ns + round((stamp_ns - first_ns) / pace)

    if begins_with_stamp(store, kind):
        return with_stamp(data, moved(read_stamp(data)))
    if kind == _TRANSFORMS:
        message = store.deserialize_cdr(data, kind)
        for transform in message.transforms:
            stamp = transform.header.stamp
            stamp_ns = moved(stamp.sec * 1_000_000_000 + stamp.nanosec)
            stamp.sec, stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
        return bytes(store.serialize_cdr(message, kind))
    return data


def main() -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(
        prog="play_images", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, help="a rosbag2 bag (sqlite3 or MCAP), a folder of images, a video"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="how many times as fast (%(default)s)")
    parser.add_argument(
        "--fps",
        type=float,
        default=0.0,
        help="images a second; of a folder 10, of a video as the file says",
    )
    parser.add_argument("--loop", action="store_true", help="begin again at the end, until Ctrl-C")
    parser.add_argument("--topics", nargs="+", default=[], help="of a bag, play only these topics")
    parser.add_argument(
        "--topic",
        default="",
        help="publish the images here; compressed ones under TOPIC/compressed. Default: a bag's own name, "
        "else /camera/image_raw",
    )
    parser.add_argument(
        "--frame-id", default="camera", help="of a folder's or a video's images; default: %(default)s"
    )
    parser.add_argument(
        "--compressed",
        action="store_true",
        help="publish sensor_msgs/CompressedImage: JPEG and PNG files as they are, all else as JPEG",
    )
    parser.add_argument(
        "--video",
        choices=tuple(VIDEO_CODECS),
        default="",
        help="publish compressed video, as a drone does (needs PyAV)",
    )
    parser.add_argument(
        "--video-message",
        choices=tuple(VIDEO_MESSAGES),
        default="compressed",
        help="its packets as sensor_msgs/CompressedImage, ffmpeg_image_transport_msgs/FFMPEGPacket (under "
        "TOPIC/ffmpeg), foxglove_msgs/CompressedVideo (TOPIC/foxglove) or sensor_msgs/Image without a size; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--clock",
        action="store_true",
        help="publish the recording's time on /clock, for nodes with use_sim_time",
    )
    parser.add_argument(
        "--restamp",
        action="store_true",
        help="of a bag: move all stamps so that the first is now, as if the flight were live",
    )
    parser.add_argument(
        "--wait-for-subscribers", type=int, default=0, metavar="N", help="begin when each image topic has N"
    )
    parser.add_argument(
        "--wait-for",
        nargs="+",
        default=[],
        metavar="TOPIC",
        help="begin when each of these has a publisher and a subscriber",
    )
    parser.add_argument(
        "--wait-timeout",
        type=float,
        default=30.0,
        metavar="S",
        help="for at most so long (%(default)s)",
    )
    parser.add_argument("--summary", type=Path, help="write what was played into this JSON file")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if arguments.rate <= 0 or arguments.fps < 0:
        parser.error("--rate and --fps must be greater than 0")
    if arguments.video and arguments.compressed:
        parser.error("--compressed sends stills, --video packets of video: choose one")

    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    interrupted_once()
    try:
        play_recording(arguments)
    except (BagError, SourceError) as error:
        sys.exit(f"play_images: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        rclpy.try_shutdown()


def play_recording(arguments: argparse.Namespace) -> None:
    """Play; the summary is written also where that is cut short."""
    store = typestore()
    with open_source(
        arguments.source.expanduser(),
        store,
        topics=arguments.topics,
        topic=arguments.topic,
        frame_id=arguments.frame_id,
        fps=arguments.fps,
        compressed=arguments.compressed,
        video=arguments.video,
        video_message=arguments.video_message,
    ) as source:
        player = Player(source, store, arguments)
        try:
            tell(f"{arguments.source}: {', '.join(sorted(source.topics))}")
            player.wait()
            player.play()
        finally:
            if arguments.summary:
                arguments.summary.write_text(json.dumps(player.summary()))
            player.close()


if __name__ == "__main__":
    main()
