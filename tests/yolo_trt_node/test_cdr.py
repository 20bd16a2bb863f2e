"""The bytes of a Detection2DArray, whoever writes it."""

import hashlib
from types import SimpleNamespace

import numpy as np
from yolo_trt_node.boxes import Detections

from yolo_trt_node import cdr


def header(seconds, nanoseconds, frame_id):
    return SimpleNamespace(stamp=SimpleNamespace(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)


def found(count, rng):
    corners = np.sort(rng.integers(0, 4000 * 8, (count, 2, 2)), axis=1).reshape(count, 4) / 8
    return Detections(
        corners.astype(np.float32),
        (rng.integers(0, 1024, count) / 1024).astype(np.float32),
        rng.integers(0, 1200, count).astype(np.int32),
        track_ids=rng.integers(-1, 1000, count),
    )


def test_the_bytes_are_the_same_as_ever():
    rng = np.random.default_rng(5)
    digest = hashlib.sha256()
    for count in (0, 1, 2, 3, 40):
        for frame_id in ("", "camera", "ünïcode"):
            digest.update(cdr.serialized_detections(header(-3, 5, frame_id), found(count, rng)))
    # That of the messages as the library `rosbags` serializes them.
    assert digest.hexdigest() == "09fb4c176a25f9e225fdb1ea70ba3e0ed5ae87fa0e2522035d54b372fe9b67b3"


def test_texts_stand_for_classes_that_are_no_numbers():
    sizes = np.array([[2.0, 4.0]])
    data = cdr.detection_array(header(1, 2, "f"), sizes, sizes, np.ones(1), ["ignored"], [""])
    assert b"\x08\x00\x00\x00ignored\x00" in data
