"""Cameras of all kinds in one process, each with a fault of its own: ``python cameras.py``.

Imports nothing of ours: it runs as a program of its own, with the middleware's settings of its environment.
"""

from __future__ import annotations

import array
import time

import rclpy
from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import String

RATE_HZ = 10.0
# One a second: more of them, without the profile, would crowd out the others of this process.
LARGE_EVERY = 10
BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


def image(height: int = 64, width: int = 64, encoding: str = "bgr8") -> Image:
    data = array.array("B", bytes(height * width * 3))
    return Image(height=height, width=width, encoding=encoding, step=3 * width, data=data)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("driver", namespace="/faulty")
    names = ("healthy", "best_effort", "large", "unreadable", "frozen", "future", "past", "front/image_rect")
    publishers = {name: node.create_publisher(Image, f"/{name}", BEST_EFFORT) for name in names}
    node.create_publisher(String, "/typed", 1)
    node.create_publisher(Image, "/silent", 1)
    small, large, unreadable = image(), image(1080, 1920), image(encoding="hsv99")
    for count in range(1_000_000_000):
        now = node.get_clock().now().to_msg()
        for name, publisher in publishers.items():
            message = {"large": large, "unreadable": unreadable}.get(name, small)
            message.header.stamp = {
                "frozen": Time(sec=5),
                "future": Time(sec=now.sec + 60, nanosec=now.nanosec),
                "past": Time(sec=count),
            }.get(name, now)
            if name != "large" or count % LARGE_EVERY == 0:
                publisher.publish(message)
        time.sleep(1 / RATE_HZ)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        rclpy.try_shutdown()
