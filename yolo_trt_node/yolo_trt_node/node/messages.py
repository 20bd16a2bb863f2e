"""From detections to ``vision_msgs``."""

from __future__ import annotations

import array
from typing import Any

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

from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import ModelCard
from yolo_trt_node.projection import GroundPoints


def header_of(message: Any) -> Header:
    """Return an image message's header; foxglove's messages have its parts instead."""
    if hasattr(message, "header"):
        return message.header
    return Header(stamp=message.timestamp, frame_id=message.frame_id)


def serialization_fits() -> bool:
    """Whether the installed `vision_msgs` and middleware read what `serialized_detections` writes."""
    header = Header(frame_id="f")
    header.stamp.sec, header.stamp.nanosec = -3, 5
    boxes = np.array([[1, 2, 4, 8], [0.5, 0.25, 7, 9], [3, 3, 5, 6]], np.float32)
    found = Detections(
        boxes,
        np.array([0.9, 0.5, 0.25], np.float32),
        np.array([2, 10, 345], np.int32),
        track_ids=np.array([NO_ID, 17, 1234]),
    )
    message = detection_array(header, found)
    written = serialized_detections(header, found)
    try:
        read = deserialize_message(written, Detection2DArray)
    except Exception:  # each middleware has its own
        return False
    # Not the bytes themselves: what the middleware pads with is whatever lay in its memory.
    return read == message and len(written) == len(serialize_message(message))


def detection_array(header: Header, detections: Detections) -> Detection2DArray:
    """Build the message for one image.

    Args:
        header: the source image's header; it is copied to the array and to each detection, so that planners
            can match stamps and frames.
        detections: boxes in pixels of that image.
    """
    message = Detection2DArray(header=header)
    for (center_x, center_y), (width, height), score, class_id, track in zip(
        detections.centers().tolist(),
        detections.sizes().tolist(),
        detections.scores.tolist(),
        detections.class_texts(),
        detections.track_texts(),
        strict=True,
    ):
        detection = Detection2D(header=header, id=track)
        detection.bbox.center.position.x = center_x
        detection.bbox.center.position.y = center_y
        detection.bbox.size_x = width
        detection.bbox.size_y = height
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = class_id
        result.hypothesis.score = score
        detection.results = [result]
        message.detections.append(detection)
    return message


def detection_3d_array(header: Header, detections: Detections, points: GroundPoints) -> Detection3DArray:
    """Build the message of an image's detections on the ground.

    Each result's pose is the place, with its covariance; the orientation is not known (variance of an even
    spread over the circle). The box is flat and square: as wide as the object spans across the line of sight.

    Args:
        header: the image's stamp, and the fixed frame.
        detections: what was found in the image.
        points: where those that stand on the ground do.
    """
    message = Detection3DArray(header=header)
    covariances = np.zeros((len(points.index), 6, 6))
    covariances[:, :3, :3] = points.covariances
    covariances[:, [3, 4, 5], [3, 4, 5]] = np.pi**2 / 3
    ids, classes = detections.track_texts(), detections.class_texts()
    for row, index in enumerate(points.index.tolist()):
        detection = Detection3D(header=header, id=ids[index])
        result = ObjectHypothesisWithPose()
        result.hypothesis.class_id = classes[index]
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
