"""Play a bag's messages over DDS, as a camera would publish them.

Examples:
    ros2 run yolo_trt_node play_bag flight/
    ros2 run yolo_trt_node play_bag flight/ --restamp --wait-for-subscribers 1
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
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from rclpy.utilities import remove_ros_args
from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from yolo_trt_node.replay.bags import BagError, open_bag, read_stamp, shift_stamp

_CAMERA_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.RELIABLE)


def message_class(name: str) -> Any:
    """Return the rclpy class of a type name such as ``sensor_msgs/msg/Image``."""
    package, _, kind = name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), kind)


def play(bag: Reader, arguments: argparse.Namespace) -> dict[str, Any]:
    """Publish the bag's messages in their rhythm; return what was done."""
    node = rclpy.create_node("play_bag")
    chosen: list[Connection] = [
        connection
        for connection in bag.connections
        if not arguments.topics or connection.topic in arguments.topics
    ]
    if not chosen:
        raise BagError(
            f"the bag holds none of the topics asked for; it holds {', '.join(sorted(bag.topics)) or 'none'}"
        )
    publishers = {
        connection.topic: node.create_publisher(
            message_class(connection.msgtype), connection.topic, _CAMERA_QOS
        )
        for connection in chosen
    }
    patience = time.monotonic() + arguments.wait_timeout
    while any(p.get_subscription_count() < arguments.wait_for_subscribers for p in publishers.values()):
        if time.monotonic() > patience:
            raise BagError(
                f"after {arguments.wait_timeout:g} s fewer than {arguments.wait_for_subscribers} subscribers "
                f"on {', '.join(publishers)}"
            )
        time.sleep(0.02)

    count, skew = 0, 0.0
    shown = time.monotonic()
    start_ns, start = time.time_ns(), time.monotonic()
    stamp_shift_ns: int | None = None
    for connection, log_ns, data in bag.messages(connections=chosen):
        if stamp_shift_ns is None:
            # One shift for the whole bag keeps the rhythm of the stamps as the camera gave it.
            stamp_shift_ns = start_ns - read_stamp(data) if arguments.restamp else 0
        due = start + (log_ns - bag.start_time) / 1e9 / arguments.rate
        time.sleep(max(0.0, due - time.monotonic()))
        skew = max(skew, time.monotonic() - due)
        publishers[connection.topic].publish(shift_stamp(data, stamp_shift_ns) if stamp_shift_ns else data)
        count += 1
        if sys.stderr.isatty() and time.monotonic() - shown > 0.5:
            shown = time.monotonic()
            print(f"\r  playing {count}/{bag.message_count}", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print(f"\r  played {count}/{bag.message_count} ", file=sys.stderr)
    # What is still on its way to reliable subscribers is lost when the publisher goes.
    time.sleep(0.5)
    node.destroy_node()
    return {"messages": count, "stamp_shift_ns": stamp_shift_ns or 0, "worst_delay_s": skew}


def main() -> None:
    """Parse the command line and play."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", type=Path, help="folder of a rosbag2 bag (sqlite3 or MCAP)")
    parser.add_argument("--topics", nargs="+", default=[], help="play only these topics")
    parser.add_argument("--rate", type=float, default=1.0, help="how many times as fast as recorded")
    parser.add_argument(
        "--restamp",
        action="store_true",
        help="move all stamps so that the first is now, as if the flight were live (for messages that begin "
        "with a header)",
    )
    parser.add_argument(
        "--wait-for-subscribers", type=int, default=0, metavar="N", help="begin when each topic has N"
    )
    parser.add_argument("--wait-timeout", type=float, default=30.0, metavar="S", help="for at most so long")
    parser.add_argument("--summary", type=Path, help="write what was played into this JSON file")
    arguments = parser.parse_args(remove_ros_args(sys.argv)[1:])
    if arguments.rate <= 0:
        parser.error("--rate must be greater than 0")
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    try:
        with open_bag(arguments.bag) as bag:
            summary = play(bag, arguments)
        if arguments.summary:
            arguments.summary.write_text(json.dumps(summary))
    except BagError as error:
        sys.exit(f"play_bag: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
