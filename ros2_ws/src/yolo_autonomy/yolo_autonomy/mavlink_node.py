"""mavlink_target: tells an autopilot by MAVLink where the target is.

In: target (vision_msgs/Detection2D), target_state (std_msgs/String), camera_info (sensor_msgs/CameraInfo).
Out: LANDING_TARGET, CAMERA_TRACKING_IMAGE_STATUS, HEARTBEAT and TIMESYNC on the connection.
"""

from __future__ import annotations

from typing import Any

from rclpy.clock import Clock, ClockType
from std_msgs.msg import String
from vision_msgs.msg import Detection2D

from yolo_autonomy.frames import Mount
from yolo_autonomy.landing import TargetRanging, is_cut
from yolo_autonomy.mavlink import PARAMETERS, Link
from yolo_autonomy.nodes import LATCHED, RELIABLE, CameraNode, Values, candidate, run_node, stamp_ns
from yolo_autonomy.parameters import within
from yolo_autonomy.target import COASTING, TRACKING

_PUMP_S = 0.01
# What only a restart changes.
_FIXED = ("connection", "baud", "system_id")


class MavlinkTarget(CameraNode):
    """Speaks MAVLink for the target."""

    def __init__(self, **arguments: Any) -> None:
        """Connect and subscribe.

        Raises:
            ValueError: a parameter means nothing, or pymavlink is missing.
        """
        self._link: Link | None = None
        super().__init__("mavlink_target", PARAMETERS, self._apply, **arguments)
        self._landed_ns = self._shown_ns = 0
        self.start()
        self._link = Link(
            self.values["connection"],
            lambda: int(self.get_clock().now().nanoseconds),
            system_id=self.values["system_id"],
            baud=self.values["baud"],
            log=lambda text: self.get_logger().info(text),
        )
        self.create_subscription(Detection2D, "target", self._on_target, RELIABLE)
        self.create_subscription(String, "target_state", self._on_state, LATCHED)
        # By a steady clock: with use_sim_time the node's own stands still while nothing plays.
        self.create_timer(_PUMP_S, self._link.pump, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()
        super().destroy_node()

    def _apply(self, values: Values) -> None:
        fixed = [name for name in _FIXED if self._link is not None and values[name] != self.values[name]]
        if fixed:
            raise ValueError(f"{fixed[0]} is read at start; start the node again to change it")
        within(values, "system_id", 1, 255)
        turns = {name: within(values, f"camera_{name}_deg", -360, 360) for name in ("pitch", "yaw", "roll")}
        offset = tuple(values["camera_offset"])
        if len(offset) != 3 or not all(abs(value) < 100 for value in offset):
            raise ValueError(f"camera_offset is {list(offset)}; it must be three numbers in metres")
        if values["autopilot"] not in ("auto", "px4", "ardupilot"):
            raise ValueError(f"autopilot is {values['autopilot']!r}; it must be auto, px4 or ardupilot")
        sighting = TargetRanging(
            Mount(turns["pitch"], turns["yaw"], turns["roll"], (offset[0], offset[1], offset[2])),
            values["distance_from"],
            within(values, "target_height", -1000, 10_000),
            within(values, "target_size", 0.01, 1000),
        )
        rates = within(values, "rate_hz", 0.1, 100), within(values, "tracking_rate_hz", 0, 50)
        self._sighting, (self._rate_hz, self._tracking_hz) = sighting, rates
        self._autopilot = "" if values["autopilot"] == "auto" else values["autopilot"]

    def _on_target(self, message: Detection2D) -> None:
        link, camera, item = self._link, self._camera, candidate(message)
        if link is None or item is None:
            return
        if camera is None:
            self.get_logger().warning(
                "no usable camera_info, so pixels cannot be turned into directions; name its topic "
                "(camera_info_topic:=/camera/camera_info)",
                throttle_duration_sec=5.0,
            )
            return
        stamp = stamp_ns(message.header.stamp)
        size = camera.width, camera.height
        if not is_cut(item.box, size) and not 0 <= stamp - self._landed_ns < 1e9 / self._rate_hz:
            link.pump()  # what the autopilot said of this moment may just have come
            sight = self._sighting.sight(stamp, item.box, camera.rays, link.vehicle)
            if sight is not None:
                self._landed_ns = stamp
                link.send_landing_target(sight, self._autopilot)
        if self._tracking_hz > 0 and not 0 <= stamp - self._shown_ns < 1e9 / self._tracking_hz:
            self._shown_ns = stamp
            link.send_tracking(item.box, size)

    def _on_state(self, message: String) -> None:
        if message.data not in (TRACKING, COASTING) and self._link is not None and self._tracking_hz > 0:
            self._link.send_tracking(None)


def main() -> None:
    """Run the node."""
    run_node(MavlinkTarget)


if __name__ == "__main__":
    main()
