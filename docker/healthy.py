#!/usr/bin/env python3
"""Health check of a container: does the detector say on /diagnostics that it works?

Ends with 0 when it works, with 1 and the reason when its own part is at ERROR or STALE, and with 1 when it
says nothing within --seconds (it speaks once a second). A silent camera is no fault of the container.
"""

from __future__ import annotations

import argparse
import sys
import time

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus


def main() -> int:
    """Listen until the detector has spoken; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--node", default="detector", help="name of the node (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="to wait at most (%(default)s)")
    arguments = parser.parse_args()

    rclpy.init()
    node = rclpy.create_node("health_check")
    said: list[DiagnosticStatus] = []

    def listen(message: DiagnosticArray) -> None:
        said.extend(
            status
            for status in message.status
            if arguments.node in status.name and not status.name.endswith((" input", " detections"))
        )

    node.create_subscription(DiagnosticArray, "/diagnostics", listen, 10)
    deadline = time.monotonic() + arguments.seconds
    while not said and time.monotonic() < deadline:
        rclpy.spin_once(node, timeout_sec=0.2)
    rclpy.shutdown()
    if not said:
        print(f"{arguments.node} has said nothing on /diagnostics for {arguments.seconds:.0f} s")
        return 1
    worst = max(said, key=lambda status: ord(status.level))
    print(f"{worst.name}: {worst.message}")
    return int(ord(worst.level) >= ord(DiagnosticStatus.ERROR))


if __name__ == "__main__":
    sys.exit(main())
