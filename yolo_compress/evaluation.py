"""Accuracy and latency of a model, measured through the detector that flies.

What counts follows the official VisDrone toolkit (https://github.com/VisDrone/VisDrone2018-DET-toolkit), the
figures are COCO's, computed by pycocotools. They differ from Ultralytics' own validation: that one knows no
ignored regions, lets an anchor answer with several classes, and integrates the curve in another way.

Nothing here imports torch before a checkpoint is measured: the latency workers start in a fraction of a
second and hold one engine each.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError

from aerial_scenes import visdrone
from yolo_compress.errors import UserError

# The official VisDrone toolkit's: a frame of a crowd has hundreds of objects.
MAX_DETECTIONS = 500
# The toolkit's too: what lies in ignored regions to at least this share of its area is left out.
IGNORED_SHARE = 0.5
# Low enough that the precision-recall curve ends by itself and not at the cut.
SCORE_FLOOR = 0.001
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


RECALLS: tuple[float, ...] = tuple(float(value) for value in np.linspace(0, 1, 101))
"""The recalls of a precision-recall curve: COCO's 101 points."""


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


def score(
    truths: Sequence[GroundTruth],
    found: Sequence[Found],
    names: Sequence[str],
    max_detections: int = MAX_DETECTIONS,
) -> Accuracy:
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
    return Accuracy(
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
    input_size: int | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Measure a model's accuracy through `yolo_trt_node.detector`, whatever kind of file it is.

    A checkpoint is exported (fp32, raw head) into a temporary folder and measured as that ONNX: all figures
    come from the same letterbox, decoding and suppression.

    Args:
        model: an ONNX detector, a TensorRT engine, or an Ultralytics checkpoint (``.pt``).
        data: an Ultralytics data set description.
        split: the split to measure on.
        iou_threshold: of the suppression; None for the model card's. A model with an end2end head suppresses
            by itself.
        input_size: side in pixels of the square input of a checkpoint; None for the one that it was trained
            with. Other models know theirs.
        threads: CPU threads; 0 for one a core.
        progress: called with (images done, images in all).

    Raises:
        UserError: the model or the data cannot be used, or their classes differ.
    """
    if model.suffix != ".pt":
        if input_size is not None:
            raise UserError(f"{model} has its own input size; an input size is only for checkpoints (.pt)")
        return _evaluate(model, data, split, iou_threshold, threads, progress)
    # Torch is needed for checkpoints only, see the module's docstring.
    from yolo_compress.export.export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{model.stem}.onnx"
        export_onnx(model, exported, input_size)
        return _evaluate(exported, data, split, iou_threshold, threads, progress)


def _evaluate(
    model: Path,
    data: Path,
    split: str,
    iou_threshold: float | None,
    threads: int,
    progress: Callable[[int, int], None] | None,
) -> Accuracy:
    chosen = read_split(data, split)
    images, names = chosen.images, chosen.names
    detector = _load(model, iou_threshold, threads)
    require_same_classes(model, detector.card.names, data, names)
    truths, found = [], []
    for done, path in enumerate(images, start=1):
        image = read_image(path)
        truths.append(read_ground_truth(path, names, image.shape[1], image.shape[0]))
        result = detector.detect([image])[0]
        boxes = result.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        found.append(Found(boxes, result.scores.astype(np.float64), result.class_ids.astype(np.int64)))
        if progress is not None:
            progress(done, len(images))
    return score(truths, found, names)


def require_same_classes(model: Path, known: Sequence[str], data: Path, names: Sequence[str]) -> None:
    """Refuse to measure a model on data of other classes; only their number can be compared.

    Raises:
        UserError: the model knows more or fewer classes than the data has.
    """

    def few(classes: Sequence[str]) -> str:
        return ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")

    if len(known) != len(names):
        raise UserError(
            f"{model} knows {len(known)} classes ({few(known)}), but {data} has {len(names)} ({few(names)}); "
            "measure it on data with its own classes"
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


def _load(model: Path, iou_threshold: float | None, threads: int, backend: str = "auto") -> Detector:
    options = DetectorOptions(
        score_threshold=SCORE_FLOOR,
        iou_threshold=iou_threshold,
        max_det=MAX_DETECTIONS,
        threads=threads,
        backend=backend,
    )
    try:
        return Detector.load(model, options)
    except ModelError as error:
        raise UserError(str(error)) from error


@dataclass(frozen=True)
class Latency:
    """Time of one `Detector.detect` call, image in to boxes out.

    Attributes:
        ms: median in milliseconds; compare it with nothing measured at another time.
        ratio: median over the rounds of the time as a share of the first model's in the same round.
    """

    ms: float
    ratio: float


def measure_latency(
    models: Sequence[Path],
    images: Sequence[Path],
    *,
    rounds: int = 10,
    threads: int = 0,
    backend: str = "auto",
) -> list[Latency]:
    """Time models against each other, in turn within each round, each in a process of its own.

    Machines drift by more than models differ, so only times of one round are compared; and several engines in
    one process slow each other down.

    Args:
        models: ONNX detectors; the first is the one the ratios refer to.
        images: a few images, each detected once a round.
        rounds: how often each model has its turn.
        threads: CPU threads; 0 for one a core.
        backend: ``auto`` or the name of one of `yolo_trt_node.detector`'s backends.

    Raises:
        UserError: a model cannot be loaded, an image not be read, or the backend is not there.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    try:
        for model in models:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_latency_worker, args=(theirs, model, list(images), threads, backend), daemon=True
            )
            process.start()
            theirs.close()
            workers.append((process, ours))
            _answer(ours, model)  # warm before the next starts, so that loading disturbs nobody
        seconds: list[list[float]] = [[] for _ in models]
        for _ in range(rounds):
            for index, (_, connection) in enumerate(workers):
                connection.send(True)
                seconds[index].append(_answer(connection, models[index]))
    finally:
        for process, connection in workers:
            connection.close()
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
    return [
        Latency(
            ms=1000 * statistics.median(own),
            ratio=statistics.median(o / first for o, first in zip(own, seconds[0], strict=True)),
        )
        for own in seconds
    ]


def _answer(connection: Connection, model: Path) -> float:
    try:
        answer = connection.recv()
    except EOFError as error:
        raise UserError(
            f"the process that measures the latency of {model} ended without an answer"
        ) from error
    if isinstance(answer, str):
        raise UserError(answer)
    return float(answer)


def _latency_worker(
    connection: Connection, model: Path, images: list[Path], threads: int, backend: str
) -> None:
    """Load a model, then answer each request with the mean seconds of a detection, until the pipe closes."""
    # Ctrl-C reaches the whole process group; the parent ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        frames = [read_image(path) for path in images]
        detector = _load(model, None, threads, backend)
        detector.set_options(replace(detector.options, score_threshold=None))
        for frame in frames:
            detector.detect([frame])
    except UserError as error:
        connection.send(str(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(0.0)
        while connection.recv():
            started = time.perf_counter()
            for frame in frames:
                detector.detect([frame])
            connection.send((time.perf_counter() - started) / len(frames))
