"""What happens to an image: read, looked at, answered. Runs in the worker's thread."""

from __future__ import annotations

import math
import re
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sensor_msgs.msg import CompressedImage
from std_msgs.msg import Header
from vision_msgs.msg import Detection2DArray

from yolo_trt_node.boxes import Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import Detector, ModelError
from yolo_trt_node.drawing import draw_detections
from yolo_trt_node.health.statistics import VIDEO_DELAY
from yolo_trt_node.images.compressed import pixel_count
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.feed import DecodedFrame
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.messages import frame_from_message
from yolo_trt_node.images.thermal import AUTO_RANGE, ThermalRange
from yolo_trt_node.node.camera import AnyImage, CameraChannel
from yolo_trt_node.node.messages import (
    detection_array,
    header_of,
    image_message,
    serialization_fits,
)
from yolo_trt_node.node.worker import Worker
from yolo_trt_node.node_options import LiveOptions

if TYPE_CHECKING:
    from rclpy.node import Node

REPEAT_ERROR_AFTER_S = 5.0
# A still image of more pixels takes so long to decode that another camera's must not wait for it.
LARGE_PIXELS = 8_000_000
# So many images in a row that the detector fails on in one and the same way: it will not get better.
HOPELESS_FAILURES = 30
# After these no call to the GPU succeeds any more in this process.
_LOST_GPU = re.compile(
    r"illegal (memory access|address|instruction)|unspecified launch failure|device-side assert"
    r"|misaligned address|hardware stack error|uncorrectable ECC|context is destroyed|GPU has fallen off"
    r"|(CUDA_ERROR|cudaError)_?(ILLEGAL|LAUNCH_?FAILED|ASSERT|MISALIGNED|ECC|CONTEXT_IS_DESTROYED)",
    re.IGNORECASE,
)


class Pipeline:
    """From the cameras' newest images to published answers; nothing that an image holds escapes."""

    def __init__(
        self,
        node: Node,
        detector: Detector,
        cameras: Sequence[CameraChannel],
        live: Callable[[], LiveOptions],
        max_pixels: int,
        thermal_range: str = AUTO_RANGE,
        give_up: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Use a loaded detector.

        Args:
            node: whose clock and log are used.
            detector: called from one thread only.
            cameras: in the order of their numbers.
            live: gives what may change at run time, as it is now.
            max_pixels: compressed images with more are refused.
            thermal_range: which counts of 16-bit images become black and white (`ThermalRange`).
            give_up: called, with the reason, where this process cannot detect any more.
        """
        self._node = node
        self._detector = detector
        self._cameras = cameras
        self._live = live
        self._max_pixels = max_pixels
        self._thermal = [ThermalRange(thermal_range) for _ in cameras]
        self._ranges_said: set[int] = set()
        self._give_up = give_up
        self._failure = ""
        self._failures = 0
        self._message: Callable[..., Detection2DArray | bytes] = serialized_detections
        if not serialization_fits():
            self._message = detection_array
            node.get_logger().warning(
                "the installed vision_msgs or middleware writes Detection2DArray in another way than this "
                "node: messages are built by rclpy, which takes longer the more boxes there are"
            )
        self._complained: dict[tuple[str, str], float] = {}
        self._put: Callable[[int, DecodedFrame], bool] | None = None
        self._aside: dict[int, Worker[AnyImage]] = {}

    def hand_back_to(self, put: Callable[[int, DecodedFrame], bool]) -> None:
        """Let large images of one of several cameras be decoded aside, and come back by `Worker.put`."""
        if len(self._cameras) > 1:
            self._put = put

    def close(self) -> None:
        """End the threads that decode aside; `process` is called no more."""
        for worker in self._aside.values():
            worker.stop()
        self._aside = {}

    def _goes_aside(self, number: int, message: Any) -> bool:
        """Leave a large image to a thread of its camera's own; return whether that was done."""
        if self._put is None or not isinstance(message, CompressedImage):
            return False
        if pixel_count(message.data) <= LARGE_PIXELS:
            return False
        if number not in self._aside:
            self._aside[number] = Worker(partial(self._read_aside, number))
        if self._aside[number].put(0, message):
            self._cameras[number].statistics.dropped()
        return True

    def _read_aside(self, number: int, batch: Sequence[tuple[int, AnyImage]]) -> None:
        """Decode a large image, in its camera's thread, and hand it back."""
        camera = self._cameras[number]
        for _, message in batch:
            started = time.perf_counter()
            try:
                frame = frame_from_message(message, self._max_pixels, self._thermal[number])
            except ImageError as error:
                self._unreadable(camera, error.reason, str(error))
            except Exception:
                self._unreadable(camera, "unforeseen", traceback.format_exc())
            else:
                decoded = DecodedFrame(header_of(message), frame, time.perf_counter() - started)
                if self._put is not None and self._put(number, decoded):
                    camera.statistics.dropped()

    def process(self, batch: Sequence[tuple[int, AnyImage]]) -> None:
        """Detect in images of several cameras, (number, message) each, and publish what was found."""
        readable = []
        for number, message in batch:
            camera = self._cameras[number]
            started = time.perf_counter()
            try:
                if isinstance(message, DecodedFrame):
                    spent = {"decode": message.seconds}
                    if message.delay_s is not None:
                        spent[VIDEO_DELAY] = message.delay_s
                    readable.append((camera, message.header, message.frame, spent))
                    continue
                if self._goes_aside(number, message):
                    continue
                frame = frame_from_message(message, self._max_pixels, self._thermal[number])
                self._say_range(number)
            except ImageError as error:
                self._unreadable(camera, error.reason, str(error))
            except Exception:
                self._unreadable(camera, "unforeseen", traceback.format_exc())
            else:
                spent = {"decode": time.perf_counter() - started}
                readable.append((camera, header_of(message), frame, spent))
        if not readable:
            return
        try:
            found = self._detector.detect([frame for _, _, frame, _ in readable])
        except Exception as error:
            # What is wrong with the model is said in words; where the code is wrong, its place is told.
            text = str(error) if isinstance(error, ModelError) else traceback.format_exc()
            for camera, *_ in readable:
                self._unreadable(camera, "detector failed", text)
            self._failed(repr(error), len(readable))
            return
        self._failures = 0
        for (camera, header, frame, spent), detections in zip(readable, found, strict=True):
            try:
                self._answer(camera, header, frame, detections, spent)
            except Exception:
                self._unreadable(camera, "answer failed", traceback.format_exc())

    def _answer(
        self,
        camera: CameraChannel,
        header: Header,
        frame: Frame,
        detections: Detections,
        spent: Mapping[str, float],
    ) -> None:
        """Publish what was found in one image."""
        tracking_s = 0.0
        if camera.tracker is not None:
            started = time.perf_counter()
            stamp_s = header.stamp.sec + header.stamp.nanosec * 1e-9
            ids = camera.tracker.update(detections, frame, stamp_s)
            detections = replace(detections, track_ids=ids)
            tracking_s = time.perf_counter() - started
        started = time.perf_counter()
        camera.outputs["detections"].publish(self._message(header, detections))
        # By hand: rclpy's Time refuses a stamp before 1970, which a broken camera may well send.
        stamped = header.stamp.sec * 10**9 + header.stamp.nanosec
        # A stamp of zero is none: the age since 1970 would only mislead.
        age_s = (self._node.get_clock().now().nanoseconds - stamped) / 1e9 if stamped else None
        timing = {**spent, **detections.timing, "publish": time.perf_counter() - started}
        if camera.tracker is not None:
            timing["tracking"] = tracking_s
        camera.statistics.published(age_s, timing, len(detections))
        if self._live().log_frames:
            age = "unknown" if age_s is None else f"{1e3 * age_s:.1f} ms"
            stages = ", ".join(f"{stage} {1e3 * seconds:.1f}" for stage, seconds in timing.items())
            self._node.get_logger().info(
                f"{camera.topic}: stamp {header.stamp.sec}.{header.stamp.nanosec:09d}, {len(detections)} "
                f"boxes, age {age}; ms: {stages}"
            )
        # Whatever else is made of the boxes follows here, after the planner has them.
        if camera.ground is not None:
            camera.ground.put(header, (frame.height, frame.width), detections)
        annotated = camera.outputs["annotated"]
        if annotated.get_subscription_count():
            picture = draw_detections(frame.to_bgr(), detections, self._detector.card.names)
            annotated.publish(image_message(header, picture))

    def _say_range(self, number: int) -> None:
        """Log once how a camera's 16-bit counts become grays."""
        if self._thermal[number].used and number not in self._ranges_said:
            self._ranges_said.add(number)
            self._node.get_logger().info(f"{self._cameras[number].topic}: {self._thermal[number]}")

    def _failed(self, failure: str, images: int) -> None:
        """Give up where trying again is of no use."""
        self._failures = images + (self._failures if failure == self._failure else 0)
        self._failure = failure
        if _LOST_GPU.search(failure):
            self._give_up(f"the GPU is lost to this process: {failure}")
        elif self._failures >= HOPELESS_FAILURES:
            self._give_up(f"the detector failed on {self._failures} images in a row: {failure}")

    def _unreadable(self, camera: CameraChannel, reason: str, text: str) -> None:
        """Count an image, and log why; for the same reason only after a while: a broken camera repeats it."""
        camera.statistics.unreadable(reason)
        now = time.monotonic()
        if now - self._complained.get((camera.name, reason), -math.inf) > REPEAT_ERROR_AFTER_S:
            self._complained[camera.name, reason] = now
            self._node.get_logger().error(f"{camera.topic}: {text}")
