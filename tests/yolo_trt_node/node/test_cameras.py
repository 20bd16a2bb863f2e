"""Several cameras on one engine, and more images than it can look at."""

import threading
import time
from collections import Counter

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from support.ros import detector_node, wait_until
from support.toy_detector import paint_cells, write_toy_detector
from vision_msgs.msg import Detection2DArray
from yolo_trt_node.node.messages import image_message

CELLS = {"front": [(1, 3, "green")], "down": [(2, 6, "red"), (1, 1, "blue")]}


def scene(camera: str, height: int = 64, width: int = 128) -> np.ndarray:
    return paint_cells(np.full((height, width, 3), 114, np.uint8), CELLS[camera], network_pixel=2)


class Rig:
    """The cameras of a drone, and a planner that listens to the answers for each."""

    def __init__(self, peer, topics: dict[str, tuple[str, str]]) -> None:
        self._node = peer.node
        self.answers: dict[str, list[tuple[float, Detection2DArray]]] = {name: [] for name in topics}
        self.images = {}
        for name, (images, detections) in topics.items():
            self.images[name] = self._node.create_publisher(Image, images, QoSProfile(depth=1))
            self._node.create_subscription(Detection2DArray, detections, self._listen(name), 100)

    def _listen(self, name):
        return lambda message: self.answers[name].append((time.time(), message))

    def wait(self) -> None:
        assert wait_until(lambda: all(p.get_subscription_count() for p in self.images.values()))

    def publish(self, name: str, size=(64, 128)) -> None:
        now = time.time_ns()
        header = Header(frame_id=name)
        header.stamp.sec, header.stamp.nanosec = divmod(now, 1_000_000_000)
        self.images[name].publish(image_message(header, scene(name, *size)))

    def fly(self, rates_hz: dict[str, float], seconds: float) -> Counter:
        """Publish at some rates; return how many images of each camera were published."""
        published = Counter()

        def run(name, period):
            end = due = time.monotonic()
            while time.monotonic() < end + seconds:
                self.publish(name)
                published[name] += 1
                due = max(due + period, time.monotonic())
                time.sleep(max(0.0, due - time.monotonic()))

        threads = [threading.Thread(target=run, args=(name, 1 / rate)) for name, rate in rates_hz.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return published

    def ages_s(self, name: str) -> np.ndarray:
        """Age of each answer's image when the answer arrived."""
        return np.array(
            [at - (m.header.stamp.sec + m.header.stamp.nanosec * 1e-9) for at, m in self.answers[name]]
        )


@pytest.fixture
def rig(peer):
    def make(**topics):
        return Rig(peer, topics)

    return make


NAMED = {name: (f"{name}/image", f"{name}/detections") for name in CELLS}


@pytest.fixture
def slow(tmp_path):
    """A detector that needs some 20 to 100 ms for an image."""
    return write_toy_detector(tmp_path / "slow.onnx", work=15)


@pytest.mark.parametrize("max_batch", [1, 2])
def test_each_camera_is_answered_on_its_own_topic_with_its_own_header(environment, rig, toy, peer, max_batch):
    cameras = rig(**NAMED)
    with detector_node(
        environment, {"model": toy, "cameras": "[front, down]", "max_batch": max_batch}
    ) as node:
        cameras.wait()
        assert wait_until(lambda: cameras.publish("front") or cameras.answers["front"], 10)
        assert wait_until(lambda: cameras.publish("down") or cameras.answers["down"], 10)
        cameras.fly({"front": 20, "down": 20}, 1.0)
        for name, classes in (("front", ["1"]), ("down", ["0", "2"])):
            for _, message in cameras.answers[name]:
                assert message.header.frame_id == name
                assert sorted(d.results[0].hypothesis.class_id for d in message.detections) == classes
                assert all(d.header == message.header for d in message.detections)
        assert wait_until(lambda: peer.label_infos)
        assert not peer.detections
        assert node.stop() == 0, node.log


def test_entries_with_a_slash_are_topics_and_answered_below_them(environment, rig, toy):
    topics = {
        "front": ("/drone/front/image_raw", "/drone/front/image_raw/detections"),
        "down": ("/down_cam/image", "/down_cam/image/detections"),
    }
    cameras = rig(**topics)
    listed = "[" + ", ".join(images for images, _ in topics.values()) + "]"
    with detector_node(environment, {"model": toy, "cameras": listed}):
        cameras.wait()
        for name in topics:
            assert wait_until(lambda name=name: cameras.publish(name) or cameras.answers[name], 10)


@pytest.mark.parametrize(
    ("cameras", "text"),
    [("[front, front]", "cameras names one twice"), ("[front, 'a b']", "'a b', which cannot be a topic")],
)
def test_cameras_that_cannot_be_are_refused_with_the_reason(environment, peer, toy, cameras, text):
    with detector_node(environment, {"model": toy, "cameras": cameras}) as node:
        node.wait_for_log(text)
        assert peer.state() == "unconfigured"
        assert "Traceback" not in node.log


def test_under_overload_a_slow_camera_is_answered_as_often_as_it_asks(environment, rig, slow):
    cameras = rig(**NAMED)
    with detector_node(environment, {"model": slow, "cameras": "[front, down]"}):
        cameras.wait()
        assert wait_until(lambda: cameras.publish("down") or cameras.answers["down"], 10)
        for answers in cameras.answers.values():
            answers.clear()
        published = cameras.fly({"front": 200, "down": 2}, 4.0)
        wait_until(lambda: len(cameras.answers["down"]) == published["down"], 2.0)
        assert len(cameras.answers["down"]) >= published["down"] - 1
        assert len(cameras.answers["front"]) >= 4


@pytest.mark.parametrize("rate_hz", [20, 200])
def test_at_any_rate_the_age_of_what_is_answered_stays_bounded(environment, rig, slow, rate_hz):
    cameras = rig(front=NAMED["front"])
    with detector_node(environment, {"model": slow, "cameras": "[front]"}):
        cameras.wait()
        assert wait_until(lambda: cameras.publish("front") or cameras.answers["front"], 10)
        cameras.answers["front"].clear()

        published = cameras.fly({"front": rate_hz}, 4.0)

        ages = cameras.ages_s("front")
        arrivals = np.array([at for at, _ in cameras.answers["front"]])
        assert 4 < len(ages) <= published["front"] + 1
        if rate_hz > 100:
            assert len(ages) < published["front"], "it kept up: the test shows nothing"
        # An image is taken when the answer before is out, and is newer than the one taken then: however long
        # answers take, it is never older than two of them, and the way there and back.
        late = ages[2:] - (arrivals[2:] - arrivals[:-2])
        assert np.median(late) < 0.1
        assert late.max() < 1.0


def test_what_is_skipped_is_counted(environment, rig, slow):
    cameras = rig(front=NAMED["front"])
    with detector_node(environment, {"model": slow, "cameras": "[front]"}) as node:
        cameras.wait()
        cameras.fly({"front": 100}, 3.0)
        node.wait_for_log("dropped")
        counts = [line for line in node.lines if "dropped" in line]
        assert " 0 dropped" not in counts[-1]


def test_max_rate_is_kept_and_changed_in_flight(environment, rig, toy, peer):
    cameras = rig(front=NAMED["front"])
    with detector_node(environment, {"model": toy, "cameras": "[front]", "max_rate_hz": 5.0}):
        cameras.wait()
        assert wait_until(lambda: cameras.publish("front") or cameras.answers["front"], 10)
        cameras.answers["front"].clear()
        cameras.fly({"front": 40}, 3.0)
        slow_count = len(cameras.answers["front"])
        assert 5 <= slow_count <= 18
        assert peer.set_parameter("max_rate_hz", 0.0) == (True, "")
        cameras.answers["front"].clear()
        cameras.fly({"front": 40}, 3.0)
        assert len(cameras.answers["front"]) > 2 * slow_count
