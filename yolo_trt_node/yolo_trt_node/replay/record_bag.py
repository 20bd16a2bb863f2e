"""Record topics into a new MCAP bag, until Ctrl-C.

Example:
    ros2 run yolo_trt_node record_bag flight_detections/ /detections /label_info
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import rclpy
from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from yolo_trt_node.replay.bags import BagError, BagWriter, typestore
from yolo_trt_node.replay.play_bag import message_class

_LOOK_PERIOD_S = 0.1


class Recorder(Node):
    """Subscribes to topics as they appear and writes what comes into a bag."""

    def __init__(self, topics: list[str], writer: BagWriter) -> None:
        """Look for the topics until all are there."""
        super().__init__("record_bag")
        self._missing = {self.resolve_topic_name(topic) for topic in topics}
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self._look_timer = self.create_timer(_LOOK_PERIOD_S, self._look)

    def _look(self) -> None:
        for topic in sorted(self._missing):
            offers = self.get_publishers_info_by_topic(topic)
            if not offers:
                continue
            self._missing.discard(topic)
            kind = offers[0].topic_type
            reliable = all(o.qos_profile.reliability == ReliabilityPolicy.RELIABLE for o in offers)
            latched = all(o.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for o in offers)
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=100,
                reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            )
            self.create_subscription(message_class(kind), topic, self._write_to(topic, kind), qos, raw=True)
            self.get_logger().info(f"recording {topic} ({kind})")
        if not self._missing:
            self.destroy_timer(self._look_timer)

    def _write_to(self, topic: str, kind: str) -> Callable[[bytes], None]:
        def write(message: bytes) -> None:
            self._writer.write(topic, kind, message, time.time_ns())
            self.counts[topic] += 1

        return write


def vision_msgs_definitions() -> Path:
    """Return the folder of the message definitions of the vision_msgs that ROS uses.

    Raises:
        BagError: no such package is to be found.
    """
    try:
        return Path(get_package_share_directory("vision_msgs")) / "msg"
    except PackageNotFoundError as error:
        raise BagError("the ROS package vision_msgs is not to be found; source the workspace") from error


def main() -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="folder of the new bag")
    parser.add_argument("topics", nargs="+", help="topics to record; waited for when they do not exist yet")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopping
        stopping = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        with BagWriter(arguments.bag, typestore(vision_msgs=vision_msgs_definitions())) as writer:
            recorder = Recorder(arguments.topics, writer)
            executor = SingleThreadedExecutor()
            executor.add_node(recorder)
            while not stopping:
                executor.spin_once(timeout_sec=_LOOK_PERIOD_S)
            executor.shutdown()
            recorder.destroy_node()
        for topic, count in sorted(recorder.counts.items()):
            print(f"recorded {count} messages of {topic}")
    except BagError as error:
        sys.exit(f"record_bag: {error}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
