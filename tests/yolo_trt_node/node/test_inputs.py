"""What the node takes in: every encoding, compressed images, publishers that come, go and change."""

from contextlib import suppress
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header
from support import video
from support.frames import encode
from support.ros import detector_node, wait_until
from support.toy_detector import scene
from vision_msgs.msg import Detection2DArray

RELIABLE, BEST_EFFORT = ReliabilityPolicy.RELIABLE, ReliabilityPolicy.BEST_EFFORT
IMAGE, DETECTIONS = "/image", "/detections"


def qos(reliability, depth=1) -> QoSProfile:
    return QoSProfile(depth=depth, reliability=reliability)


@pytest.fixture
def without_camera(peer):
    """The peer without its own camera: the tests here bring theirs."""
    peer.node.destroy_publisher(peer.images)
    return peer


class Camera:
    """A publisher of raw or compressed images with a participant of its own, as a driver has it."""

    def __init__(self, domain, topic, kind, reliability):
        self._context = rclpy.Context()
        self._context.init(domain_id=domain)
        self._node = rclpy.create_node("camera", context=self._context)
        self._publisher = self._node.create_publisher(kind, topic, qos(reliability))
        self.publish = self._publisher.publish
        self.get_subscription_count = self._publisher.get_subscription_count

    def close(self):
        if self._context.ok():
            self._node.destroy_node()
            self._context.shutdown()


@pytest.fixture
def cameras(without_camera, domain):
    """Makes cameras."""
    made = []

    def camera(topic=IMAGE, kind=Image, reliability=RELIABLE):
        made.append(Camera(domain, topic, kind, reliability))
        return made[-1]

    yield camera
    for each in made:
        each.close()


def raw(frame, encoding, stamp=1) -> Image:
    message = Image(header=Header(stamp=Time(sec=stamp), frame_id="camera"), encoding=encoding)
    message.height, message.width, message.step = frame.height, frame.width, frame.step
    rows = np.full((len(frame.data), frame.step), 77, np.uint8)
    rows[:, : frame.data.shape[1]] = frame.data
    message.data.frombytes(rows.tobytes())
    return message


def jpeg(image, stamp=1, suffix=".jpg") -> CompressedImage:
    message = CompressedImage(header=Header(stamp=Time(sec=stamp), frame_id="camera"), format="jpeg")
    message.data.frombytes(cv2.imencode(suffix, image)[1].tobytes())
    return message


def answered(peer, camera, message) -> Detection2DArray:
    """Publish until an answer with the message's stamp comes."""
    wanted = message.header.stamp
    assert wait_until(lambda: camera.get_subscription_count() > 0), "nobody subscribed to the camera"
    for _ in range(20):
        camera.publish(message)
        found = []
        if wait_until(
            lambda found=found: bool(
                found.extend(m for m in peer.detections if m.header.stamp == wanted) or found
            ),
            1.0,
        ):
            return found[0]
    raise AssertionError(
        f"no detections came; the camera has {camera.get_subscription_count()} subscriptions, detections "
        f"have {peer.node.count_publishers(DETECTIONS)} publishers, {len(peer.detections)} other answers came"
    )


def subscription_of(peer, topic=IMAGE):
    infos = peer.node.get_subscriptions_info_by_topic(topic)
    return [info.qos_profile.reliability for info in infos if info.node_name == "yolo_detector"]


def test_every_kind_of_encoding_is_answered_with_the_same_boxes(environment, cameras, without_camera, toy):
    bayer = scene()[..., 1].copy()
    bayer[::2, ::2], bayer[1::2, 1::2] = scene()[::2, ::2, 2], scene()[1::2, 1::2, 0]
    pictures = {
        "bgr8": encode(scene(), "bgr8", padding=6),
        "rgb8": encode(scene(), "rgb8"),
        "bgra8": encode(scene(), "bgra8"),
        "yuv422_yuy2": encode(scene(), "yuyv"),
        "nv12": encode(scene(), "nv12"),
        "bayer_rggb8": SimpleNamespace(height=320, width=640, step=640, data=bayer),
    }
    with detector_node(environment, {"model": toy}):
        camera = cameras()
        for stamp, (encoding, frame) in enumerate(pictures.items(), 1):
            answer = answered(without_camera, camera, raw(frame, encoding, stamp))
            classes = sorted(d.results[0].hypothesis.class_id for d in answer.detections)
            assert classes == ["0", "1"], encoding


class TestCompressed:
    @pytest.mark.parametrize(
        ("transport", "topic"),
        [("auto", IMAGE), ("compressed", f"{IMAGE}/compressed")],
    )
    def test_it_is_read_where_it_is_published(
        self, environment, cameras, without_camera, toy, transport, topic
    ):
        camera = cameras(topic, CompressedImage)
        with detector_node(environment, {"model": toy, "image_transport": transport}):
            assert len(answered(without_camera, camera, jpeg(scene())).detections) == 2
            assert len(answered(without_camera, camera, jpeg(scene(), 2, ".png")).detections) == 2

    def test_foxgloves_images_are_read(self, environment, cameras, without_camera, toy):
        foxglove = pytest.importorskip("foxglove_msgs.msg", reason="foxglove_msgs is not installed")
        camera = cameras(f"{IMAGE}/compressed", foxglove.CompressedImage)
        message = foxglove.CompressedImage(timestamp=Time(sec=4), frame_id="camera", format="jpeg")
        message.data.frombytes(cv2.imencode(".jpg", scene())[1].tobytes())
        with detector_node(environment, {"model": toy}):
            assert wait_until(lambda: camera.get_subscription_count() > 0)

            def heard() -> bool:
                camera.publish(message)
                return wait_until(lambda: bool(without_camera.detections), 1.0)

            assert wait_until(heard)
        answer = without_camera.detections[0]
        assert (answer.header.stamp.sec, answer.header.frame_id, len(answer.detections)) == (4, "camera", 2)

    def test_a_bomb_and_a_cut_off_picture_are_named_and_the_next_good_one_answered(
        self, environment, cameras, without_camera, toy
    ):
        camera = cameras(IMAGE, CompressedImage)
        with detector_node(environment, {"model": toy, "max_megapixels": 0.5}) as node:
            answered(without_camera, camera, jpeg(scene()))
            camera.publish(jpeg(np.zeros((1000, 1000, 3), np.uint8)))
            node.wait_for_log("too large: its header says 1000 x 1000 pixels")
            cut = jpeg(scene())
            cut.data = cut.data[: len(cut.data) // 2]
            camera.publish(cut)
            node.wait_for_log("damaged image: the JPEG is cut off")
            assert len(answered(without_camera, camera, jpeg(scene(), 9)).detections) == 2

    def test_a_camera_that_changes_from_raw_to_compressed_is_followed(
        self, environment, cameras, without_camera, toy
    ):
        camera = cameras()
        with detector_node(environment, {"model": toy}):
            answered(without_camera, camera, raw(encode(scene(), "bgr8"), "bgr8"))
            camera.close()
            camera = cameras(f"{IMAGE}/compressed", CompressedImage)
            assert len(answered(without_camera, camera, jpeg(scene(), 2)).detections) == 2


class TestReliability:
    @pytest.mark.parametrize("offered", [RELIABLE, BEST_EFFORT])
    def test_auto_takes_what_the_publisher_offers(self, environment, cameras, without_camera, toy, offered):
        camera = cameras(reliability=offered)
        with detector_node(environment, {"model": toy}):
            assert wait_until(lambda: subscription_of(without_camera) == [offered])
            answered(without_camera, camera, raw(encode(scene(), "bgr8"), "bgr8"))

    def test_auto_changes_with_the_publishers(self, environment, cameras, without_camera, toy):
        with detector_node(environment, {"model": toy}) as node:
            assert wait_until(lambda: subscription_of(without_camera) == [BEST_EFFORT])
            first = cameras(reliability=RELIABLE)
            assert wait_until(lambda: subscription_of(without_camera) == [RELIABLE])
            second = cameras(reliability=BEST_EFFORT)
            assert wait_until(lambda: subscription_of(without_camera) == [BEST_EFFORT])
            second.close()
            assert wait_until(lambda: subscription_of(without_camera) == [RELIABLE])
            answered(without_camera, first, raw(encode(scene(), "bgr8"), "bgr8"))
            node.wait_for_log("/image: now reading sensor_msgs/msg/Image from /image, reliable")

    @pytest.mark.parametrize(("wanted", "other"), [("reliable", BEST_EFFORT), ("best_effort", RELIABLE)])
    def test_a_named_one_is_kept(self, environment, cameras, without_camera, toy, wanted, other):
        cameras(reliability=other)
        with detector_node(environment, {"model": toy, "image_reliability": wanted}) as node:
            node.wait_for_log("active: listening")
            expected = ReliabilityPolicy[wanted.upper()]
            assert wait_until(lambda: subscription_of(without_camera) == [expected])


class TestQosOverrides:
    def test_every_topic_has_them(self, environment, without_camera, toy):
        published = (
            *("/detections", "/annotated", "/label_info", "/vision_info", "/diagnostics", "/detections_3d"),
        )
        overrides = {f"qos_overrides.{topic}.publisher.reliability": "best_effort" for topic in published}
        overrides["qos_overrides./image.subscription.reliability"] = "reliable"
        overrides["qos_overrides./image.subscription.depth"] = 3
        heard = ("/camera_info", "/tf", "/tf_static")
        overrides |= {f"qos_overrides.{topic}.subscription.reliability": "best_effort" for topic in heard}
        parameters = {"model": toy, "ground_frame": "map", **overrides}
        with detector_node(environment, parameters) as node:
            node.wait_for_log("active: listening")
            assert wait_until(lambda: subscription_of(without_camera) == [RELIABLE])
            for topic in published:
                (info,) = without_camera.node.get_publishers_info_by_topic(topic)
                assert info.qos_profile.reliability == BEST_EFFORT, topic
            for topic in heard:
                assert wait_until(lambda topic=topic: subscription_of(without_camera, topic) == [BEST_EFFORT])
            assert without_camera.get_parameter("qos_overrides./image.subscription.depth") == 3
            successful, reason = without_camera.set_parameter("qos_overrides./image.subscription.depth", 5)
            assert not successful, reason

    def test_a_wrong_one_for_diagnostics_does_not_silence_them(self, environment, without_camera, toy):
        wrong = {"qos_overrides./diagnostics.publisher.reliability": "sometimes"}
        with detector_node(environment, {"model": toy, **wrong}) as node:
            node.wait_for_log("`sometimes`; /diagnostics keeps its own profile")
            assert wait_until(lambda: without_camera.node.count_publishers("/diagnostics") == 1)

    @pytest.mark.parametrize("name", ["/detections.publisher", "/image.subscription"])
    def test_a_wrong_one_is_named_with_what_is_allowed(self, environment, without_camera, toy, name):
        with detector_node(
            environment, {"model": toy, f"qos_overrides.{name}.reliability": "sometimes"}
        ) as node:
            node.wait_for_log("'sometimes'" if "image" in name else "`sometimes`")
            assert "Traceback" not in node.log
            assert node.alive
            assert without_camera.state() in ("unconfigured", "inactive")


class TestListeners:
    @pytest.fixture
    def unheard(self, peer):
        """The peer without its planner."""
        for subscription in list(peer.node.subscriptions):
            if subscription.topic_name == DETECTIONS:
                peer.node.destroy_subscription(subscription)
        return peer

    def test_nobody_listening_nothing_is_computed_and_a_listener_is_served(self, environment, unheard, toy):
        with detector_node(environment, {"model": toy, "log_frames": True}) as node:
            assert wait_until(lambda: unheard.images.get_subscription_count() > 0)
            for index in range(10):
                unheard.publish(scene(), (100 + index, 0))
            assert not wait_until(lambda: "stamp 10" in node.log, 1.0)
            unheard.node.create_subscription(Detection2DArray, "detections", unheard.detections.append, 10)
            assert len(unheard.detect(scene(), (200, 0)).detections) == 2
            node.wait_for_log("stamp 200.000000000, 2 boxes, age")

    def test_unless_it_is_wished(self, environment, unheard, toy):
        wish = {"infer_without_listeners": True, "log_frames": True}
        with detector_node(environment, {"model": toy, **wish}) as node:
            assert wait_until(lambda: unheard.images.get_subscription_count() > 0)
            assert wait_until(lambda: unheard.publish(scene(), (100, 0)) and "stamp 100." in node.log)


class TestTime:
    """The node's own work needs no clock: it goes on whatever time does."""

    def test_without_a_clock_under_sim_time_images_are_answered(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "use_sim_time": True}):
            assert len(peer.detect(scene(), (5, 0)).detections) == 2

    def test_a_bag_that_loops_is_answered_in_every_round(self, environment, peer, toy):
        clock = peer.node.create_publisher(Clock, "/clock", 10)
        with detector_node(environment, {"model": toy, "use_sim_time": True}) as node:
            assert wait_until(lambda: clock.get_subscription_count() > 0)
            for second in (1000, 1001, 900_000, 1000, 1001, 3):
                clock.publish(Clock(clock=Time(sec=second)))
                answer = peer.detect(scene(), (second, 0))
                assert answer.header.stamp.sec == second
                assert len(answer.detections) == 2
            assert "ERROR" not in node.log
            assert node.stop() == 0


class TestVideo:
    def test_every_kind_is_answered_frame_by_frame_after_the_first_key_frame(
        self, environment, cameras, without_camera, toy
    ):
        kinds = video_kinds()
        # The node may subscribe anew at any time, and then waits for a key frame.
        packets = [data for _, data in video.encode([scene()] * 3, gop=1)]
        _, in_between = video.encode([scene()] * 4, gop=6)[3]
        names = [f"eye{number}" for number in range(len(kinds))]
        found = {name: [] for name in names}
        for name in names:
            without_camera.node.create_subscription(
                Detection2DArray, f"/{name}/detections", found[name].append, 100
            )
        with detector_node(environment, {"model": toy, "cameras": f"[{','.join(names)}]"}) as node:
            sending = {
                name: cameras(f"/{name}/image{beside}", kind)
                for name, (kind, beside, _) in zip(names, kinds, strict=True)
            }
            assert wait_until(lambda: all(camera.get_subscription_count() for camera in sending.values()))

            def send(index: int, data: bytes) -> None:
                for name, (_, _, make) in zip(names, kinds, strict=True):
                    sending[name].publish(make(index, data))

            def refused() -> bool:  # published again where the node has just subscribed anew
                send(50, in_between)
                return all(f"/{name}/image: waiting for a key frame" in node.log for name in names)

            assert wait_until(refused), node.log

            def all_answered(stamp: int) -> bool:
                return all(any(m.header.stamp.sec == stamp for m in found[name]) for name in names)

            for index, data in enumerate(packets):

                def answered_all(index=index, data=data) -> bool:
                    send(index, data)
                    return wait_until(lambda: all_answered(1 + index), 1.0)

                assert wait_until(answered_all), node.log
            for name in names:
                assert all(len(m.detections) == 2 for m in found[name]), name
                assert f"/{name}/image: decoding h264; each frame is there at once" in node.log


def video_kinds() -> list[tuple[type, str, object]]:
    """(message class, where it is published beside the topic, maker of a message of index and packet)."""

    def header(index: int) -> Header:
        return Header(stamp=Time(sec=1 + index), frame_id="camera")

    def filled(message: object, data: bytes) -> object:
        message.data.frombytes(data)
        return message

    kinds: list[tuple[type, str, object]] = [
        (Image, "", lambda i, data: filled(Image(header=header(i), encoding="h264"), data)),
        (
            CompressedImage,
            "/compressed",
            lambda i, data: filled(CompressedImage(header=header(i), format="h264"), data),
        ),
    ]
    with suppress(ImportError):
        from ffmpeg_image_transport_msgs.msg import FFMPEGPacket

        kinds.append(
            (
                FFMPEGPacket,
                "/ffmpeg",
                # As from an encoder that numbers its packets by their times, so that none is missed.
                lambda i, data: filled(
                    FFMPEGPacket(header=header(i), encoding="libx264;yuv420p;bgr8;bgr8", pts=33 * i), data
                ),
            )
        )
    with suppress(ImportError, AttributeError):
        from foxglove_msgs.msg import CompressedVideo

        kinds.append(
            (
                CompressedVideo,
                "/foxglove",
                lambda i, data: filled(
                    CompressedVideo(timestamp=header(i).stamp, frame_id="camera", format="h264"), data
                ),
            )
        )
    return kinds
