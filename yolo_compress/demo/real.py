"""Real aerial images for the demo, from a folder of the user's (``UAV_DATA``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress.data.labelled import beside, read_ground_truth, read_image
from yolo_compress.demo.flight import DemoFrame
from yolo_compress.errors import UserError

VISDRONE_CHECKPOINT = Path("weights", "yolov5su_visdrone10.pt")
# The other set's class names, in VisDrone's words.
TRANSLATED = {"car": "car", "truck": "truck", "bus": "bus", "minibus": "van", "cyclist": "bicycle"}


def checkpoint(root: Path) -> Path:
    """Return the VisDrone detector's checkpoint.

    Raises:
        UserError: it is not there.
    """
    path = root / VISDRONE_CHECKPOINT
    if not path.is_file():
        raise UserError(f"UAV_DATA is {root}, but there is no {VISDRONE_CHECKPOINT} in it")
    return path


def image_paths(root: Path) -> list[Path]:
    """List the VisDrone and aerial_cars images.

    Raises:
        UserError: there are none.
    """
    found = sorted((root / "visdrone").glob("*/images/*.jpg"))
    found += [p for p in sorted((root / "aerial_cars" / "images").iterdir()) if p.suffix in (".jpg", ".png")]
    if not found:
        raise UserError(f"UAV_DATA is {root}, but visdrone/*/images and aerial_cars/images hold no images")
    return found


def shots(root: Path) -> Iterator[DemoFrame]:
    """Read images and labels, one by one."""
    names = (root / "aerial_cars" / "aerial.names").read_text().split()
    classes = np.array([VISDRONE_CLASSES.index(TRANSLATED[name]) for name in names], np.int64)
    for path in image_paths(root):
        image = read_image(path)
        height, width = image.shape[:2]
        if beside(path, "annotations").is_file():
            truth = read_ground_truth(path, VISDRONE_CLASSES, width, height)
        else:
            truth = read_ground_truth(path, names, width, height)
            truth = replace(truth, class_ids=classes[truth.class_ids])
        yield DemoFrame(image, truth, ("",) * len(truth.boxes))
