"""px4_target: tells PX4 by uXRCE-DDS where the target is, or follows it in Offboard mode.

In:  target (vision_msgs/Detection2D), camera_info, and PX4's vehicle_attitude and vehicle_local_position.
Out: PX4's landing_target_pose; with follow also offboard_control_mode and trajectory_setpoint.

It never arms and never changes the mode: a pilot does.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rclpy.clock import Clock, ClockType
from vision_msgs.msg import Detection2D

from yolo_autonomy.follow import PARAMETERS, FollowLimits, follow
from yolo_autonomy.frames import Floats, Mount
from yolo_autonomy.landing import Sight, TargetRanging, Vehicle, is_cut
from yolo_autonomy.nodes import NEWEST, RELIABLE, CameraNode, Values, candidate, run_node, stamp_ns
from yolo_autonomy.parameters import within

_PERIOD_S = 0.1  # PX4 asks for more than 2 Hz
_FIXED = ("fmu", "version", "landing_target", "follow")
_OLD_S = 0.5  # a position older than this is none
_RANGES = {
    "distance": (0, 1000), "height": (1, 500), "max_speed": (0.1, 20), "max_climb": (0.1, 5),
    "min_height": (1, 500), "max_height": (1, 500), "geofence": (1, 10_000),
}  # fmt: skip


class Px4Target(CameraNode):
    """Speaks to PX4 for the target."""

    def __init__(self, **arguments: Any) -> None:
        """Subscribe.

        Raises:
            ValueError: a parameter means nothing, or px4_msgs is missing.
        """
        try:
            from px4_msgs import msg
        except ImportError as error:
            raise ValueError(
                f"px4_target needs px4_msgs ({error}): build the branch of your PX4 version from "
                "https://github.com/PX4/px4_msgs in the same workspace"
            ) from error
        self._msg = msg
        self._begun = False
        super().__init__("px4_target", PARAMETERS, self._apply, **arguments)
        self.start()
        self._begun = True
        self._vehicle = Vehicle()
        self._place: Floats | None = None
        self._seen_s = self._told_s = -math.inf
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)
        into, out = f"{self.values['fmu']}/in", f"{self.values['fmu']}/out"
        version = self.values["version"]
        self._landing = None
        if self.values["landing_target"]:
            topic = f"{into}/landing_target_pose"
            self._landing = self.create_publisher(msg.LandingTargetPose, topic, RELIABLE)
        if self.values["follow"]:
            self._modes = self.create_publisher(
                msg.OffboardControlMode, f"{into}/offboard_control_mode", RELIABLE
            )
            self._setpoints = self.create_publisher(
                msg.TrajectorySetpoint, f"{into}/trajectory_setpoint", RELIABLE
            )
            self.create_timer(_PERIOD_S, self._steer, clock=self._steady)
        # PX4 publishes best effort.
        self.create_subscription(msg.VehicleAttitude, f"{out}/vehicle_attitude", self._on_attitude, NEWEST)
        self.create_subscription(
            msg.VehicleLocalPosition, f"{out}/vehicle_local_position{version}", self._on_position, NEWEST
        )
        self.create_subscription(Detection2D, "target", self._on_target, RELIABLE)

    def _apply(self, values: Values) -> None:
        fixed = [name for name in _FIXED if self._begun and values[name] != self.values[name]]
        if fixed:
            raise ValueError(f"{fixed[0]} is read at start; start the node again to change it")
        turns = {name: within(values, f"camera_{name}_deg", -360, 360) for name in ("pitch", "yaw", "roll")}
        offset = tuple(values["camera_offset"])
        if len(offset) != 3 or not all(abs(value) < 100 for value in offset):
            raise ValueError(f"camera_offset is {list(offset)}; it must be three numbers in metres")
        if values["distance_from"] == "rangefinder":
            raise ValueError("distance_from is 'rangefinder'; it must be one of position, size, none")
        limits = FollowLimits(
            **{name: within(values, name, low, high) for name, (low, high) in _RANGES.items()}
        )
        lost_s = within(values, "lost_s", 0.1, 10)
        self._sighting = TargetRanging(
            Mount(turns["pitch"], turns["yaw"], turns["roll"], (offset[0], offset[1], offset[2])),
            values["distance_from"],
            within(values, "target_height", -1000, 10_000),
            within(values, "target_size", 0.01, 1000),
        )
        self._limits, self._lost_s = limits, lost_s

    def _now_s(self) -> float:
        return float(self._steady.now().nanoseconds / 1e9)

    def _on_attitude(self, message: Any) -> None:
        w, x, y, z = map(float, message.q)
        if not abs(w * w + x * x + y * y + z * z - 1) < 0.01:
            return
        pitch = math.asin(max(-1.0, min(1.0, 2 * (w * y - z * x))))
        roll = math.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
        yaw = math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        self._vehicle.attitude.add(message.timestamp * 1000, (roll, pitch, yaw))

    def _on_position(self, message: Any) -> None:
        if not (message.xy_valid and message.z_valid):
            return
        place = (float(message.x), float(message.y), float(message.z))
        if all(map(math.isfinite, place)):
            self._vehicle.position.add(message.timestamp * 1000, place)
            self._here, self._told_s = np.array(place), self._now_s()

    def _on_target(self, message: Detection2D) -> None:
        item, camera = candidate(message), self._camera
        if item is None:
            return
        if camera is None:
            self.get_logger().warning("no usable camera_info", throttle_duration_sec=5.0)
            return
        if is_cut(item.box, (camera.width, camera.height)):
            return
        sight = self._sighting.sight(stamp_ns(message.header.stamp), item.box, camera.rays, self._vehicle)
        if sight is None or sight.local is None:
            self.get_logger().warning(
                "the target's place is not known: no attitude and position of PX4 at the image's stamp (is "
                "UXRCE_DDS_SYNCT 1, and are the images stamped by this computer's clock?)",
                throttle_duration_sec=5.0,
            )
            return
        self._place, self._seen_s = sight.local, self._now_s()
        self._land(sight)

    def _land(self, sight: Sight) -> None:
        position = self._vehicle.position.at(sight.stamp_ns)
        if self._landing is None or position is None or sight.local is None:
            return
        relative = sight.local - position
        message = self._msg.LandingTargetPose(
            timestamp=sight.stamp_ns // 1000, is_static=True, rel_pos_valid=True, abs_pos_valid=True
        )
        message.x_rel, message.y_rel, message.z_rel = map(float, relative)
        message.x_abs, message.y_abs, message.z_abs = map(float, sight.local)
        # Two degrees, and a twentieth of a metre.
        message.cov_x_rel = message.cov_y_rel = (0.035 * sight.distance) ** 2 + 0.05**2
        self._landing.publish(message)

    def _steer(self) -> None:
        """Stream setpoints; without the vehicle's place nothing is sent, and PX4's failsafe acts."""
        now = self._now_s()
        if now - self._told_s > _OLD_S:
            return
        lost = now - self._seen_s > self._lost_s
        velocity, yaw = follow(self._here, None if lost else self._place, self._limits)
        stamp = self.get_clock().now().nanoseconds // 1000
        self._modes.publish(self._msg.OffboardControlMode(timestamp=stamp, velocity=True))
        nothing = [math.nan] * 3
        self._setpoints.publish(
            self._msg.TrajectorySetpoint(
                timestamp=stamp,
                position=nothing,
                velocity=list(map(float, velocity)),
                acceleration=nothing,
                jerk=nothing,
                yaw=yaw,
                yawspeed=math.nan,
            )
        )


def main() -> None:
    """Run the node."""
    run_node(Px4Target)


if __name__ == "__main__":
    main()
