"""Boxes drawn into pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections


def class_color(class_id: int) -> tuple[int, int, int]:
    """Return a class's colour in BGR; hues a golden angle apart keep neighbouring ids distinct."""
    red, green, blue = colorsys.hsv_to_rgb(class_id * 0.381966 % 1.0, 0.85, 1.0)
    return int(blue * 255), int(green * 255), int(red * 255)


def draw_detections(
    image: NDArray[np.uint8], detections: Detections, names: Sequence[str], *, labels: bool = True
) -> NDArray[np.uint8]:
    """Return a copy of an H x W x 3 uint8 BGR image with boxes, and class names and scores above them."""
    canvas = np.array(image, np.uint8, order="C")
    thickness = max(1, round(max(canvas.shape[:2]) / 640))
    size = max(0.35, max(canvas.shape[:2]) / 2600)
    for box, score, class_id in zip(detections.boxes, detections.scores, detections.class_ids, strict=True):
        left, top, right, bottom = (round(float(value)) for value in box)
        color = class_color(int(class_id))
        cv2.rectangle(canvas, (left, top), (right, bottom), color, thickness, cv2.LINE_AA)
        if labels:
            name = names[class_id] if class_id < len(names) else str(class_id)
            text = f"{name} {score:.2f}"
            place = (left, max(top - 2 * thickness, round(24 * size)))
            cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, (0, 0, 0), 3 * thickness)
            cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
    return canvas
