"""Detections as the bytes of ``vision_msgs/Detection2DArray`` (CDR), for the node and for bags; no ROS."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections

# In a serialized Detection2D: score, position (3), orientation (4), covariance (36), center x, y and angle,
# width, height.
_NUMBERS = 49
_ORIENTATION_W = 7
_CENTER = slice(44, 46)
_SIZE = slice(47, 49)
# Little endian; the origin of alignment is behind it.
_ENCAPSULATION = b"\x00\x01\x00\x00"


def serialized_detections(header: Any, detections: Detections) -> bytes:
    """Serialize what was found in an image.

    Args:
        header: the image's, of whatever library: ``stamp.sec``, ``stamp.nanosec`` and ``frame_id`` are read.
        detections: boxes in pixels of that image.
    """
    return detection_array(
        header,
        detections.centers(),
        detections.sizes(),
        detections.scores,
        detections.class_texts(),
        detections.track_texts(),
    )


def detection_array(
    header: Any,
    centers: NDArray[np.floating],
    sizes: NDArray[np.floating],
    scores: NDArray[np.floating],
    class_ids: Sequence[str],
    track_ids: Sequence[str],
) -> bytes:
    """Serialize a ``vision_msgs/Detection2DArray``; its header is also that of each detection.

    rclpy makes and reads a dozen Python objects a box; hundreds of boxes would cost as much as the network.
    Here the numbers of all boxes are laid out at once, and only texts are put between them.

    Args:
        header: as in `serialized_detections`.
        centers: N x 2 in pixels.
        sizes: N x 2, width and height in pixels.
        scores: N.
        class_ids: N texts.
        track_ids: N texts, empty where a box belongs to no track.
    """
    count = len(scores)
    numbers = np.zeros((count, _NUMBERS), "<f8")
    numbers[:, 0] = scores
    numbers[:, _ORIENTATION_W] = 1.0
    numbers[:, _CENTER] = centers
    numbers[:, _SIZE] = sizes
    content = numbers.tobytes()
    size = _NUMBERS * numbers.itemsize

    head = struct.pack("<iI", header.stamp.sec, header.stamp.nanosec) + _text(header.frame_id)
    parts = [head := _padded(head, 0, 4), struct.pack("<I", count)]
    at = len(head) + 4
    before: dict[tuple[str, int], bytes] = {}
    for index, (class_id, track_id) in enumerate(zip(class_ids, track_ids, strict=True)):
        # What stands before the numbers depends on the class, and on where it begins.
        key = class_id, at % 8
        if key not in before:
            one = head + struct.pack("<I", 1) + _text(class_id)
            before[key] = _padded(one, at, 8)
        after = _text(track_id)
        if index < count - 1:
            after = _padded(after, 0, 4)
        parts += before[key], content[index * size : (index + 1) * size], after
        at += len(before[key]) + size + len(after)
    return _ENCAPSULATION + b"".join(parts)


def _text(text: str) -> bytes:
    """Serialize a string: its length in bytes with the end mark, itself, the end mark."""
    content = text.encode() + b"\x00"
    return struct.pack("<I", len(content)) + content


def _padded(content: bytes, start: int, to: int) -> bytes:
    """Fill up with zeros until what follows is aligned, where the content begins at ``start``."""
    return content + bytes(-(start + len(content)) % to)
