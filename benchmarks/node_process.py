"""The installed node in a process of its own, and how to talk to it: for benchmarks that fly it over DDS."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

NODE = "/yolo_detector"
PATIENCE_S = 60.0


def use_domain(domain: int) -> None:
    """Let this process and those that it starts talk in a domain of their own, by the shipped DDS profile."""
    from yolo_trt_node.dds import AUTO_PROFILE, profile_environment

    profile, _ = profile_environment(
        AUTO_PROFILE, {name: os.environ[name] for name in ("RMW_IMPLEMENTATION",) if name in os.environ}
    )
    os.environ.update(profile, ROS_DOMAIN_ID=str(domain), ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")


@contextmanager
def running_node(parameters: Mapping[str, object], log: Path) -> Iterator[psutil.Popen]:
    """Run the node until it listens; end it by SIGINT, after which its ``returncode`` is known.

    Its attribute ``start_up_s`` tells the seconds from start to active.
    """
    from ament_index_python.packages import get_package_prefix

    command = [str(Path(get_package_prefix("yolo_trt_node"), "lib", "yolo_trt_node", "detector_node"))]
    command.append("--ros-args")
    for name, value in parameters.items():
        command += ["-p", f"{name}:={value}"]
    with log.open("w") as file:
        started = time.monotonic()
        process = psutil.Popen(command, stdout=file, stderr=file)
        try:
            limit = time.monotonic() + PATIENCE_S
            while "active: listening" not in log.read_text():
                if process.poll() is not None or time.monotonic() > limit:
                    raise SystemExit(f"the node did not become active:\n{log.read_text()}")
                time.sleep(0.01)
            process.start_up_s = time.monotonic() - started
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


class Operator:
    """Asks the node for what its services do; the ROS node that it speaks through is spun elsewhere."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._clients: dict[str, Any] = {}

    def call(self, kind: Any, service: str, request: Any) -> Any:
        """Call a service of the node and return its answer."""
        if service not in self._clients:
            self._clients[service] = self._node.create_client(kind, f"{NODE}/{service}")
            if not self._clients[service].wait_for_service(PATIENCE_S):
                raise SystemExit(f"{NODE} has no service {service}")
            time.sleep(0.5)  # the server must find the client too, or its answer is lost
        future = self._clients[service].call_async(request)
        limit = time.monotonic() + PATIENCE_S
        while not future.done():
            if time.monotonic() > limit:
                raise SystemExit(f"no answer from {NODE}/{service}")
            time.sleep(0.005)
        return future.result()

    def set_parameter(self, name: str, value: object) -> None:
        """Set a parameter, and see that it is taken."""
        from rcl_interfaces.srv import SetParameters
        from rclpy.parameter import Parameter

        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.call(SetParameters, "set_parameters", request).results
        if not result.successful:
            raise SystemExit(f"{name}: {result.reason}")
