"""Real aerial images for the demo, from a folder of the user's (``UAV_DATA``)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from yolo_compress.data.visdrone import VISDRONE_CLASSES, read_annotations
from yolo_compress.demo.flight import Shot, truth_of
from yolo_compress.errors import UserError
from yolo_compress.evaluation import GroundTruth, read_image

CHECKPOINT = Path("weights", "yolov5su_visdrone10.pt")
# The other set's class names, in VisDrone's words.
TRANSLATED = {"car": "car", "truck": "truck", "bus": "bus", "minibus": "van", "cyclist": "bicycle"}


def checkpoint(root: Path) -> Path:
    """Return the VisDrone detector's checkpoint.

    Raises:
        UserError: it is not there.
    """
    path = root / CHECKPOINT
    if not path.is_file():
        raise UserError(f"UAV_DATA is {root}, but there is no {CHECKPOINT} in it")
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


def shots(root: Path) -> Iterator[Shot]:
    """Read images and labels, one by one."""
    names = (root / "aerial_cars" / "aerial.names").read_text().split()
    for path in image_paths(root):
        image = read_image(path)
        annotations = path.parents[1] / "annotations" / f"{path.stem}.txt"
        if annotations.is_file():
            truth = truth_of(read_annotations(annotations))
        else:
            truth = _yolo_truth(path.parents[1] / "labels" / f"{path.stem}.txt", names, *image.shape[:2])
        yield Shot(image, truth, ("",) * len(truth.boxes))


def _yolo_truth(labels: Path, names: list[str], height: int, width: int) -> GroundTruth:
    boxes, classes = [], []
    for line in labels.read_text().splitlines() if labels.is_file() else []:
        class_id, x, y, w, h = line.split()
        boxes.append(
            (
                (float(x) - float(w) / 2) * width,
                (float(y) - float(h) / 2) * height,
                float(w) * width,
                float(h) * height,
            )
        )
        classes.append(VISDRONE_CLASSES.index(TRANSLATED[names[int(class_id)]]))
    return GroundTruth(
        np.array(boxes, np.float64).reshape(-1, 4), np.array(classes, np.int64), np.empty((0, 4))
    )
