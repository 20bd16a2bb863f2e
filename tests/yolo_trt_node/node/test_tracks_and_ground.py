"""Ids and places on the ground, over DDS."""

import math

import numpy as np
import pytest
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from support.ros import Transition, detector_node, wait_until
from support.toy_detector import NAMES, paint_cells
from tf2_msgs.msg import TFMessage
from vision_msgs.msg import Detection3DArray
from yolo_trt_node.detector import Detector
from yolo_trt_node.node.ground import camera_info_topic

HEIGHT, WIDTH = 320, 640
FOCAL = 400.0
BELOW_M = 48.0


def scene(*cells) -> np.ndarray:
    return paint_cells(np.full((HEIGHT, WIDTH, 3), 114, np.uint8), list(cells), network_pixel=10)


GREEN, RED = (1, 3, "green"), (2, 6, "red")


class TestTracker:
    def test_ids_last_until_the_clock_jumps_and_never_come_back(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "tracker": True}):
            answers = [peer.detect(scene(GREEN, RED), stamp=(100, k * 100_000_000)) for k in range(5)]
            ids = [[d.id for d in answer.detections] for answer in answers]
            named = {NAMES[int(d.results[0].hypothesis.class_id)]: d.id for d in answers[-1].detections}
            assert ids[0] == ["", ""] or sorted(ids[0]) == ["1", "2"]  # a first image that was sent twice
            assert all(sorted(row) == ["1", "2"] for row in ids[1:])
            assert ids[1] == ids[2] == ids[3] == ids[4]
            # One is hidden for a moment; the other alone keeps its id, and it has its own when it is back.
            (only,) = peer.detect(scene(GREEN), stamp=(100, 500_000_000)).detections
            assert only.id == named["green"]
            back = peer.detect(scene(GREEN, RED), stamp=(100, 900_000_000))
            assert [d.id for d in back.detections] == ids[4]
            for k in range(3):
                again = peer.detect(scene(GREEN, RED), stamp=(50, k * 100_000_000))
            assert sorted(d.id for d in again.detections) == ["3", "4"]
            # Nor do they come back with another life of the node.
            for step in ("DEACTIVATE", "ACTIVATE"):
                assert peer.change_state(getattr(Transition, f"TRANSITION_{step}"))
            for k in range(3):
                again = peer.detect(scene(GREEN, RED), stamp=(60, k * 100_000_000))
            assert sorted(d.id for d in again.detections) == ["5", "6"]


class Drone:
    """The rest of a drone: its calibration, its pose, and a planner that hears of places on the ground."""

    def __init__(self, peer) -> None:
        self.peer = peer
        latched = QoSProfile(
            depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
        )
        node = peer.node
        self._info = node.create_publisher(CameraInfo, "camera_info", 10)
        self._tf = node.create_publisher(TFMessage, "/tf", 100)
        self._static = node.create_publisher(TFMessage, "/tf_static", latched)
        self.places: list[Detection3DArray] = []
        node.create_subscription(Detection3DArray, "detections_3d", self.places.append, 100)

    def calibrate(self, height: int = HEIGHT) -> None:
        assert wait_until(lambda: self._info.get_subscription_count() == 1)
        k = [FOCAL, 0.0, WIDTH / 2, 0.0, FOCAL, height / 2, 0.0, 0.0, 1.0]
        info = CameraInfo(height=height, width=WIDTH, distortion_model="plumb_bob", d=[0.0] * 5, k=k)
        info.header.frame_id = "camera"
        self._info.publish(info)

    def mount(self) -> None:
        """The camera looks down, the image's upper edge forward: its x is the drone's -y, its y is -x."""
        half = math.sqrt(0.5)
        self._static.publish(
            TFMessage(transforms=[moved("base", "camera", 0.0, quaternion=(half, -half, 0, 0))])
        )

    def fly(self, *poses: tuple[float, float, float]) -> None:
        """Broadcast (stamp, x, y) of the drone in the map, at its height."""
        assert wait_until(lambda: self._tf.get_subscription_count() == 1)
        for stamp, x, y in poses:
            self._tf.publish(TFMessage(transforms=[moved("map", "base", stamp, (x, y, BELOW_M + 2.0))]))


def moved(
    parent, child, stamp, position=(0.0, 0.0, 0.0), quaternion=(0.0, 0.0, 0.0, 1.0)
) -> TransformStamped:
    made = TransformStamped(child_frame_id=child)
    made.header.frame_id = parent
    made.header.stamp.sec, made.header.stamp.nanosec = int(stamp), round(stamp % 1 * 1e9)
    place, turn = made.transform.translation, made.transform.rotation
    place.x, place.y, place.z = map(float, position)
    turn.x, turn.y, turn.z, turn.w = map(float, quaternion)
    return made


@pytest.fixture
def drone(peer) -> Drone:
    return Drone(peer)


SETTINGS = {"ground_frame": "map", "ground_height": 2.0, "tracker": True}


class TestGround:
    def test_places_are_right_to_one_percent_at_the_images_stamp(self, environment, peer, toy, drone):
        with detector_node(environment, {"model": toy, **SETTINGS}) as node:
            drone.mount()
            for k in range(20):
                drone.calibrate()
                drone.fly((99.0 + k, 0.0, 0.0), (101.0 + k, 40.0, -20.0))
                flat = peer.detect(scene(GREEN, RED), stamp=(100 + k, 500_000_000))
                if k and wait_until(lambda: bool(drone.places), 1.0):
                    break
            assert drone.places, node.log
        message = drone.places[-1]
        assert message.header.frame_id == "map"
        assert message.header.stamp == flat.header.stamp
        (expected,) = Detector.load(toy).detect([scene(GREEN, RED)])
        assert len(message.detections) == len(expected) == len(flat.detections) == 2
        for detection, box, of_image in zip(message.detections, expected.boxes, flat.detections, strict=True):
            u, v = (box[:2] + box[2:]) / 2
            # Three quarters of the way at (30, -15); up in the image is ahead, right is -y.
            x = 30.0 - (v - HEIGHT / 2) * BELOW_M / FOCAL
            y = -15.0 - (u - WIDTH / 2) * BELOW_M / FOCAL
            place = detection.results[0].pose.pose.position
            assert (
                math.dist((place.x, place.y), (x, y))
                < 0.01 * BELOW_M + 0.5 * (box[3] - box[1]) * BELOW_M / FOCAL
            )
            assert place.z == 2.0
            center = detection.bbox.center.position
            assert (center.x, center.y, center.z) == (place.x, place.y, place.z)
            assert detection.bbox.size.x == pytest.approx((box[2] - box[0]) * BELOW_M / FOCAL, rel=0.01)
            covariance = np.array(detection.results[0].pose.covariance).reshape(6, 6)
            np.testing.assert_allclose(covariance, covariance.T)
            assert (np.linalg.eigvalsh(covariance) > 0).all()
            # 2 pixels at 48 m and 400 pixels, and half a degree: 0.24 and 0.42 m.
            assert 0.4 < math.sqrt(covariance[0, 0]) < 0.7
            assert detection.id == of_image.id != ""
            assert detection.results[0].hypothesis == of_image.results[0].hypothesis
            assert detection.header == message.header

    def test_boxes_wait_for_a_pose_that_comes_later(self, environment, peer, toy, drone):
        with detector_node(environment, {"model": toy, **SETTINGS}) as node:
            drone.mount()
            for second in range(10, 30):
                drone.calibrate()
                drone.fly((second - 0.2, 0.0, 0.0))
                peer.detect(scene(GREEN), stamp=(second, 0))
                assert second not in [place.header.stamp.sec for place in drone.places]
                drone.fly((second + 0.2, 4.0, 0.0))
                if wait_until(lambda: bool(drone.places), 1.0):
                    break
            assert drone.places, node.log

    def test_what_is_missing_is_said(self, environment, peer, toy, drone):
        with detector_node(environment, {"model": toy, **SETTINGS}) as node:

            def complains(text: str, tell=lambda: None) -> None:
                for _ in range(20):
                    tell()
                    peer.detect(scene(GREEN), stamp=(10, 0))
                    if wait_until(lambda: text in node.log, 1.6):
                        return
                raise AssertionError(f"{text!r} is not in the log:\n{node.log}")

            complains("/image, detections_3d: no CameraInfo on /camera_info")
            complains("from 'camera' to 'map': nothing was received on /tf or /tf_static", drone.calibrate)
            drone.mount()
            complains("nobody broadcasts 'map'; the frames on /tf and /tf_static are base, camera")
            late = "the transform from 'base' to 'map' is known only until 1.000 s before the image's stamp"
            complains(late, lambda: drone.fly((9.0, 0.0, 0.0)))
            other = "the images are 640 x 320 pixels, but /camera_info is for 640 x 160"
            complains(other, lambda: drone.calibrate(height=HEIGHT // 2))
            assert not drone.places
            assert node.stop() == 0, node.log

    def test_no_answer_is_built_while_nobody_listens(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, **SETTINGS}) as node:
            for k in range(3):
                peer.detect(scene(GREEN), stamp=(10, k))
            assert peer.node.count_publishers("/detections_3d") == 1
            assert "detections_3d:" not in node.log

    def test_it_survives_down_and_up_again(self, environment, peer, toy, drone):
        with detector_node(environment, {"model": toy, **SETTINGS}) as node:
            peer.detect(scene(GREEN))
            for step in ("DEACTIVATE", "CLEANUP", "CONFIGURE", "ACTIVATE"):
                assert peer.change_state(getattr(Transition, f"TRANSITION_{step}"))
            drone.mount()
            for _ in range(20):
                drone.calibrate()
                drone.fly((9.0, 0.0, 0.0), (11.0, 0.0, 0.0))
                peer.detect(scene(GREEN), stamp=(10, 0))
                if wait_until(lambda: bool(drone.places), 1.0):
                    break
            assert drone.places, node.log
            assert node.stop() == 0, node.log

    def test_a_frame_that_cannot_be_one_is_refused(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "autostart": "false"}):
            accepted, reason = peer.set_parameter("ground_frame", "the map")
            assert not accepted
            assert "names no TF frame" in reason


@pytest.mark.parametrize(
    ("images", "info"),
    [
        ("/camera/image_raw", "/camera/camera_info"),
        ("/camera/image_raw/compressed", "/camera/camera_info"),
        ("/image", "/camera_info"),
    ],
)
def test_the_calibration_is_looked_for_beside_the_images(images, info):
    assert camera_info_topic(images) == info
