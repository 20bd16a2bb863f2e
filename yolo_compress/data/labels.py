"""The labels of one image: which rows count, and what makes Ultralytics' trainer drop the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aerial_scenes import visdrone
from yolo_compress.errors import UserError

# What Ultralytics lets a coordinate exceed the image by.
LABEL_TOLERANCE = 0.01


class LabelError(Exception):
    """Why an image is dropped.

    Attributes:
        reason: the same text for all images with this fault.
        detail: file, line and value.
    """

    def __init__(self, reason: str, where: str, found: str = "") -> None:
        found = f" ({found})" if found else ""
        super().__init__(f"{where}: {reason}{found}")
        self.reason = reason
        self.detail = where + found


@dataclass(frozen=True)
class Labels:
    """The objects of an image.

    Attributes:
        rows: N x 5 float32: class, centre x and y, width, height; relative to the image's size.
        duplicates: rows that stood there twice and were left out.
        polygons: whether the rows were polygons, of which these are the boxes.
    """

    rows: NDArray[np.float32]
    duplicates: int = 0
    polygons: bool = False


NO_LABELS = Labels(np.zeros((0, 5), np.float32))


def read_labels(path: Path, classes: int, keypoints: tuple[int, int] = (0, 0)) -> Labels:
    """Read a label file by the rules of Ultralytics' trainer.

    A row is a class and a box, or a class and a polygon of any length; one file has one kind of them.

    Args:
        path: the text file.
        classes: number of the data set's classes.
        keypoints: of a pose data set (points, values a point): they are left away.

    Raises:
        LabelError: the trainer would drop the image.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError("the label file cannot be read as UTF-8 text", str(path), str(error)) from error
    numbered = [(number, line.split()) for number, line in enumerate(text.strip().splitlines(), 1)]
    lines = [(number, parts) for number, parts in numbered if parts]
    if not lines:
        return NO_LABELS
    points = keypoints[0] * keypoints[1]
    if points:
        lines = [(n, parts[:5] if len(parts) == 5 + points else parts) for n, parts in lines]
    polygons = any(len(parts) > 6 for _, parts in lines)
    values = [_numbers(path, number, parts) for number, parts in lines]
    outlines: list[NDArray[np.float32]] = []
    for (number, parts), row in zip(lines, values, strict=True):
        where = f"{path}, line {number}"
        if polygons:
            if len(parts) == 5:
                raise LabelError("boxes and polygons in one label file", where)
            if len(parts) % 2 == 0 or len(parts) < 3:
                raise LabelError("a polygon is `class x1 y1 x2 y2 ...`", where, f"{len(parts)} values")
            outlines.append(row[1:].reshape(-1, 2))
        elif len(parts) != 5:
            raise LabelError("a line is not `class x y width height`", where, f"{len(parts)} values")
    rows = np.stack([_box(row) for row in values] if polygons else values)
    _check(path, lines, rows, classes)
    keys = [
        row.tobytes() if not polygons else row[:1].tobytes() + outline.tobytes()
        for row, outline in zip(rows, outlines or rows, strict=True)
    ]
    kept = list(dict(zip(reversed(keys), reversed(range(len(keys))), strict=True)).values())[::-1]
    return Labels(rows[sorted(kept)], len(rows) - len(kept), polygons)


def _numbers(path: Path, number: int, parts: Sequence[str]) -> NDArray[np.float32]:
    try:
        return np.array(parts, dtype=np.float32)
    except ValueError as error:
        raise LabelError(
            "a value is no number; a line is `class x y width height` with the class as number",
            f"{path}, line {number}",
            " ".join(parts)[:60],
        ) from error


def _box(row: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the box around a polygon, computed in fp32 as Ultralytics does."""
    points = row[1:].reshape(-1, 2)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([row[:1], (low + high) / 2, high - low]).astype(np.float32)


def _check(
    path: Path, lines: Sequence[tuple[int, Sequence[str]]], rows: NDArray[np.float32], classes: int
) -> None:
    """Apply the trainer's checks.

    Raises:
        LabelError: a row fails one.
    """

    def fail(wrong: Any, reason: str) -> None:
        if wrong.any():
            number, parts = lines[int(np.argmax(wrong))]
            raise LabelError(reason, f"{path}, line {number}", " ".join(parts)[:60])

    ids, boxes = rows[:, 0], rows[:, 1:]
    fail(
        ~(boxes <= 1 + LABEL_TOLERANCE).all(axis=1),
        "coordinates above 1 or not a number; they are shares of the image's width and height",
    )
    low = rows.min(axis=1)
    fail(~((low >= 0) | ((low >= -LABEL_TOLERANCE) & (boxes[:, 2:].min(axis=1) >= 0))), "negative values")
    fail(ids % 1 != 0, "a class that is no whole number")
    fail(ids >= classes, f"a class beyond the {classes} of the data set (0 to {classes - 1})")


def read_visdrone(path: Path, names: Sequence[str]) -> tuple[visdrone.Annotation, ...] | None:
    """Read the VisDrone annotations of an image.

    Args:
        path: where they would be.
        names: the data set's class names: VisDrone's ten, under whatever names.

    Returns:
        The annotations; None where the file is none of VisDrone's, or is not there.

    Raises:
        UserError: it is one, but the data set does not have VisDrone's classes; or one with a damaged line.
    """
    if not path.is_file():
        return None
    try:
        annotations = visdrone.read_annotations(path)
    except (OSError, ValueError) as error:
        if tuple(names) == visdrone.VISDRONE_CLASSES:
            raise UserError(f"{error}; correct the line, or rename the folder annotations") from error
        return None
    if len(names) != len(visdrone.VISDRONE_CLASSES):
        raise UserError(
            f"{path} annotates VisDrone's {len(visdrone.VISDRONE_CLASSES)} classes, but the data set names "
            f"{len(names)}; name VisDrone's classes, or rename the folder annotations to use the YOLO labels"
        )
    return tuple(annotations)
