"""A flight as a rosbag2 bag: camera images, where the camera was, and what is truly to be seen in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore
from yolo_trt_node.replay.messages import DETECTIONS_TYPE, IMAGE_TYPE

from aerial_scenes.camera import Camera
from aerial_scenes.flight import Flight
from aerial_scenes.scenes import SceneSpec
from yolo_compress.data.labelled import GroundTruth, truth_of
from yolo_trt_node import cdr

IMAGE_TOPIC = "/camera/image_raw"
INFO_TOPIC = "/camera/camera_info"
TF_TOPIC = "/tf"
FIX_TOPIC = "/fix"
TRUTH_TOPIC = "/ground_truth"
FRAME_ID = "camera"
GROUND_FRAME = "map"
"""The generated world's frame: x east, y north, z up, the ground at z = 0."""
ORIGIN = (47.3977, 8.5456, 488.0)
"""Where that frame lies on the earth: latitude, longitude (degrees), height above the ellipsoid (metres)."""
# Ignored regions travel in the truth's messages under this class id.
IGNORED = "ignored"

Image = NDArray[np.uint8]
FlightProgress = Callable[[int], None]


@dataclass(frozen=True)
class DemoFrame:
    """One image of a flight and what is to be found in it.

    Attributes:
        image: H x W x 3 uint8 BGR.
        truth: boxes in its pixels.
        track_ids: one for each box of the truth; empty texts where nothing is tracked.
        camera: where it was and what it is; None where nobody knows.
    """

    image: Image
    truth: GroundTruth
    track_ids: tuple[str, ...]
    camera: Camera | None = None


def generated_shots(seed: int, spec: SceneSpec, frames: int, fps: float) -> Iterator[DemoFrame]:
    """Render a flight over generated scenes, frame by frame."""
    flight = Flight(seed, spec, frames, fps)
    for frame in flight:
        tracks = tuple(str(a.target_id) for a in frame.annotations if a.evaluated)
        yield DemoFrame(frame.image, truth_of(frame.annotations), tracks, flight.camera(frame.time))


def write_flight(bag: Path, shots: Iterable[DemoFrame], fps: float, progress: FlightProgress) -> int:
    """Write a flight into a new bag: images on `IMAGE_TOPIC`, truth with the same stamps on `TRUTH_TOPIC`.

    Where the shots' cameras are known also the calibration, the camera's transform, and its GPS fix.

    Returns:
        The number of frames.
    """
    store = typestore()
    count = 0
    with BagWriter(bag, store) as writer:
        for shot in shots:
            # Any time will do, as long as it is not zero: the player moves all stamps to the present.
            stamp = 1_000_000_000_000_000_000 + round(count * 1e9 / fps)
            header = messages.header(store, stamp, FRAME_ID)
            if shot.camera is not None:
                for topic, kind, message in _navigation(store, stamp, header, shot.camera):
                    writer.write(topic, kind, bytes(store.serialize_cdr(message, kind)), stamp)
            writer.write(IMAGE_TOPIC, IMAGE_TYPE, messages.image(store, header, shot.image), stamp)
            writer.write(TRUTH_TOPIC, DETECTIONS_TYPE, _truth_message(header, shot), stamp)
            count += 1
            progress(count)
    return count


class RecordedFlight:
    """A flight's bag, read frame by frame."""

    def __init__(self, bag: Path) -> None:
        """Read the truth and the stamps; images stay on disk until asked for."""
        self.bag = bag
        self._store = typestore()
        self.truths: list[GroundTruth] = []
        self.stamps_ns: list[int] = []
        with open_bag(bag) as reader:
            self.duration_s = reader.duration / 1e9
            for _, _, data in reader.messages(_on(reader, TRUTH_TOPIC)):
                self.stamps_ns.append(read_stamp(data))
                self.truths.append(_truth(self._store.deserialize_cdr(data, DETECTIONS_TYPE)))

    def __len__(self) -> int:
        return len(self.truths)

    def images(self, wanted: Sequence[int]) -> dict[int, Image]:
        """Return frames by index, H x W x 3 uint8 BGR."""
        chosen = {}
        with open_bag(self.bag) as reader:
            for index, (_, _, data) in enumerate(reader.messages(_on(reader, IMAGE_TOPIC))):
                if index in wanted:
                    message = self._store.deserialize_cdr(data, IMAGE_TYPE)
                    chosen[index] = message.data.reshape(message.height, message.width, 3)
        return chosen


def boxes_and_classes(message: Any) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Take a Detection2DArray apart: N x 4 left, top, width, height in pixels; class ids; scores."""
    rows, class_ids, scores = [], [], []
    for detection in message.detections:
        box, center = detection.bbox, detection.bbox.center.position
        rows.append((center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y))
        class_ids.append(detection.results[0].hypothesis.class_id)
        scores.append(detection.results[0].hypothesis.score)
    return np.array(rows, np.float64).reshape(-1, 4), class_ids, np.array(scores, np.float64)


def _navigation(store: Any, stamp_ns: int, header: Any, camera: Camera) -> Iterator[tuple[str, str, Any]]:
    """Yield topic, type and message of what is known of a camera: its transform, calibration and fix."""
    types = store.types
    x, y, z, w = _quaternion(camera.rotation.T)
    placed = types["geometry_msgs/msg/Transform"](
        translation=types["geometry_msgs/msg/Vector3"](*map(float, camera.position)),
        rotation=types["geometry_msgs/msg/Quaternion"](x, y, z, w),
    )
    transform = types["geometry_msgs/msg/TransformStamped"](
        messages.header(store, stamp_ns, GROUND_FRAME), FRAME_ID, placed
    )
    yield TF_TOPIC, "tf2_msgs/msg/TFMessage", types["tf2_msgs/msg/TFMessage"]([transform])
    info = types["sensor_msgs/msg/CameraInfo"](
        header=header,
        height=camera.height,
        width=camera.width,
        distortion_model="plumb_bob",
        d=np.zeros(5),
        k=camera.intrinsics.reshape(-1),
        r=np.eye(3).reshape(-1),
        p=np.hstack([camera.intrinsics, np.zeros((3, 1))]).reshape(-1),
        binning_x=0,
        binning_y=0,
        roi=types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False),
    )
    yield INFO_TOPIC, "sensor_msgs/msg/CameraInfo", info
    latitude, longitude, altitude = _geodetic(camera.position)
    fix = types["sensor_msgs/msg/NavSatFix"](
        header=header,
        status=types["sensor_msgs/msg/NavSatStatus"](status=0, service=1),
        latitude=latitude,
        longitude=longitude,
        altitude=altitude,
        position_covariance=np.zeros(9),
        position_covariance_type=0,
    )
    yield FIX_TOPIC, "sensor_msgs/msg/NavSatFix", fix


def _quaternion(rotation: NDArray[np.float64]) -> list[float]:
    """Return a rotation (3 x 3) as x, y, z, w."""
    # The eigenvector of this symmetric matrix for its largest eigenvalue: no special case for any angle.
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = rotation
    matrix = np.array(
        [
            [xx - yy - zz, xy + yx, xz + zx, zy - yz],
            [xy + yx, yy - xx - zz, yz + zy, xz - zx],
            [xz + zx, yz + zy, zz - xx - yy, yx - xy],
            [zy - yz, xz - zx, yx - xy, xx + yy + zz],
        ]
    )
    vector: list[float] = np.linalg.eigh(matrix)[1][:, -1].tolist()
    return vector


def _geodetic(place: tuple[float, float, float]) -> tuple[float, float, float]:
    """Return a place near the world's origin as latitude, longitude and height (WGS 84)."""
    latitude, longitude, height = ORIGIN
    squared = 0.00669437999014  # of the ellipsoid's eccentricity
    root = 1 - squared * math.sin(math.radians(latitude)) ** 2
    across = 6_378_137.0 / math.sqrt(root)  # radii of curvature, metres
    along = across * (1 - squared) / root
    return (
        latitude + math.degrees(place[1] / (along + height)),
        longitude + math.degrees(place[0] / ((across + height) * math.cos(math.radians(latitude)))),
        height + place[2],
    )


def _on(reader: Any, topic: str) -> list[Any]:
    return [connection for connection in reader.connections if connection.topic == topic]


def _truth(message: Any) -> GroundTruth:
    boxes, class_ids, _ = boxes_and_classes(message)
    ignored = np.array([class_id == IGNORED for class_id in class_ids], np.bool_)
    classes = [int(class_id) for class_id in class_ids if class_id != IGNORED]
    return GroundTruth(boxes[~ignored], np.array(classes, np.int64), boxes[ignored])


def _truth_message(header: Any, shot: DemoFrame) -> bytes:
    """Serialize the truth, and the ignored regions."""
    truth = shot.truth
    boxes = np.concatenate((truth.boxes, truth.ignored))
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return cdr.detection_array(
        header,
        (low + high) / 2,
        high - low,
        np.ones(len(boxes)),
        [str(class_id) for class_id in truth.class_ids] + [IGNORED] * len(truth.ignored),
        [*shot.track_ids, *[""] * len(truth.ignored)],
    )
