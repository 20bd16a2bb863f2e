"""The one reader of labelled images, for training, evaluation, export, report and doctor.

It decides which images count, what is to be found in them, and what is dropped and why, as the pinned
Ultralytics' trainer does (`description`, `labels`, `images`); and it knows VisDrone's own annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aerial_scenes import visdrone
from yolo_compress.data.description import Description, list_images, read_description
from yolo_compress.data.images import check_image, read_image
from yolo_compress.data.labels import NO_LABELS, LabelError, Labels, read_labels, read_visdrone
from yolo_compress.errors import UserError

__all__ = [
    "Dropped",
    "GroundTruth",
    "Sample",
    "Split",
    "beside",
    "read_ground_truth",
    "read_image",
    "read_split",
    "spread",
    "truth_of",
]

# Files read at once: most of the time goes into waiting for the disk.
_THREADS = 4
_EXAMPLES = 3


@dataclass(frozen=True)
class GroundTruth:
    """What is to be found in one image.

    Attributes:
        boxes: N x 4 float64, left, top, width, height in pixels of the image.
        class_ids: N int, positions in the data set's names.
        ignored: M x 4 float64, regions (left, top, width, height) in which nothing counts.
        counted: N bool; False where finding an object is neither right nor wrong (VisDrone's score 0, and
            boxes without extent). None where all count.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    ignored: NDArray[np.float64]
    counted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Sample:
    """An image that is trained and measured on.

    Attributes:
        image: path of the image file.
        height: of the image in pixels, as decoded.
        width: of the image in pixels, as decoded.
        labels: its objects as the trainer sees them.
        label_file: path of the YOLO labels; None where there is no such file.
        annotations: VisDrone's annotations where they lie beside the image; they decide what is measured.
    """

    image: Path
    height: int
    width: int
    labels: Labels
    label_file: Path | None
    annotations: tuple[visdrone.Annotation, ...] | None = None

    @property
    def labelled(self) -> bool:
        """Whether somebody has looked at this image, also where nothing was on it."""
        return self.label_file is not None or self.annotations is not None

    def truth(self) -> GroundTruth:
        """Return what is to be found, in pixels."""
        return _truth(self.labels, self.annotations, self.width, self.height)


@dataclass(frozen=True)
class Dropped:
    """An image that is neither trained nor measured on.

    Attributes:
        image: its path.
        reason: the same text for all images with this fault.
        detail: the file, and where it helps the line and the value.
    """

    image: Path
    reason: str
    detail: str


@dataclass(frozen=True)
class Split:
    """The images of one split of a data set that count, and those that do not.

    Attributes:
        description: of the data set.
        names: of the classes, in the order of their numbers.
        samples: the images with their objects, in the trainer's order.
        dropped: the others.
        skipped: lines of list files that name no image.
    """

    description: Description
    names: tuple[str, ...]
    samples: tuple[Sample, ...]
    dropped: tuple[Dropped, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def images(self) -> tuple[Path, ...]:
        """The paths of the images that count."""
        return tuple(sample.image for sample in self.samples)

    def reasons(self) -> list[tuple[str, int, list[str]]]:
        """Return why images were dropped: the reason, how many, and a few examples; the commonest first."""
        counts = Counter(entry.reason for entry in self.dropped)
        return [
            (reason, count, [entry.detail for entry in self.dropped if entry.reason == reason][:_EXAMPLES])
            for reason, count in counts.most_common()
        ]

    def require_labels(self, split: str) -> None:
        """Refuse a split in which no image is labelled.

        Args:
            split: its name, for the message.

        Raises:
            UserError: there are no labels at all.
        """
        if any(sample.labelled for sample in self.samples):
            return
        first = self.samples[0].image
        raise UserError(
            f"{self.description.path}: no labels for any of the {len(self.samples)} images of the split "
            f"{split!r}; put them where {beside(first, 'labels')} would be (a folder that is a link is "
            "followed first)"
        )


def read_split(data: Path, split: str, *, limit: int | None = None) -> Split:
    """Read a split of an Ultralytics data set: which images count, and what is in them.

    Args:
        data: the description (YAML), or the folder that holds it.
        split: a key of the description, as ``val``.
        limit: read at most this many images, evenly spaced over all.

    Raises:
        UserError: the description cannot be used, it has no such split, or no image of it counts.
    """
    description = read_description(data)
    listing = list_images(description, split)
    chosen = listing.images if limit is None else spread(listing.images, limit)

    def read(image: Path) -> Sample | Dropped:
        try:
            return _read_sample(image, description)
        except LabelError as error:
            return Dropped(image, error.reason, error.detail)

    with ThreadPoolExecutor(_THREADS) as pool:
        entries = list(pool.map(read, chosen))
    read_in = Split(
        description,
        description.names,
        tuple(entry for entry in entries if isinstance(entry, Sample)),
        tuple(entry for entry in entries if isinstance(entry, Dropped)),
        listing.skipped,
    )
    if not read_in.samples:
        reason, count, examples = read_in.reasons()[0]
        raise UserError(
            f"{description.path}: no image of the split {split!r} can be used; {count} of {len(entries)}: "
            f"{reason} ({examples[0]})"
        )
    return read_in


def _read_sample(image: Path, description: Description) -> Sample:
    """Read one image's size and objects.

    Raises:
        LabelError: the trainer would drop it.
    """
    height, width = check_image(image)
    labels, label_file, annotations = _objects(image, description.names, width, height, description.keypoints)
    return Sample(image, height, width, labels, label_file, annotations)


def _objects(
    image: Path, names: Sequence[str], width: int, height: int, keypoints: tuple[int, int] = (0, 0)
) -> tuple[Labels, Path | None, tuple[visdrone.Annotation, ...] | None]:
    path, annotated = beside(image, "labels"), beside(image, "annotations")
    present = path.is_file()
    annotations = None
    if annotated != path and (not present or len(names) == len(visdrone.VISDRONE_CLASSES)):
        annotations = read_visdrone(annotated, names)
    if present:
        return read_labels(path, len(names), keypoints), path, annotations
    if annotations is None:  # Ultralytics' rule too: no label file, no objects
        return NO_LABELS, None, None
    rows = np.array(visdrone.to_yolo_labels(annotations, width, height), np.float32).reshape(-1, 5)
    return Labels(rows), None, annotations


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
    try:
        labels, _, annotations = _objects(image, names, width, height)
    except LabelError as error:
        raise UserError(str(error)) from error
    return _truth(labels, annotations, width, height)


def _truth(
    labels: Labels, annotations: Sequence[visdrone.Annotation] | None, width: int, height: int
) -> GroundTruth:
    if annotations is not None:
        return truth_of(annotations)
    rows = labels.rows.astype(np.float64)
    size = rows[:, 3:5] * (width, height)
    corner = rows[:, 1:3] * (width, height) - size / 2
    # Nothing can be found of a box without extent, so that missing it is no fault.
    counted = size.min(axis=1, initial=np.inf) > 0
    return GroundTruth(
        np.hstack([corner, size]),
        rows[:, 0].astype(np.int64),
        np.zeros((0, 4)),
        None if counted.all() else counted,
    )


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


def spread(images: Sequence[Path], limit: int) -> list[Path]:
    """Return at most ``limit`` images, evenly spaced over all: the same ones each time."""
    count = min(limit, len(images))
    return [images[(2 * index + 1) * len(images) // (2 * count)] for index in range(count)]
