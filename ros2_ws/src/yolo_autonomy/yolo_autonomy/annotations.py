"""Detections as lines and texts over an image, for ground stations; no ROS."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

from yolo_autonomy.parameters import Table
from yolo_autonomy.target import Candidate

PARAMETERS: Table = {
    "min_score": (0.0, "Least score of what is drawn, 0 to 1."),
    "texts": (True, "Write class, score and track beside each box; the larger part of a message's bytes."),
    "thickness": (2.0, "Of the lines, pixels, 0.5 to 50."),
    "font_size": (14.0, "Of the texts, pixels, 4 to 200."),
    "max_rate_hz": (0.0, "Most messages a second, 0 to 1000; 0: one for each image."),
}
TOPICS = ("detections", "label_info", "target", "annotations")

Color = tuple[float, float, float]
TARGET_COLOR: Color = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Outline:
    """All boxes of one color.

    Attributes:
        color: red, green, blue, 0 to 1.
        corners: of each box's four sides begin and end, (x, y) in pixels: eight a box.
    """

    color: Color
    corners: list[tuple[float, float]]


def annotation_color(class_id: str) -> Color:
    """Return a bright color that is always the same for a class, and unlike its neighbours'."""
    number = int(class_id) if class_id.isdecimal() else sum(class_id.encode())
    # Steps by the golden ratio are never near a hue that was.
    return colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.85, 1.0)


def outlines(items: Sequence[Candidate], target: Candidate | None = None) -> list[Outline]:
    """Return the boxes' sides, by color: a class's boxes share one entry, which saves a radio link's bytes.

    Args:
        items: in the image.
        target: of those, drawn in white.
    """
    found: dict[Color, list[tuple[float, float]]] = {}
    for item in items:
        x, y, width, height = item.box
        # Foxglove's origin is the upper left pixel's corner, as that of vision_msgs' boxes.
        left, right, top, bottom = x - width / 2, x + width / 2, y - height / 2, y + height / 2
        color = TARGET_COLOR if item == target else annotation_color(item.class_id)
        found.setdefault(color, []).extend(
            [
                (left, top), (right, top), (right, top), (right, bottom),
                (right, bottom), (left, bottom), (left, bottom), (left, top),
            ]
        )  # fmt: skip
    return [Outline(color, corners) for color, corners in found.items()]


def label(item: Candidate, names: dict[str, str]) -> str:
    """Return what is written beside a box."""
    track = f" #{item.track_id}" if item.track_id else ""
    return f"{names.get(item.class_id, item.class_id)} {item.score:.2f}{track}"
