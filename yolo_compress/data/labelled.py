"""The one reader of labelled images, for training, evaluation, export, report and doctor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from aerial_scenes import visdrone
from yolo_compress.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found in one image.

    Attributes:
        boxes: N x 4 float64, left, top, width, height in pixels of the image.
        class_ids: N int, positions in the data set's names.
        ignored: M x 4 float64, regions (left, top, width, height) in which nothing counts.
        counted: N bool; False where finding an object is neither right nor wrong (VisDrone's score 0). None
            where all count.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    ignored: NDArray[np.float64]
    counted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Split:
    """The images of one split of a data set and its class names."""

    images: tuple[Path, ...]
    names: tuple[str, ...]


def read_split(data: Path, split: str) -> Split:
    """List the images of a split of an Ultralytics data set description.

    Raises:
        UserError: the description cannot be read, has no such split, or the split has no images.
    """
    try:
        content = yaml.safe_load(data.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the data set description {data}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise UserError(f"the data set description {data} is no valid YAML: {error}") from error
    if not isinstance(content, dict) or not content.get(split) or not content.get("names"):
        raise UserError(f"{data} has no split {split!r} or no names; it needs `{split}:` and `names:`")
    root = data.parent / str(content.get("path") or ".")
    entries = content[split] if isinstance(content[split], list) else [content[split]]
    images: list[Path] = []
    for entry in entries:
        place = root / entry
        if place.is_dir():
            images += sorted(p for p in place.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES)
        elif place.is_file():
            lines = place.read_text(encoding="utf-8-sig").splitlines()
            images += [place.parent / line if line.startswith(".") else root / line for line in lines if line]
        else:
            raise UserError(
                f"{data}: the split {split!r} points at {place}, which does not exist; `path:` in the "
                "description is taken relative to the description's own folder"
            )
    if not images:
        raise UserError(f"{data}: the split {split!r} has no images")
    names = content["names"]
    ordered = [names[i] for i in sorted(names)] if isinstance(names, dict) else names
    return Split(tuple(images), tuple(str(name) for name in ordered))


def beside(image: Path, folder: str) -> Path:
    """Return an image's text file in ``folder``, which takes the place of the last ``images`` in its path."""
    parts = list(image.with_suffix(".txt").parts)
    for index in range(len(parts) - 2, -1, -1):
        if parts[index] == "images":
            parts[index] = folder
            break
    return Path(*parts)


def read_ground_truth(image: Path, names: Sequence[str], width: int, height: int) -> GroundTruth:
    """Read what is to be found in an image.

    VisDrone's own annotations in a folder ``annotations`` beside ``images`` are preferred, since they tell
    what to ignore (`truth_of`). Otherwise YOLO labels.

    Args:
        image: path of the image.
        names: the data set's class names.
        width: of the image in pixels.
        height: of the image in pixels.

    Raises:
        UserError: annotations and class names do not belong together, or a label is damaged.
    """
    annotated = beside(image, "annotations")
    if annotated.is_file():
        return _visdrone_truth(annotated, names)
    labels = beside(image, "labels")
    if not labels.is_file():  # Ultralytics' rule too: no label file, no objects
        return GroundTruth(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros((0, 4)))
    try:
        rows = np.array(
            [[float(v) for v in line.split()] for line in labels.read_text().splitlines() if line.strip()]
        )
        rows = rows.reshape(-1, 5)
    except ValueError as error:
        raise UserError(f"{labels}: a line is not `class x y width height` ({error})") from error
    size = rows[:, 3:5] * (width, height)
    corner = rows[:, 1:3] * (width, height) - size / 2
    return GroundTruth(np.hstack([corner, size]), rows[:, 0].astype(np.int64), np.zeros((0, 4)))


def _visdrone_truth(path: Path, names: Sequence[str]) -> GroundTruth:
    if len(names) != len(visdrone.VISDRONE_CLASSES):
        raise UserError(
            f"{path} annotates VisDrone's {len(visdrone.VISDRONE_CLASSES)} classes, but the data set names "
            f"{len(names)}; name VisDrone's classes, or rename the folder annotations to use the YOLO labels"
        )
    try:
        annotations = visdrone.read_annotations(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    return truth_of(annotations)


def truth_of(annotations: Sequence[visdrone.Annotation]) -> GroundTruth:
    """Sort VisDrone annotations into objects to be found and regions in which nothing counts.

    The official toolkit's rules: the category "others" is no class and no ignored region either, so it is not
    there at all, and who calls such a vehicle a car is wrong; an object of a class with score 0 may be found
    or not.
    """
    boxes = np.array([(a.left, a.top, a.width, a.height) for a in annotations], np.float64).reshape(-1, 4)
    categories = np.array([a.category for a in annotations], np.int64)
    counted = np.array([a.evaluated for a in annotations], bool)
    objects = (categories != visdrone.IGNORED_REGION) & (categories != visdrone.OTHERS)
    # VisDrone's categories count from 1.
    return GroundTruth(
        boxes[objects],
        categories[objects] - 1,
        boxes[categories == visdrone.IGNORED_REGION],
        counted[objects],
    )


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read an image as H x W x 3 BGR.

    Raises:
        UserError: there is no such file, or it is damaged.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f"cannot read the image {path}: it is missing or damaged")
    return image  # type: ignore[return-value]


def spread(images: Sequence[Path], limit: int) -> list[Path]:
    """Return at most ``limit`` images, evenly spaced over all: the same ones each time."""
    count = min(limit, len(images))
    return [images[(2 * index + 1) * len(images) // (2 * count)] for index in range(count)]
