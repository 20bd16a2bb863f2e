"""PX4's topics over DDS: the target's pose at the image's stamp, and setpoints that stop with the target."""

import math

import pytest

pytest.importorskip("px4_msgs", reason="px4_msgs is not built: make px4-msgs")

from px4_msgs.msg import (
    LandingTargetPose,
    OffboardControlMode,
    TrajectorySetpoint,
    VehicleAttitude,
    VehicleLocalPosition,
)
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose
from yolo_autonomy.px4_node import Px4Target


def test_pose_and_setpoints_follow_the_target_and_stop_with_it(bench):
    node = bench.adapter(Px4Target, follow=True, distance=0.0, height=20.0, lost_s=0.5)
    make = bench.peer.create_publisher
    attitudes = make(VehicleAttitude, "/fmu/out/vehicle_attitude", 10)
    positions = make(VehicleLocalPosition, "/fmu/out/vehicle_local_position", 10)
    targets, infos = make(Detection2D, "target", 10), make(CameraInfo, "camera_info", 10)
    poses = bench.listen(LandingTargetPose, "/fmu/in/landing_target_pose")
    modes = bench.listen(OffboardControlMode, "/fmu/in/offboard_control_mode")
    setpoints = bench.listen(TrajectorySetpoint, "/fmu/in/trajectory_setpoint")
    assert bench.connected(attitudes, positions, targets, infos, node._landing, node._modes, node._setpoints)
    assert not setpoints  # without the vehicle's place nothing is sent

    infos.publish(CameraInfo(width=640, height=480, k=[400.0, 0, 320, 0, 400, 240, 0, 0, 1]))
    now = node.get_clock().now().nanoseconds
    half = math.sqrt(0.5)

    def tell() -> bool:
        # Turned to the east; 10 m north, 5 m east, 20 m up.
        attitudes.publish(VehicleAttitude(timestamp=now // 1000, q=[half, 0.0, 0.0, half]))
        place = VehicleLocalPosition(timestamp=now // 1000, x=10.0, y=5.0, z=-20.0)
        place.xy_valid = place.z_valid = True
        positions.publish(place)
        return node._camera is not None and node._vehicle.position.at(now) is not None

    assert bench.spin_until(tell)
    target = Detection2D(results=[ObjectHypothesisWithPose()])
    target.header.stamp.sec, target.header.stamp.nanosec = divmod(now, 1_000_000_000)
    target.results[0].hypothesis.score = 0.9
    target.bbox.center.position.x, target.bbox.center.position.y = 320.0, 140.0  # ahead, so to the east
    target.bbox.size_x = target.bbox.size_y = 40.0
    targets.publish(target)
    assert bench.spin_until(lambda: poses)
    pose = poses[-1]
    assert pose.timestamp == now // 1000
    assert pose.rel_pos_valid
    assert pose.abs_pos_valid
    assert (pose.x_rel, pose.y_rel, pose.z_rel) == pytest.approx((0.0, 5.0, 20.0), abs=1e-3)
    assert (pose.x_abs, pose.y_abs, pose.z_abs) == pytest.approx((10.0, 10.0, 0.0), abs=1e-3)

    def goes_east() -> bool:
        tell()
        targets.publish(target)
        return bool(setpoints) and setpoints[-1].velocity[1] > 1

    assert bench.spin_until(goes_east)
    sent = setpoints[-1]
    assert sent.velocity[0] == pytest.approx(0, abs=1e-3)
    assert sent.yaw == pytest.approx(math.pi / 2, abs=1e-3)
    assert all(map(math.isnan, sent.position))
    assert modes[-1].velocity
    assert not modes[-1].position

    def stands() -> bool:
        tell()
        return setpoints[-1].velocity.tolist() == [0, 0, 0]

    assert bench.spin_until(stands)


def test_parameters_are_checked(bench):
    with pytest.raises(ValueError, match="px4_target: height 2 m does not lie between"):
        bench.adapter(Px4Target, height=2.0)
    node = bench.adapter(Px4Target)
    for name, value, text in (
        ("follow", True, "follow is read at start"),
        ("distance_from", "rangefinder", "one of position, size, none"),
        ("max_speed", 100.0, "must lie in 0.1 to 20"),
    ):
        (answer,) = node.set_parameters([Parameter(name, value=value)])
        assert not answer.successful
        assert text in answer.reason
    assert not hasattr(node, "_setpoints")
