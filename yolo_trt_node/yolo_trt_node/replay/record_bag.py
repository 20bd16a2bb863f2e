"""Record topics into a new bag, until Ctrl-C.

Examples:
    ros2 run yolo_trt_node record_bag flight_detections/ /detections /label_info
    ros2 run yolo_trt_node record_bag out/ /detections --ros-args -p use_sim_time:=true

With use_sim_time the messages are logged at the time of the recording that is played (/clock), so that they
lie beside its images.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args

from yolo_trt_node.replay.bags import (
    STORAGES,
    BagError,
    BagWriter,
    begins_with_stamp,
    read_stamp,
    typestore,
)
from yolo_trt_node.replay.play_images import message_class
from yolo_trt_node.stop_signals import stop_flag

_LOOK_PERIOD_S = 0.1


class Recorder(Node):
    """Subscribes to topics as they appear and writes what comes into a bag.

    Attributes:
        counts: how many messages came, by topic.
        arrivals: of each topic whose messages have a header, the stamps and when they came (wall clock), in
            nanoseconds.
    """

    def __init__(self, topics: list[str], writer: BagWriter, store: Any) -> None:
        """Look for the topics until all are there."""
        super().__init__("record_bag")
        self._missing = {self.resolve_topic_name(topic) for topic in topics}
        self._writer = writer
        self._store = store
        self.counts: Counter[str] = Counter()
        self.arrivals: dict[str, list[tuple[int, int]]] = {}

    def look(self) -> None:
        """Subscribe to the topics that have appeared."""
        if not self.get_clock().now().nanoseconds:
            return  # Simulated time has not begun; what came now would be logged at 1970.
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
            self._writer.add(topic, kind, latched=latched)
            self.create_subscription(message_class(kind), topic, self._write_to(topic, kind), qos, raw=True)
            self.get_logger().info(f"recording {topic} ({kind})")

    def _write_to(self, topic: str, kind: str) -> Callable[[bytes], None]:
        stamped = begins_with_stamp(self._store, kind)
        if stamped:
            self.arrivals[topic] = []

        def write(message: bytes) -> None:
            arrived_ns = time.time_ns()
            self._writer.write(topic, kind, message, self.get_clock().now().nanoseconds)
            self.counts[topic] += 1
            if stamped:
                self.arrivals[topic].append((read_stamp(message), arrived_ns))

        return write


def main() -> None:
    """Parse the command line and record."""
    parser = argparse.ArgumentParser(
        prog="record_bag", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="folder of the new bag")
    parser.add_argument("topics", nargs="+", help="topics to record; waited for when they do not exist yet")
    parser.add_argument(
        "--storage",
        choices=tuple(STORAGES),
        default="mcap",
        help="how the bag is stored (%(default)s)",
    )
    parser.add_argument(
        "--summary", type=Path, help="write counts, stamps and times of arrival into this JSON file"
    )
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = stop_flag(second_ends=False)
    try:
        store = typestore()
        with BagWriter(arguments.bag, store, arguments.storage) as writer:
            recorder = Recorder(arguments.topics, writer, store)
            executor = SingleThreadedExecutor()
            executor.add_node(recorder)
            looked = 0.0
            while not stopping():
                # No ROS timer: on simulated time it would stand still until the time begins.
                if time.monotonic() - looked > _LOOK_PERIOD_S:
                    looked = time.monotonic()
                    recorder.look()
                executor.spin_once(timeout_sec=_LOOK_PERIOD_S)
            executor.shutdown()
            recorder.destroy_node()
        if arguments.summary:
            arguments.summary.write_text(json.dumps({"arrivals": recorder.arrivals}))
        for topic, count in sorted(recorder.counts.items()):
            print(f"recorded {count} messages of {topic}")
    except BagError as error:
        sys.exit(f"record_bag: {error}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
