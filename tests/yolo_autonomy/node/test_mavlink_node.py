"""A target over DDS comes out of a socket as LANDING_TARGET, and stops with the target."""

import pytest

pytest.importorskip("pymavlink")

from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import String
from support.autopilot import Autopilot
from vision_msgs.msg import Detection2D, ObjectHypothesisWithPose
from yolo_autonomy.mavlink_node import MavlinkTarget
from yolo_autonomy.nodes import LATCHED


def target(stamp_ns: int, x: float, y: float) -> Detection2D:
    made = Detection2D(results=[ObjectHypothesisWithPose()])
    made.header.stamp.sec, made.header.stamp.nanosec = divmod(stamp_ns, 1_000_000_000)
    made.results[0].hypothesis.score = 0.9
    made.bbox.center.position.x, made.bbox.center.position.y = x, y
    made.bbox.size_x = made.bbox.size_y = 40.0
    return made


@pytest.fixture
def autopilot():
    made = Autopilot("ardupilot")
    yield made
    made.close()


def test_a_target_reaches_the_autopilot_at_the_rate_and_stops_when_lost(bench, autopilot):
    node = bench.adapter(MavlinkTarget, connection=autopilot.address, rate_hz=10.0, tracking_rate_hz=2.0)
    targets = bench.peer.create_publisher(Detection2D, "target", 100)
    states = bench.peer.create_publisher(String, "target_state", LATCHED)
    infos = bench.peer.create_publisher(CameraInfo, "camera_info", 10)
    assert bench.connected(targets, states, infos)
    infos.publish(CameraInfo(width=640, height=480, k=[400.0, 0, 320, 0, 400, 240, 0, 0, 1]))

    def known() -> bool:
        if autopilot.of("HEARTBEAT"):
            autopilot.beat()
            autopilot.fly(0, (0.0, 0.0, -20.0))
        now = node.get_clock().now().nanoseconds
        return (
            node._camera is not None and node._link.heard and node._link.vehicle.attitude.at(now) is not None
        )

    assert bench.spin_until(known)
    begun = node.get_clock().now().nanoseconds
    for k in range(20):  # half a second of images at 40 Hz, no more at once than a queue holds
        targets.publish(target(begun + k * 25_000_000, 420.0, 240.0))
        assert bench.spin_until(lambda k=k: node._landed_ns == begun + k // 4 * 100_000_000)
    assert bench.spin_until(lambda: len(autopilot.of("LANDING_TARGET")) >= 5)
    heard = autopilot.of("LANDING_TARGET")
    assert [m.time_usec - begun // 1000 for m in heard] == pytest.approx([0, 1e5, 2e5, 3e5, 4e5], abs=1)
    assert (heard[0].frame, heard[0].position_valid) == (12, 1)
    assert (heard[0].x, heard[0].y, heard[0].z) == pytest.approx((0.0, 5.0, 20.0), abs=1e-3)
    assert bench.spin_until(lambda: autopilot.of("CAMERA_TRACKING_IMAGE_STATUS"))
    assert autopilot.of("CAMERA_TRACKING_IMAGE_STATUS")[0].rec_top_x == pytest.approx(400 / 640)

    states.publish(String(data="lost"))
    assert bench.spin_until(lambda: autopilot.of("CAMERA_TRACKING_IMAGE_STATUS")[-1].tracking_status == 0)
    assert len(autopilot.of("LANDING_TARGET")) == 5


def test_parameters_are_checked_and_the_connection_is_read_at_start(bench, autopilot):
    with pytest.raises(ValueError, match=r"mavlink_target: autopilot is 'apm'; it must be auto, px4 or"):
        bench.adapter(MavlinkTarget, connection=autopilot.address, autopilot="apm")
    with pytest.raises(ValueError, match=r"it must be udpin:HOST:PORT"):
        bench.adapter(MavlinkTarget, connection="radio")
    node = bench.adapter(MavlinkTarget, connection=autopilot.address)
    for name, value, text in (
        ("connection", "udpin:0.0.0.0:1", "connection is read at start"),
        ("camera_offset", [0.0, 1.0], "three numbers in metres"),
        ("distance_from", "sonar", "it must be one of position"),
        ("target_size", 0.0, "must lie in 0.01 to 1000"),
    ):
        (answer,) = node.set_parameters([Parameter(name, value=value)])
        assert not answer.successful
        assert text in answer.reason
    (answer,) = node.set_parameters([Parameter("camera_pitch_deg", value=-45.0)])
    assert answer.successful
    assert node._sighting.mount.pitch_deg == -45.0
