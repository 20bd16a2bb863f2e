"""Detections on the ground: one camera's boxes as places in a fixed frame, for planners."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo
from std_msgs.msg import Header

from yolo_trt_node.boxes import Detections
from yolo_trt_node.node.messages import detection_3d_array
from yolo_trt_node.node.qos import create_subscription
from yolo_trt_node.node.transforms import NotYetError, TransformBuffer, TransformError
from yolo_trt_node.node_options import GroundSettings
from yolo_trt_node.projection import PinholeCamera, ProjectionError, ground_points

if TYPE_CHECKING:
    from rclpy.lifecycle import LifecycleNode, LifecyclePublisher
    from rclpy.subscription import Subscription

# An image's boxes wait so long for the calibration and the transform at its stamp; so many images' at once.
PATIENCE_S = 1.0
_WAITING = 30
REPEAT_WARNING_AFTER_S = 5.0

# A best-effort subscription matches every publisher, and only the newest calibration counts.
_INFO_QOS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)


@dataclass(frozen=True)
class _Waiting:
    """What was found in an image, until the camera's pose at its stamp is known."""

    header: Header
    size: tuple[int, int]
    detections: Detections
    since_s: float


def camera_info_topic(image_topic: str) -> str:
    """Return where a camera's calibration is published: beside its images, as image_transport has it."""
    parts = image_topic.split("/")
    if parts[-1] in ("compressed", "compressedDepth", "theora"):
        parts.pop()
    return "/".join([*parts[:-1], "camera_info"])


class GroundProjection:
    """Publishes one camera's detections on the ground.

    The camera's pose often comes later than the detections (an estimator's delay): boxes wait for it, and
    nobody waits for them.
    """

    def __init__(
        self,
        node: LifecycleNode,
        image_topic: str,
        publisher: LifecyclePublisher,
        transforms: TransformBuffer,
        settings: GroundSettings,
    ) -> None:
        """Subscribe to the camera's calibration.

        Args:
            node: whose executor receives and whose log is used.
            image_topic: full name of the camera's image topic.
            publisher: of ``vision_msgs/Detection3DArray``.
            transforms: where frames are.
            settings: where to project, and how well all is known.
        """
        self._node = node
        self._image_topic = image_topic
        self._publisher = publisher
        self._transforms = transforms
        self._frame = settings.frame
        self._ground = settings.ground
        self._rectified = settings.rectified
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque(maxlen=_WAITING)
        self._info: CameraInfo | None = None
        self._camera: PinholeCamera | None = None
        self._warned = ("", 0.0)
        self._subscription: Subscription | None = create_subscription(
            node, CameraInfo, camera_info_topic(image_topic), self._on_info, _INFO_QOS
        )
        self._info_topic = self._subscription.topic_name

    def close(self) -> None:
        """Stop listening, and give up what waits."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
        with self._lock:
            self._waiting.clear()

    def put(self, header: Header, size: tuple[int, int], detections: Detections) -> None:
        """Take what was found in an image; it is published when the camera's pose at its stamp is known.

        Args:
            header: the image's.
            size: the image's height and width in pixels.
            detections: in pixels of the image.
        """
        if not self._publisher.get_subscription_count():
            return
        with self._lock:
            self._waiting.append(_Waiting(header, size, detections, time.monotonic()))
        self.flush()

    def flush(self) -> None:
        """Publish what can be published now, oldest first; give up what has waited for too long."""
        with self._lock:
            while self._waiting:
                waiting = self._waiting[0]
                try:
                    self._publish(waiting)
                except NotYetError as error:
                    if time.monotonic() - waiting.since_s < PATIENCE_S:
                        return
                    self._warn(f"{error} (waited {PATIENCE_S:g} s)")
                except (TransformError, ProjectionError) as error:
                    self._warn(str(error))
                self._waiting.popleft()

    def _publish(self, waiting: _Waiting) -> None:
        header = waiting.header
        camera = self._calibrated(waiting.size)
        if not header.frame_id:
            raise TransformError(
                "the images' header.frame_id is empty, so the camera cannot be found in TF; set the frame id "
                "in the camera's driver"
            )
        stamp_ns = header.stamp.sec * 1_000_000_000 + header.stamp.nanosec
        pose = self._transforms.lookup(self._frame, header.frame_id, stamp_ns)
        if pose.position[2] <= self._ground.height:
            raise ProjectionError(
                f"the camera's frame {header.frame_id!r} is at z = {pose.position[2]:.2f} m in "
                f"{self._frame!r}, not above the ground at {self._ground.height:g} m; check ground_height "
                "and the frames"
            )
        boxes = waiting.detections.boxes.astype(np.float64)
        points = ground_points(boxes, camera, pose.rotation, pose.position, self._ground)
        fixed = Header(stamp=header.stamp, frame_id=self._frame)
        self._publisher.publish(detection_3d_array(fixed, waiting.detections, points))

    def _calibrated(self, size: tuple[int, int]) -> PinholeCamera:
        """Return the camera of images of a size.

        Raises:
            NotYetError: no calibration was received.
            ProjectionError: it is not for such.
        """
        if self._info is None:
            publishers = self._node.count_publishers(self._info_topic)
            raise NotYetError(
                f"no CameraInfo on {self._info_topic} ({publishers} publisher{'s' * (publishers != 1)}), so "
                "pixels cannot be turned into directions; publish it beside the images, or remap "
                f"{self._info_topic}"
            )
        if self._camera is None:
            try:
                self._camera = PinholeCamera.from_info(self._info, rectified=self._rectified)
            except ProjectionError as error:
                raise ProjectionError(f"{self._info_topic}: {error}") from error
        camera = self._camera
        if size != (camera.height, camera.width):
            raise ProjectionError(
                f"the images are {size[1]} x {size[0]} pixels, but {self._info_topic} is for "
                f"{camera.width} x {camera.height}; calibrate for the size in use, or let what resizes the "
                "images resize it too"
            )
        return camera

    def _on_info(self, message: CameraInfo) -> None:
        with self._lock:
            message.header = Header()  # its stamp changes with every image, the rest hardly ever
            if message != self._info:
                self._info, self._camera = message, None
        self.flush()

    def _warn(self, text: str) -> None:
        """Log a warning; the same again only after a while: what is wrong is wrong for every image."""
        now = time.monotonic()
        kind = re.sub(r"[\d.]+", "", text)
        last, when = self._warned
        if kind != last or now - when > REPEAT_WARNING_AFTER_S:
            self._warned = (kind, now)
            self._node.get_logger().warning(f"{self._image_topic}, detections_3d: {text}")
