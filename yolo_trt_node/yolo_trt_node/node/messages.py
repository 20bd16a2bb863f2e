"""From detections to ``vision_msgs``."""

from __future__ import annotations

import array
import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rclpy.serialization import deserialize_message, serialize_message
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    Detection3D,
    Detection3DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
    VisionInfo,
)

from yolo_trt_node.detector import Detections, ModelCard
from yolo_trt_node.projection import GroundPoints

# In a serialised Detection2D: score, position (3), orientation (4), covariance (36), centre x, y and angle,
# width, height.
_NUMBERS = 49
_ORIENTATION_W = 7
_CENTRE = slice(44, 46)
_SIZE = slice(47, 49)
# Little endian; the origin of alignment is behind it.
_ENCAPSULATION = b"\x00\x01\x00\x00"


def serialized_detections(header: Header, detections: Detections, ids: Sequence[str] = ()) -> bytes:
    """Build what `detection_array` builds, as the bytes that go over the wire (CDR).

    rclpy makes and reads a dozen Python objects a box; hundreds of boxes would cost as much as the network.
    Here the numbers of all boxes are laid out at once, and only texts are put between them.

    Args:
        header: as in `detection_array`.
        detections: likewise.
        ids: likewise.
    """
    count = len(detections)
    numbers = np.zeros((count, _NUMBERS), "<f8")
    boxes = detections.boxes.astype(np.float64)
    numbers[:, 0] = detections.scores
    numbers[:, _ORIENTATION_W] = 1.0
    numbers[:, _CENTRE] = (boxes[:, :2] + boxes[:, 2:]) / 2
    numbers[:, _SIZE] = boxes[:, 2:] - boxes[:, :2]
    content = numbers.tobytes()
    size = _NUMBERS * numbers.itemsize

    head = struct.pack("<iI", header.stamp.sec, header.stamp.nanosec) + _text(header.frame_id)
    parts = [head := _padded(head, 0, 4), struct.pack("<I", count)]
    at = len(head) + 4
    before: dict[tuple[int, int], bytes] = {}
    for index, class_id in enumerate(detections.class_ids.tolist()):
        # What stands before the numbers depends on the class, and on where it begins.
        key = class_id, at % 8
        if key not in before:
            one = head + struct.pack("<I", 1) + _text(str(class_id))
            before[key] = _padded(one, at, 8)
        after = _text(ids[index]) if ids else b"\x01\x00\x00\x00\x00"
        if index < count - 1:
            after = _padded(after, 0, 4)
        parts += before[key], content[index * size : (index + 1) * size], after
        at += len(before[key]) + size + len(after)
    return _ENCAPSULATION + b"".join(parts)


def _text(text: str) -> bytes:
    """Serialise a string: its length in bytes with the end mark, itself, the end mark."""
    content = text.encode() + b"\x00"
    return struct.pack("<I", len(content)) + content


def _padded(content: bytes, start: int, to: int) -> bytes:
    """Fill up with zeros until what follows is aligned, where the content begins at ``start``."""
    return content + bytes(-(start + len(content)) % to)


def serialization_fits() -> bool:
    """Whether the installed `vision_msgs` and middleware read what `serialized_detections` writes."""
    header = Header(frame_id="f")
    header.stamp.sec, header.stamp.nanosec = -3, 5
    boxes = np.array([[1, 2, 4, 8], [0.5, 0.25, 7, 9], [3, 3, 5, 6]], np.float32)
    found = Detections(boxes, np.array([0.9, 0.5, 0.25], np.float32), np.array([2, 10, 345], np.int32))
    ids = ["", "17", "1234"]
    message = detection_array(header, found, ids)
    written = serialized_detections(header, found, ids)
    try:
        read = deserialize_message(written, Detection2DArray)
    except Exception:  # each middleware has its own
        return False
    # Not the bytes themselves: what the middleware pads with is whatever lay in its memory.
    return read == message and len(written) == len(serialize_message(message))


def detection_array(header: Header, detections: Detections, ids: Sequence[str] = ()) -> Detection2DArray:
    """Build the message for one image.

    Args:
        header: the source image's header; it is copied to the array and to each detection, so that planners
            can match stamps and frames.
        detections: boxes in pixels of that image.
        ids: of the tracks that they belong to, one a box; none where nothing tracks.
    """
    boxes = detections.boxes.astype(np.float64)
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    message = Detection2DArray(header=header)
    for (centre_x, centre_y), (width, height), score, class_id, track in zip(
        centres,
        sizes,
        detections.scores.tolist(),
        detections.class_ids.tolist(),
        ids or [""] * len(detections),
        strict=True,
    ):
        detection = Detection2D(header=header, id=track)
        detection.bbox.center.position.x = centre_x
        detection.bbox.center.position.y = centre_y
        detection.bbox.size_x = width
        detection.bbox.size_y = height
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(class_id)
        result.hypothesis.score = score
        detection.results = [result]
        message.detections.append(detection)
    return message


def detection_3d_array(
    header: Header, detections: Detections, points: GroundPoints, ids: Sequence[str] = ()
) -> Detection3DArray:
    """Build the message of an image's detections on the ground.

    Each result's pose is the place, with its covariance; the orientation is not known (variance of an even
    spread over the circle). The box is flat and square: as wide as the object spans across the line of sight.

    Args:
        header: the image's stamp, and the fixed frame.
        detections: what was found in the image.
        points: where those that stand on the ground do.
        ids: of the tracks, one for each detection; none where nothing tracks.
    """
    message = Detection3DArray(header=header)
    covariances = np.zeros((len(points.index), 6, 6))
    covariances[:, :3, :3] = points.covariances
    covariances[:, [3, 4, 5], [3, 4, 5]] = np.pi**2 / 3
    for row, index in enumerate(points.index.tolist()):
        detection = Detection3D(header=header, id=ids[index] if ids else "")
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = str(int(detections.class_ids[index]))
        result.hypothesis.score = float(detections.scores[index])
        for place in (result.pose.pose.position, detection.bbox.center.position):
            place.x, place.y, place.z = points.positions[row].tolist()
        result.pose.covariance = covariances[row].reshape(-1)
        detection.results = [result]
        detection.bbox.size.x = detection.bbox.size.y = float(points.widths[row])
        message.detections.append(detection)
    return message


def label_info(header: Header, card: ModelCard, threshold: float) -> LabelInfo:
    """Say which class ids there are and which score cut is in force."""
    classes = [VisionClass(class_id=index, class_name=name) for index, name in enumerate(card.names)]
    return LabelInfo(header=header, class_map=classes, threshold=threshold)


def vision_info(header: Header, method: str, database: str) -> VisionInfo:
    """Say what detects, and where the meaning of the class ids stands."""
    return VisionInfo(header=header, method=method, database_location=database, database_version=0)


def image_message(header: Header, pixels: NDArray[np.uint8]) -> Image:
    """Build a bgr8 image message of H x W x 3 uint8 BGR pixels."""
    height, width = pixels.shape[:2]
    # rclpy takes an array.array as it is; any other sequence it checks byte by byte.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).reshape(-1).data)
    return Image(
        header=header,
        height=height,
        width=width,
        encoding="bgr8",
        is_bigendian=0,
        step=width * 3,
        data=data,
    )
