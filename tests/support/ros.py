"""A node under test in a process of its own, and a peer that talks to it over DDS."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rclpy
from ament_index_python.packages import get_package_share_directory
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import GetParameters, SetParameters
from rclpy.client import Client
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray, LabelInfo, VisionInfo
from yolo_trt_node.node.messages import image_message
from yolo_trt_node.replay import processes
from yolo_trt_node.replay.processes import executable

LATCHED = QoSProfile(
    depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
PATIENCE_S = 20.0


def dds_environment(domain: int) -> dict[str, str]:
    """The environment of a process on a DDS domain of its own, with the shipped profile for large frames."""
    profile = Path(get_package_share_directory("yolo_trt_node"), "config", "dds", "fastdds_large_frames.xml")
    return {
        **os.environ,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(profile),
        "PYTHONUNBUFFERED": "1",
    }


class NodeProcess(processes.NodeProcess):
    """A ROS executable as a child process, with the tests' patience."""

    def wait_for_log(
        self, text: str, patience_s: float = PATIENCE_S, others: Sequence[processes.NodeProcess] = ()
    ) -> None:
        super().wait_for_log(text, patience_s, others)

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        return super().wait(patience_s)


@contextmanager
def detector_node(
    environment: dict[str, str], parameters: dict[str, object], arguments: list[str] = ()
) -> Iterator[NodeProcess]:
    """Run the node with parameters (as ``-p name:=value``)."""
    command = [executable("detector_node"), "--ros-args", *arguments]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    process = NodeProcess(command, environment)
    try:
        yield process
    finally:
        process.close()


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Peer:
    """The other side: a camera, a planner and an operator in one node, spun in a thread."""

    def __init__(self, domain: int) -> None:
        self._context = rclpy.Context()
        self._context.init(domain_id=domain)
        self.node = rclpy.create_node("peer", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.images = self.node.create_publisher(Image, "image", 10)
        self.detections: list[Detection2DArray] = []
        self.label_infos: list[LabelInfo] = []
        self.vision_infos: list[VisionInfo] = []
        self.node.create_subscription(Detection2DArray, "detections", self.detections.append, 100)
        self.node.create_subscription(LabelInfo, "label_info", self.label_infos.append, LATCHED)
        self.node.create_subscription(VisionInfo, "vision_info", self.vision_infos.append, LATCHED)
        self._clients: dict[str, Client] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._stopping:
            self._executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self._stopping = True
        self._thread.join()
        self._executor.shutdown()
        self.node.destroy_node()
        self._context.try_shutdown()

    def call(self, kind: type, service: str, request: object, attempts: int = 4) -> object:
        """Call a service and return its answer.

        A service is discovered one direction at a time: a server that does not know its client yet drops the
        answer. So a client is given time to be known, and kept; and calls that do no harm twice are repeated.
        """
        if service not in self._clients:
            self._clients[service] = self.node.create_client(kind, service)
            assert self._clients[service].wait_for_service(PATIENCE_S), f"no service {service}"
            time.sleep(0.3)
        for _ in range(attempts):
            future = self._clients[service].call_async(request)
            if wait_until(future.done, PATIENCE_S / attempts):
                return future.result()
        raise AssertionError(f"no answer from {service}")

    def state(self, node: str = "/yolo_detector") -> str:
        return self.call(GetState, f"{node}/get_state", GetState.Request()).current_state.label

    def change_state(self, transition: int, node: str = "/yolo_detector") -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return self.call(ChangeState, f"{node}/change_state", request, attempts=1).success

    def set_parameter(self, name: str, value: object, node: str = "/yolo_detector") -> tuple[bool, str]:
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.call(SetParameters, f"{node}/set_parameters", request).results
        return result.successful, result.reason

    def get_parameter(self, name: str, node: str = "/yolo_detector") -> object:
        answer = self.call(GetParameters, f"{node}/get_parameters", GetParameters.Request(names=[name]))
        return Parameter.from_parameter_msg(type("P", (), {"name": name, "value": answer.values[0]})()).value

    def publish(self, pixels: np.ndarray, stamp: tuple[int, int] = (1, 0), frame: str = "camera") -> Header:
        header = Header(frame_id=frame)
        header.stamp.sec, header.stamp.nanosec = stamp
        self.images.publish(image_message(header, pixels))
        return header

    def detect(self, pixels: np.ndarray, stamp: tuple[int, int] = (1, 0)) -> Detection2DArray:
        """Publish an image until its detections come; return them."""
        assert wait_until(lambda: self.images.get_subscription_count() > 0), "nobody subscribed to the image"
        before = len(self.detections)
        for _ in range(20):
            self.publish(pixels, stamp)
            if wait_until(lambda: len(self.detections) > before, 1.0):
                return self.detections[-1]
        raise AssertionError("no detections came")


__all__ = [
    "NodeProcess",
    "Peer",
    "State",
    "Transition",
    "dds_environment",
    "detector_node",
    "executable",
    "wait_until",
]
