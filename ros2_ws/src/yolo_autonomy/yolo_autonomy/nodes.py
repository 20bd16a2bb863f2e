"""What the nodes of this package share: profiles, parameters, and how one runs and ends."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo
from vision_msgs.msg import Detection2D, Detection2DArray
from yolo_trt_node.projection import PinholeCamera, ProjectionError
from yolo_trt_node.stop_signals import stop_flag

from yolo_autonomy.parameters import Table
from yolo_autonomy.target import Candidate

# A best-effort subscription matches every publisher.
NEWEST = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
# How long a signal may wait to be noticed while nothing happens.
_SPIN_S = 0.1

Values = Mapping[str, Any]


class AdapterNode(Node):
    """A node whose parameters are checked together, at start and whenever one is set.

    Args:
        name: of the node.
        table: its parameters.
        apply: takes the values, and raises a ValueError where they mean nothing.
        arguments: rclpy's own (context, parameter_overrides ...).
    """

    def __init__(self, name: str, table: Table, apply: Callable[[Values], None], **arguments: Any) -> None:
        """Declare the parameters.

        Raises:
            ValueError: a value at start means nothing; the message names node and parameter.
        """
        super().__init__(name, **arguments)
        self._apply = apply
        self.values: dict[str, Any] = {}
        for key, (default, description) in table.items():
            try:
                self.declare_parameter(key, default, ParameterDescriptor(description=description))
            except Exception as error:  # rclpy has several for a value of another type
                raise ValueError(f"{name}: parameter {key}: {error}") from error
            self.values[key] = self.get_parameter(key).value
        self.add_on_set_parameters_callback(self._on_parameters)

    def start(self) -> None:
        """Apply the values that the node starts with.

        Raises:
            ValueError: they mean nothing.
        """
        try:
            self._apply(self.values)
        except ValueError as error:
            raise ValueError(f"{self.get_name()}: {error}") from error

    def _on_parameters(self, changed: list[Parameter]) -> SetParametersResult:
        wanted = {**self.values, **{p.name: p.value for p in changed if p.name in self.values}}
        try:
            self._apply(wanted)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.values = wanted
        return SetParametersResult(successful=True)


class CameraNode(AdapterNode):
    """An adapter that turns pixels into directions: it knows the camera that ``camera_info`` describes."""

    def __init__(self, name: str, table: Table, apply: Callable[[Values], None], **arguments: Any) -> None:
        """Declare the parameters and subscribe; see `AdapterNode`."""
        super().__init__(name, table, apply, **arguments)
        self._info: CameraInfo | None = None
        self._camera: PinholeCamera | None = None
        self.create_subscription(CameraInfo, "camera_info", self._on_info, NEWEST)

    def _on_info(self, message: CameraInfo) -> None:
        if self._info is not None and _calibration(message) == _calibration(self._info):
            return
        self._info = message
        try:
            self._camera = PinholeCamera.from_info(message)
        except ProjectionError as error:
            self._camera = None
            self.get_logger().warning(f"camera_info: {error}")


def _calibration(info: CameraInfo) -> tuple[object, ...]:
    """Return what `from_info` reads, so that it can be compared: the matrices are arrays, which cannot."""
    return (
        info.width, info.height, info.distortion_model, info.roi, info.binning_x, info.binning_y,
        *(tuple(numbers) for numbers in (info.d, info.k, info.r, info.p)),
    )  # fmt: skip


def stamp_ns(stamp: Any) -> int:
    """Return a ``builtin_interfaces/Time`` in nanoseconds."""
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def candidate(detection: Detection2D) -> Candidate | None:
    """Read a detection; None where it names no class or its numbers are none."""
    if not detection.results:
        return None
    box, best = detection.bbox, detection.results[0].hypothesis
    numbers = (box.center.position.x, box.center.position.y, box.size_x, box.size_y)
    # NaN compares false.
    if not (all(abs(number) < 1e6 for number in numbers) and -1e-6 <= best.score <= 1 + 1e-6):
        return None
    return Candidate(numbers, best.class_id, best.score, detection.id)


def candidates(message: Detection2DArray) -> list[tuple[Candidate, Detection2D]]:
    """Read a detector's answer; what means nothing is left out."""
    read = ((candidate(detection), detection) for detection in message.detections)
    return [(item, detection) for item, detection in read if item is not None]


def run_node(make: Callable[[], AdapterNode]) -> None:
    """Run a node until SIGINT or SIGTERM; end with status 1 and a line where it cannot start."""
    if {"-h", "--help"} & set(sys.argv[1:]):
        print((sys.modules[make.__module__].__doc__ or "").strip())
        return
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    stopping = stop_flag()
    executor = SingleThreadedExecutor()
    node = None
    try:
        node = make()
        executor.add_node(node)
        while not stopping() and rclpy.ok():
            executor.spin_once(timeout_sec=_SPIN_S)
    except ValueError as error:
        if node is not None:
            raise  # not the user's error: where it came from is to be seen
        print(error, file=sys.stderr)
        sys.exit(1)
    except ExternalShutdownException:
        pass
    finally:
        executor.shutdown()
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
