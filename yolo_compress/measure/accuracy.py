"""Accuracy of a model, measured through the detector that flies.

What counts follows the official VisDrone toolkit (https://github.com/VisDrone/VisDrone2018-DET-toolkit), the
figures are COCO's, computed by pycocotools. They differ from Ultralytics' own validation: that one knows no
ignored regions, lets an anchor answer with several classes, and integrates the curve in another way.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from yolo_compress.data.labelled import GroundTruth, read_image, read_split
from yolo_compress.measure.classes import ClassMap, match_classes
from yolo_compress.measure.detector import MAX_DETECTIONS, load_detector
from yolo_compress.measure.matches import RECALLS, Matches

__all__ = [
    "RECALLS",
    "Accuracy",
    "ClassAccuracy",
    "Found",
    "Measured",
    "evaluate_images",
    "evaluate_model",
    "score",
    "score_images",
]

# The toolkit's too: what lies in ignored regions to at least this share of its area is left out.
IGNORED_SHARE = 0.5


@dataclass(frozen=True)
class Found:
    """What a detector found in one image: boxes as in `GroundTruth`, scores N, class_ids N."""

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]


@dataclass(frozen=True)
class ClassAccuracy:
    """Average precision of one class, 0 to 1; None where the data has no object of it.

    Attributes:
        name: of the class.
        objects: how many of its objects count.
        ap: mean over IoU 0.50 to 0.95.
        ap50: at IoU 0.50.
        precision: at IoU 0.50, the precision at each recall of `RECALLS`; its mean is ``ap50``. Empty where
            the data has no object.
    """

    name: str
    objects: int
    ap: float | None
    ap50: float | None
    precision: tuple[float, ...]


@dataclass(frozen=True)
class Accuracy:
    """COCO's average precision, 0 to 1; None where the data has no object of that size.

    Attributes:
        ap: mean over IoU 0.50 to 0.95.
        ap50: at IoU 0.50.
        ap75: at IoU 0.75.
        ap_small: of objects below 32 x 32 pixels of the original image.
        ap_medium: of objects from there to 96 x 96.
        ap_large: of larger ones.
        images: number of images measured on.
        per_class: one entry a class, in the order of the names.
    """

    ap: float | None
    ap50: float | None
    ap75: float | None
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    images: int
    per_class: tuple[ClassAccuracy, ...]

    def summary(self) -> dict[str, float | int | None]:
        """Return the figures of all classes together: everything but ``per_class``."""
        return {name: value for name, value in asdict(self).items() if name != "per_class"}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Accuracy:
        """Return what `dataclasses.asdict` made of an accuracy, also after a detour over JSON."""
        classes = tuple(
            ClassAccuracy(**{**entry, "precision": tuple(entry["precision"])})
            for entry in record["per_class"]
        )
        return cls(**{**record, "per_class": classes})


@dataclass(frozen=True)
class Measured:
    """How accurate a model is, and what it got right in each image."""

    accuracy: Accuracy
    matches: Matches


def score(
    truths: Sequence[GroundTruth],
    found: Sequence[Found],
    names: Sequence[str],
    max_detections: int = MAX_DETECTIONS,
) -> Accuracy:
    """Return the accuracy alone of what `score_images` finds."""
    return score_images(truths, found, names, max_detections).accuracy


def score_images(
    truths: Sequence[GroundTruth],
    found: Sequence[Found],
    names: Sequence[str],
    max_detections: int = MAX_DETECTIONS,
) -> Measured:
    """Compute COCO's average precision under the official VisDrone toolkit's rules.

    Objects and detections of which half or more lies in the union of the ignored regions are left out. Of the
    detections left in an image, the ``max_detections`` that score best count, whatever their class. An object
    that does not count is a crowd box of its class (pycocotools' rule, and the toolkit's).

    Args:
        truths: one for each image.
        found: what was found, in the same order.
        names: of the classes, by class id.
        max_detections: at most so many detections an image count.
    """
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    objects = np.zeros(len(names), np.int64)
    for image_id, (truth, result) in enumerate(zip(truths, found, strict=True), start=1):
        counted = np.ones(len(truth.boxes), bool) if truth.counted is None else truth.counted
        for index in np.flatnonzero(~_ignored(truth.boxes, truth.ignored)):
            box, class_id = truth.boxes[index], int(truth.class_ids[index])
            # pycocotools takes the id 0 for "not matched"
            entry = _entry(len(annotations) + 1, image_id, class_id, box)
            annotations.append({**entry, "iscrowd": int(not counted[index])})
            objects[class_id] += counted[index]
        left = np.flatnonzero(~_ignored(result.boxes, truth.ignored))
        best = left[np.argsort(-result.scores[left], kind="stable")][:max_detections]
        for index in best:
            entry = _entry(len(detections) + 1, image_id, int(result.class_ids[index]), result.boxes[index])
            detections.append({**entry, "iscrowd": 0, "score": float(result.scores[index])})
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(
            _coco(annotations, len(truths), len(names)), _coco(detections, len(truths), len(names)), "bbox"
        )
        evaluation.params.maxDets = [max_detections]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][..., 0]  # IoU x recall x class x area
    thresholds = evaluation.params.iouThrs
    half, three_quarters = (int(np.argmin(np.abs(thresholds - iou))) for iou in (0.5, 0.75))
    by_area = [_mean(precision[:, :, :, area]) for area in range(4)]
    accuracy = Accuracy(
        ap=by_area[0],
        ap50=_mean(precision[half, :, :, 0]),
        ap75=_mean(precision[three_quarters, :, :, 0]),
        ap_small=by_area[1],
        ap_medium=by_area[2],
        ap_large=by_area[3],
        images=len(truths),
        per_class=tuple(
            ClassAccuracy(
                name=str(name),
                objects=int(objects[index]),
                ap=_mean(precision[:, :, index, 0]),
                ap50=_mean(precision[half, :, index, 0]),
                precision=tuple(float(p) for p in precision[half, :, index, 0] if p > -1),
            )
            for index, name in enumerate(names)
        ),
    )
    return Measured(accuracy, Matches.of(evaluation, len(names)))


def _entry(number: int, image_id: int, class_id: int, box: NDArray[np.float64]) -> dict[str, Any]:
    area = float(box[2] * box[3])
    return {"id": number, "image_id": image_id, "category_id": class_id, "bbox": box.tolist(), "area": area}


def _ignored(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which boxes lie in the union of regions with at least `IGNORED_SHARE` of their area.

    All N x 4 or M x 4 left, top, width, height; counted in whole pixels by an integral image, as the toolkit
    does.
    """
    regions = np.maximum(np.rint(regions), 0).astype(np.int64)
    if not len(regions):
        return np.zeros(len(boxes), bool)
    right, bottom = (regions[:, :2] + regions[:, 2:]).max(axis=0)
    mask = np.zeros((bottom, right), np.uint8)
    for left, top, width, height in regions:
        mask[top : top + height, left : left + width] = 1
    integral = cv2.integral(mask)
    low = np.rint(boxes[:, :2]).astype(np.int64)
    size = np.maximum(np.rint(boxes[:, 2:]).astype(np.int64), 1)
    x0, y0 = low.clip(0, (right, bottom)).T
    x1, y1 = (low + size).clip(0, (right, bottom)).T
    inside = integral[y1, x1] - integral[y0, x1] - integral[y1, x0] + integral[y0, x0]
    return inside >= IGNORED_SHARE * size.prod(axis=1)


def _coco(annotations: list[dict[str, Any]], images: int, classes: int) -> COCO:
    data = COCO()
    data.dataset = {
        "images": [{"id": image_id} for image_id in range(1, images + 1)],
        "categories": [{"id": class_id} for class_id in range(classes)],
        "annotations": annotations,
    }
    data.createIndex()
    return data


def _mean(precision: NDArray[np.float64]) -> float | None:
    """Average what is defined; pycocotools marks classes without an object by -1."""
    defined = precision[precision > -1]
    return float(defined.mean()) if defined.size else None


def evaluate_model(
    model: Path,
    data: Path,
    split: str = "val",
    *,
    iou_threshold: float | None = None,
    classes: str | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Return the accuracy alone of what `evaluate_images` finds."""
    return evaluate_images(
        model, data, split, iou_threshold=iou_threshold, classes=classes, threads=threads, progress=progress
    ).accuracy


def evaluate_images(
    model: Path,
    data: Path,
    split: str = "val",
    *,
    iou_threshold: float | None = None,
    classes: str | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Measure the accuracy of an exported model through `yolo_trt_node.detector`.

    Args:
        model: an ONNX detector or a TensorRT engine. `yolo_compress.export.evaluate` takes checkpoints too.
        data: an Ultralytics data set description.
        split: the split to measure on.
        iou_threshold: of the suppression; None for the model card's. A model with an end2end head suppresses
            by itself.
        classes: which class of the model is which of the data's, where they differ (`match_classes`).
        threads: CPU threads; 0 for one a core.
        progress: called with (images done, images in all).

    Raises:
        UserError: the model or the data cannot be used, or their classes differ.
    """
    chosen = read_split(data, split)
    chosen.require_labels(split)
    detector = load_detector(model, iou_threshold, threads)
    matched = match_classes(
        model, detector.card.names, data, chosen.names, named=chosen.description.named, mapping=classes
    )
    truths, found = [], []
    for done, sample in enumerate(chosen.samples, start=1):
        image = read_image(sample.image)
        truths.append(_of_classes(sample.truth(), matched))
        result = detector.detect([image])[0]
        boxes = result.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        ids = matched.of_model[result.class_ids]
        found.append(Found(boxes[ids >= 0], result.scores[ids >= 0].astype(np.float64), ids[ids >= 0]))
        if progress is not None:
            progress(done, len(chosen.samples))
    return score_images(truths, found, matched.names)


def _of_classes(truth: GroundTruth, matched: ClassMap) -> GroundTruth:
    """Return the objects of the classes that are measured."""
    ids = matched.of_data[truth.class_ids]
    counted = None if truth.counted is None else truth.counted[ids >= 0]
    return GroundTruth(truth.boxes[ids >= 0], ids[ids >= 0], truth.ignored, counted)
