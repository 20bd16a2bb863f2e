"""From detections to ``vision_msgs``."""

from __future__ import annotations

import array

import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from vision_msgs.msg import (
    Detection2D,
    Detection2DArray,
    LabelInfo,
    ObjectHypothesisWithPose,
    VisionClass,
    VisionInfo,
)

from yolo_trt_node.detector import Detections, ModelCard


def detection_array(header: Header, detections: Detections) -> Detection2DArray:
    """Build the message for one image.

    Args:
        header: the source image's header; it is copied to the array and to each detection, so that planners
            can match stamps and frames.
        detections: boxes in pixels of that image.
    """
    boxes = detections.boxes.astype(np.float64)
    centres = ((boxes[:, :2] + boxes[:, 2:]) / 2).tolist()
    sizes = (boxes[:, 2:] - boxes[:, :2]).tolist()
    message = Detection2DArray(header=header)
    for (centre_x, centre_y), (width, height), score, class_id in zip(
        centres, sizes, detections.scores.tolist(), detections.class_ids.tolist(), strict=True
    ):
        detection = Detection2D(header=header)
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
