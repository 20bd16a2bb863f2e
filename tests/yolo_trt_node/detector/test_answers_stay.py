"""What the detector answers on the test images does not change while the code around it is rebuilt."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions

KEPT = Path(__file__).with_name("answers.json")


def field(height, width, count, seed=7):
    """Rectangles of the three colors on gray, some over others; H x W x 3 uint8 BGR."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 114, np.uint8)
    for index in range(count):
        w, h = (int(side) for side in rng.integers(12, 60, 2))
        x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
        color = toy_detector.BGR[toy_detector.NAMES[index % 3]]
        cv2.rectangle(image, (x, y), (x + w, y + h), color, -1)
    return image


# The detector, the image, the options.
CASES = {
    "cells": ("toy", toy_detector.scene(), {}),
    "cells, three": ("toy", toy_detector.scene(cells=((1, 3, "green"), (2, 6, "red"), (3, 1, "blue"))), {}),
    "rectangles": ("rectangles", field(96, 128, 6), {}),
    "rectangles, strict": ("rectangles", field(96, 128, 6), {"score_threshold": 0.9, "max_det": 2}),
    "rectangles, of a class": ("rectangles", field(96, 128, 9), {"classes": ("green",)}),
    "rectangles, in tiles": ("rectangles", field(300, 480, 20), {"tiling": "2x3"}),
}


def answers(folder):
    """Return boxes (x1 y1 x2 y2, pixels), scores and classes of each case, the surest first."""
    models = {
        "toy": toy_detector.write_toy_detector(folder / "toy.onnx"),
        "rectangles": toy_detector.write_rectangle_detector(folder / "rectangles.onnx", side=128),
    }
    found = {}
    for name, (model, image, options) in CASES.items():
        detector = Detector.load(models[model], DetectorOptions(backend="onnxruntime", threads=1, **options))
        (detections,) = detector.detect([image])
        rows = np.column_stack((detections.boxes, detections.scores, detections.class_ids)).astype(float)
        found[name] = rows[np.lexsort(rows.T[::-1])].round(3).tolist()
    return found


@pytest.fixture(scope="module")
def today(tmp_path_factory):
    return answers(tmp_path_factory.mktemp("models"))


@pytest.mark.parametrize("name", CASES)
def test_the_answer_is_what_it_was(name, today):
    kept = json.loads(KEPT.read_text())[name]
    assert len(today[name]) == len(kept) > 0
    np.testing.assert_allclose(today[name], kept, atol=0.02)
