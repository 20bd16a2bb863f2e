"""The node's health: watched in a thread of its own, told on ``/diagnostics`` and in the log."""

from __future__ import annotations

import platform
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.qos import QoSProfile

from yolo_trt_node.health.diagnostics import (
    Level,
    LifeCycle,
    MessageText,
    Status,
    Thresholds,
    board_status,
    detections_status,
    input_status,
    life_cycle_status,
    log_line,
    model_status,
)
from yolo_trt_node.health.jetson import Jetson
from yolo_trt_node.health.statistics import CameraStatistics, TrafficWindow
from yolo_trt_node.node.qos import create_speaker
from yolo_trt_node.node.watchdog import Watchdog, observe, rivals
from yolo_trt_node.options import from_values, options_of

if TYPE_CHECKING:
    from rclpy.node import Node

    from yolo_trt_node.detector import Detector

# Rates and ages are told of so many last seconds at least.
WINDOW_S = 5.0
LOG_PERIOD_S = 10.0
# A process that was killed stays in the graph for about 20 s; what starts in its place is not its rival.
RIVAL_PATIENCE_S = 30.0
RIVAL_PERIOD_S = 5.0

# The state that a transition leads to when it succeeds, by the transition's name.
_LEADS_TO = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
    "shutdown": "finalized",
    "recover": "unconfigured",
}


class WatchedCamera(Protocol):
    """What is read of a camera."""

    name: str
    statistics: CameraStatistics
    outputs: dict[str, Any]

    @property
    def input(self) -> tuple[str, str]:
        """Full name of the topic that it is subscribed to, and the type, as ``sensor_msgs/msg/Image``."""


_THRESHOLD_NAMES = tuple(option.name for option in options_of(Thresholds, "diagnostics."))


class Health:
    """Says how the node is, in every state of its life cycle, from its first moment to its last.

    A thread does it, by a steady clock: it speaks also while the executor is busy with a transition, and when
    simulated time stands still.
    """

    def __init__(self, node: Node, root: Path = Path("/")) -> None:
        """Begin to speak.

        Args:
            node: its name, log, clock, graph and parameters (``diagnostics.*``) are used.
            root: where the machine's ``sys``, ``proc``, ``etc`` and ``var`` are.
        """
        self._node = node
        try:
            self._publisher = create_speaker(node, DiagnosticArray, "/diagnostics", QoSProfile(depth=1))
        except ValueError as error:
            # This topic has to tell what is wrong, so it does not go because of it.
            node.get_logger().error(f"{error}; /diagnostics keeps its own profile")
            self._publisher = node.create_publisher(DiagnosticArray, "/diagnostics", 1)
        self._hardware = platform.node()
        self._board = Jetson.find(root)
        self._lock = threading.Lock()
        self._life_cycle = LifeCycle()
        self._began_s = time.monotonic()
        self._detector: Detector | None = None
        self._watches: list[_Watch] = []
        self._rivals, self._rivals_since_s, self._rivals_said = "", 0.0, False
        self._rivals_now, self._rivals_due_s = "", 0.0
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health", daemon=True)
        self._thread.start()

    # --- What it is told ------------------------------------------------------------------------------------

    def begins(self, transition: str) -> None:
        """A transition of the life cycle begins (``configure``, ``activate`` ...)."""
        with self._lock:
            self._began_s = time.monotonic()
            self._life_cycle = replace(self._life_cycle, transition=transition, progress="", failure="")
        self._wake.set()

    def ends(self, failure: str = "") -> None:
        """The transition has ended; `failure` says why it failed, and the state stays what it was."""
        with self._lock:
            now = self._life_cycle
            state = now.state if failure else _LEADS_TO.get(now.transition, now.state)
            shown = f"{now.transition}: {failure}" if failure else ""
            self._life_cycle = LifeCycle(state=state, failure=shown)
        self._wake.set()

    def progresses(self, text: str) -> None:
        """What a transition that takes long has come to, in one line."""
        with self._lock:
            self._life_cycle = replace(self._life_cycle, progress=text)

    def uses(self, detector: Detector | None) -> None:
        """A model has been loaded, or given back."""
        with self._lock:
            self._detector = detector

    def watches(self, cameras: Sequence[WatchedCamera]) -> None:
        """These cameras are subscribed to now; none, where the node is not active."""
        with self._lock:
            self._watches = [_Watch(camera) for camera in cameras]

    def close(self) -> None:
        """Fall silent; to be called before the node is destroyed, and harmless twice."""
        self._stopping = True
        self._wake.set()
        self._thread.join()

    # --- What it says ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._speak()
            except Exception:
                self._node.get_logger().error(f"diagnostics failed:\n{traceback.format_exc()}")
            self._wake.wait(self._number("diagnostic_updater.period"))
            self._wake.clear()

    def _speak(self) -> None:
        with self._lock:
            life_cycle = replace(self._life_cycle, since_s=time.monotonic() - self._began_s)
            detector, watches = self._detector, self._watches
        thresholds = from_values(
            Thresholds, {name: self._number(name) for name in _THRESHOLD_NAMES}, "diagnostics."
        )
        rival = self._rival(watches)
        alive = life_cycle_status(life_cycle)
        if rival and alive.level == Level.OK:
            alive = replace(alive, level=Level.WARN, message=f"{MessageText.RIVAL}: {rival}")
        statuses = [
            alive,
            model_status(detector, failed=life_cycle.failure.startswith("configure")),
        ]
        for watch in watches:
            statuses += watch.look(self._node, thresholds)
        if self._board is not None:
            statuses.append(board_status(self._board.model, self._board.read(), thresholds))
        self._publish(statuses)

    def _rival(self, watches: Sequence[_Watch]) -> str:
        """Name the nodes that are in this one's way, once they have been so for a while; log them once."""
        now_s = time.monotonic()
        if now_s >= self._rivals_due_s:
            # The graph is slow to ask, and nothing here is urgent.
            self._rivals_due_s = now_s + RIVAL_PERIOD_S
            topics = [output.topic_name for watch in watches for output in watch.outputs]
            self._rivals_now = rivals(self._node, topics)
        found = self._rivals_now
        if found != self._rivals:
            self._rivals, self._rivals_since_s, self._rivals_said = found, now_s, False
        if not found or now_s - self._rivals_since_s < RIVAL_PATIENCE_S:
            return ""
        if not self._rivals_said:
            self._rivals_said = True
            self._node.get_logger().warning(
                f"{MessageText.RIVAL}: {found}. Listeners get the messages of both: stop one, or give one "
                "another name (node_name), namespace or detections_topic"
            )
        return found

    def _number(self, parameter: str) -> float:
        return float(self._node.get_parameter(parameter).value)

    def _publish(self, statuses: Sequence[Status]) -> None:
        full = self._node.get_parameter("diagnostic_updater.use_fqn").value
        name = self._node.get_fully_qualified_name() if full else self._node.get_name()
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        message.status = [
            DiagnosticStatus(
                level=bytes([status.level]),
                name=f"{name}: {status.task}",
                message=status.message,
                hardware_id=self._hardware,
                values=_key_values(status.values),
            )
            for status in statuses
        ]
        self._publisher.publish(message)


class _Watch:
    """What is remembered of one camera from one look to the next."""

    def __init__(self, camera: WatchedCamera) -> None:
        self._camera = camera
        self._watchdog = Watchdog()
        self._recent: deque[TrafficWindow] = deque()
        self._unlogged = TrafficWindow()
        self._total = 0
        self._since_s = time.monotonic()
        self._source_changes = camera.statistics.source_changes
        self._clock_seen = False
        self._clock_gone_at_s: float | None = None
        camera.statistics.window()  # what came before does not count

    @property
    def outputs(self) -> list[Any]:
        """The publishers whose messages nobody else should publish."""
        return [self._camera.outputs["detections"]] if "detections" in self._camera.outputs else []

    def look(self, node: Node, thresholds: Thresholds) -> list[Status]:
        """Take what happened since the last look, log what is worth it, and return the statuses."""
        camera = self._camera
        now_s = time.monotonic()
        if camera.statistics.source_changes != self._source_changes:
            self._source_changes = camera.statistics.source_changes
            self._recent.clear()
            self._since_s = now_s
        self._recent.append(camera.statistics.window())
        while sum(window.duration_s for window in self._recent) - self._recent[0].duration_s >= WINDOW_S:
            self._recent.popleft()
        latest = self._recent[-1]
        window = sum(self._recent, TrafficWindow())
        self._total += latest.received
        self._unlogged += latest
        topic, kind = camera.input
        observation = observe(
            node,
            topic,
            kind,
            window,
            timeout_s=thresholds.input_timeout_s,
            listening_s=now_s - self._since_s,
            clock_gone_s=self._clock_gone_s(node, now_s),
            camera=camera.name,
        )
        line = self._watchdog.look(observation, now_s)
        if line is not None:
            text, complaint = line
            if complaint:
                node.get_logger().warning(text)
            else:
                node.get_logger().info(text)
        if self._unlogged.duration_s >= LOG_PERIOD_S:
            if self._unlogged.received:
                node.get_logger().info(log_line(topic, self._unlogged))
            self._unlogged = TrafficWindow()
        diagnosis = self._watchdog.diagnosis
        return [
            input_status(camera.name, topic, window, self._total, diagnosis, thresholds),
            detections_status(camera.name, window, observation.silent, thresholds),
        ]

    def _clock_gone_s(self, node: Node, now_s: float) -> float | None:
        """Return for how long ``/clock`` has had no publisher; ``None`` where it has one, or never had."""
        if not node.get_parameter("use_sim_time").value:
            return None
        if node.count_publishers("/clock"):
            self._clock_seen, self._clock_gone_at_s = True, None
        elif self._clock_seen and self._clock_gone_at_s is None:
            self._clock_gone_at_s = now_s
        return None if self._clock_gone_at_s is None else now_s - self._clock_gone_at_s


def _key_values(values: Mapping[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=value) for key, value in values.items()]
