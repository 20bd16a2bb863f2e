"""Export to an ONNX file that describes itself: weights, and the model card that the node reads.

Nothing is kept that was not checked: every file has computed what torch computes on real images, within the
tolerance of its precision, before it takes its name.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import onnxslim
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector import ModelError
from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, Target, import_tensorrt
from yolo_trt_node.detector.decode import decode_end2end, decode_raw
from yolo_trt_node.detector.letterbox import Preprocessor
from yolo_trt_node.detector.options import LoadOptions

from aerial_scenes.scenes import SceneSpec, render_scene
from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_image, read_split, spread
from yolo_compress.errors import UserError
from yolo_compress.export.graph import append_suppression, fix_sizes, quantise, tail_nodes, to_half
from yolo_compress.measure.accuracy import Accuracy, evaluate_model
from yolo_compress.measure.classes import match_classes
from yolo_compress.measure.detector import SCORE_FLOOR
from yolo_compress.versions import versions

from ultralytics import YOLO  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

Precision = Literal["fp32", "fp16", "int8"]
Image = NDArray[np.uint8]
Batch = NDArray[np.float32]

CARD_KEY = "model_card"
CARD_FORMAT_VERSION = 1
SCORE_THRESHOLD = 0.25
# Seen from above, vehicles stand side by side without overlap but people in groups do overlap: a low
# threshold would merge them. It is also Ultralytics' own, so that a stock and a compressed model suppress
# alike.
IOU_THRESHOLD = 0.7

# What IR version goes with the operator sets that we write: the newest that old runtimes read.
_IR_VERSION = 8
_LETTERBOX_COLOUR = (114, 114, 114)
_SCALE = 1 / 255
# Images that an export is checked on.
_CHECKED_IMAGES = 4
# The anchors that score best in an image: the ones that become boxes.
_CHECKED_ANCHORS = 100
# An engine can be built for any; the generation of the Orin and of many workstations.
_COMPUTE_CAPABILITY = "8.6"


@dataclass(frozen=True)
class Deviation:
    """How far an exported model's answers are from torch's, over the 100 best anchors of each image.

    Attributes:
        box_px: of an edge of a box, in network pixels; where the box is longer than 100 pixels, in per cent
            of its longer side, since a large box is seldom known to the pixel.
        score: of a class score.
    """

    box_px: float
    score: float


TOLERANCE: Mapping[Precision, Deviation] = {
    "fp32": Deviation(0.1, 0.001),
    "fp16": Deviation(1.0, 0.01),
    "int8": Deviation(5.0, 0.1),
}
"""What a file may deviate: fp32 and fp16 at most, anywhere; int8 on the average of an image.

int8 is another network, a little worse; a single anchor of it may be far off. Its true cost is in accuracy,
which `deliver` measures; this finds what is broken.
"""


@dataclass(frozen=True)
class Delivery:
    """An exported file.

    Attributes:
        path: where it lies.
        precision: that it computes in.
        accuracy: measured through the detector; None where there was no data to measure on.
    """

    path: Path
    precision: Precision
    accuracy: Accuracy | None


def export_onnx(
    checkpoint: Path,
    destination: Path,
    input_size: int | None = None,
    *,
    precision: Precision = "fp32",
    settings: Export | None = None,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    compression: Mapping[str, Any] | None = None,
    images: Sequence[Path] = (),
    calibration: Sequence[Path] = (),
) -> Deviation:
    """Export a checkpoint, check it, and write it with its model card; atomically.

    Free axes are named ``batch``, ``height`` and ``width``. fp16 files take an fp16 image, int8 and fp32
    files an fp32 one; all answer in fp32.

    Args:
        checkpoint: an Ultralytics ``.pt`` of a detector.
        destination: the ONNX file to write.
        input_size: side in pixels of the square input; None for the one that the model was trained with.
        precision: of the convolutions; the arithmetic on anchors is fp32 in any case.
        settings: head, free axes, operator set, and the builders that must take the file.
        score_threshold: default score cut for the card.
        iou_threshold: IoU of the suppression, the card's default or the one in an end2end head.
        compression: what the model was compressed from, for the card.
        images: real images to compare with torch on; generated scenes where there are none.
        calibration: real images for int8.

    Returns:
        How far the file's answers are from torch's.

    Raises:
        UserError: the checkpoint is missing or no detector, the input size is no multiple of its stride, int8
            has no images, or a check failed; nothing is written then.
    """
    settings = settings or Export.model_validate({})
    model = load_model(checkpoint).eval()
    stride = int(model.stride.max())
    size = trained_size(model) if input_size is None else input_size
    if size < stride or size % stride:
        raise UserError(f"the input size {size} is no multiple of the model's stride {stride}")
    if precision == "int8" and not calibration:
        raise UserError(
            "int8 is calibrated on real images, and there are none: give a data set with a split train"
        )
    if getattr(model.model[-1], "end2end", False):
        raise UserError(
            f"{checkpoint}: the model has an end2end head of its own (as YOLOv10 and YOLO26); "
            "export it with `yolo export format=onnx`, which the node reads as well"
        )
    graph = _raw_graph(checkpoint, size, settings.opset)
    if settings.dynamic != "all":
        anchors = sum((size // int(step)) ** 2 for step in model.stride)
        batch = settings.batch if settings.dynamic == "none" else None
        graph = onnxslim.slim(fix_sizes(graph, anchors, batch=batch, size=size))
    if precision == "fp16":
        graph = to_half(graph, tail_nodes(graph))
    elif precision == "int8":
        together = settings.batch if settings.dynamic == "none" else 1
        source = _Letterbox(size, size)
        graph = quantise(
            graph,
            tail_nodes(graph),
            len(calibration),
            lambda index: source([read_image(calibration[index])] * together),
        )
    graph.ir_version = _IR_VERSION
    deviation, answers = _compare(model, graph, list(_batches(settings, size, stride, images)), precision)
    if settings.head == "end2end":
        graph = append_suppression(
            graph, max_det=settings.max_det, iou_threshold=iou_threshold, score_floor=SCORE_FLOOR
        )
        _compare_head(graph, answers, settings.max_det, iou_threshold)
    suppression = {"max_det": settings.max_det, "iou_threshold": iou_threshold, "score_floor": SCORE_FLOOR}
    card = {
        "format_version": CARD_FORMAT_VERSION,
        "task": "detect",
        "names": [str(model.names[i]) for i in sorted(model.names)],
        "input": {
            "height": size,
            "width": size,
            "channels": "RGB",
            "scale": _SCALE,
            "letterbox_colour": list(_LETTERBOX_COLOUR),
        },
        "precision": precision,
        "head": settings.head,
        "suppression": suppression if settings.head == "end2end" else None,
        "stride": stride,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "calibration": {"images": len(calibration)} if precision == "int8" else None,
        "deviation_from_torch": {
            **dataclasses.asdict(deviation),
            "allowed": dataclasses.asdict(TOLERANCE[precision]),
            "of": "mean of the worst image" if precision == "int8" else "largest",
        },
        "compression": None if compression is None else dict(compression),
        "versions": versions(),
        "weights_sha256": weights_sha256(graph),
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / destination.name
        _write(graph, card, trial)
        engines = [verify_engine(trial, backend, size, checkpoint) for backend in settings.verify]
    destination.parent.mkdir(parents=True, exist_ok=True)
    _write(graph, {**card, "engines": engines}, destination)
    return deviation


def _raw_graph(checkpoint: Path, size: int, opset: int) -> onnx.ModelProto:
    """Export by Ultralytics' own exporter: raw head, fp32, every size free; then simplify."""
    # The exporter writes beside the checkpoint, which may be a folder that is not ours.
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.pt"
        shutil.copyfile(checkpoint, source)
        exported = YOLO(source, task="detect").export(
            format="onnx", imgsz=size, dynamic=True, simplify=False, opset=opset, device="cpu"
        )
        return onnxslim.slim(onnx.load(exported))


class _Letterbox:
    """The node's own letterbox, with results that last."""

    def __init__(self, height: int, width: int) -> None:
        self._preprocess = Preprocessor(height, width, channels="RGB", scale=_SCALE, colour=_LETTERBOX_COLOUR)

    def __call__(self, images: Sequence[Image]) -> Batch:
        return self._preprocess(images)[0].copy()


def _batches(settings: Export, size: int, stride: int, images: Sequence[Path]) -> Iterator[Batch]:
    """Yield what an export is checked on, in the batches and sizes that its free axes allow."""
    # Spread over the set: neighbours are often frames of one flight.
    chosen = spread(images, _CHECKED_IMAGES) if images else []
    frames = [read_image(path) for path in chosen] or list(_generated_images())
    square = _Letterbox(size, size)
    if settings.dynamic == "none":
        for frame in frames:
            yield square([frame] * settings.batch)
        return
    *rest, last = frames
    if rest:
        yield square(rest)
    if settings.dynamic == "batch":
        yield square([last])
    else:
        yield _Letterbox(math.ceil(size / 2 / stride) * stride, size)([last])


@functools.cache
def _generated_images() -> tuple[Image, ...]:
    return tuple(
        render_scene(seed, SceneSpec(width=640, height=360)).image for seed in range(_CHECKED_IMAGES)
    )


def _run(session: onnxruntime.InferenceSession, batch: Batch) -> NDArray[np.float32]:
    (image,) = session.get_inputs()
    half = image.type == "tensor(float16)"
    return session.run(None, {image.name: batch.astype(np.float16) if half else batch})[0]


def _session(graph: onnx.ModelProto) -> onnxruntime.InferenceSession:
    onnx.checker.check_model(graph)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        graph.SerializeToString(), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _compare(
    model: DetectionModel, graph: onnx.ModelProto, batches: Sequence[Batch], precision: Precision
) -> tuple[Deviation, list[tuple[Batch, NDArray[np.float32]]]]:
    """Compare a raw graph's answers with torch's; return the worst, and each batch with the graph's answer.

    Raises:
        UserError: they differ by more than `TOLERANCE`.
    """
    session = _session(graph)
    answers, boxes, scores = [], [], []
    for batch in batches:
        with torch.inference_mode():
            expected = model(torch.from_numpy(batch))[0].numpy()
        found = _run(session, batch)
        answers.append((batch, found))
        if found.shape != expected.shape:
            raise UserError(
                f"the exported model answers {found.shape} where torch answers {expected.shape}; {_KEPT}"
            )
        for ours, theirs in zip(found, expected, strict=True):
            best = np.argsort(-theirs[4:].max(axis=0))[:_CHECKED_ANCHORS]
            longer = theirs[2:4, best].max(axis=0)
            difference = np.abs(_corners(ours[:, best]) - _corners(theirs[:, best])).max(axis=0)
            boxes.append(difference / np.maximum(longer / 100, 1))
            scores.append(np.abs(ours[4:, best] - theirs[4:, best]).max(axis=0))
    summarise: Callable[..., Any] = np.mean if precision == "int8" else np.max
    worst = Deviation(*(float(max(summarise(values) for values in parts)) for parts in (boxes, scores)))
    allowed = TOLERANCE[precision]
    # Written so that NaN fails.
    if not (worst.box_px <= allowed.box_px and worst.score <= allowed.score):
        raise UserError(
            f"the exported {precision} model does not compute what torch computes: boxes differ by "
            f"{worst.box_px:.3g} px (allowed {allowed.box_px}), scores by {worst.score:.3g} (allowed "
            f"{allowed.score}) on {len(boxes)} images; {_KEPT}"
        )
    return worst, answers


_KEPT = "no file was kept"


def _corners(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn 4 x N centre x, centre y, width, height into x1, y1, x2, y2."""
    centre, half = columns[:2], columns[2:4] / 2
    return np.concatenate([centre - half, centre + half])


def _compare_head(
    graph: onnx.ModelProto,
    answers: Sequence[tuple[Batch, NDArray[np.float32]]],
    max_det: int,
    iou_threshold: float,
) -> None:
    """Compare an end2end graph with the node's decoding and suppression of the raw graph's answers.

    Raises:
        UserError: they are not the same boxes.
    """
    session = _session(graph)
    for batch, raw in answers:
        for rows, prediction in zip(_run(session, batch), raw, strict=True):
            wanted = np.ones(len(prediction) - 4, np.bool_)
            expected = decode_raw(
                prediction,
                classes=wanted,
                score_threshold=SCORE_FLOOR,
                iou_threshold=iou_threshold,
                max_det=max_det,
            )
            found = decode_end2end(rows, classes=wanted, score_threshold=SCORE_FLOOR, max_det=max_det)
            if not _same_boxes(expected, found):
                raise UserError(
                    f"the end2end head found {len(found)} boxes where the node's own suppression finds "
                    f"{len(expected)}, or others; {_KEPT}"
                )


def _same_boxes(expected: Detections, found: Detections) -> bool:
    if len(expected) != len(found):
        return False
    # Boxes of equal score may change places.
    ours, theirs = (
        np.column_stack([some.scores, some.class_ids, some.boxes])[
            np.lexsort((*np.round(some.boxes, 2).T, some.class_ids, -some.scores))
        ]
        for some in (expected, found)
    )
    return bool(np.allclose(ours, theirs, rtol=1e-5, atol=1e-3))


def verify_engine(path: Path, backend: str, size: int, name: Path | None = None) -> dict[str, Any]:
    """Parse an ONNX file and build an engine of it with a real builder, in a child process; keep nothing.

    No GPU is needed: the engine is for one that is not here.

    Args:
        path: the ONNX file.
        backend: ``tensorrt_rtx``.
        size: input height and width in pixels, multiples of the stride.
        name: how to call the model in an error.

    Returns:
        What was built, for the card.

    Raises:
        UserError: the builder is not installed, or does not take the file.
    """
    try:
        trt = import_tensorrt(backend)
        with tempfile.TemporaryDirectory() as folder:
            options = LoadOptions(engine_cache=str(Path(folder) / "engines"))
            target = Target(f"GPU of compute capability {_COMPUTE_CAPABILITY}", _COMPUTE_CAPABILITY)
            engine = OnnxOnTensorRt(path, backend, trt, target, options).engine(size, size)
            return {
                "backend": backend,
                "version": str(trt.__version__),
                "compute_capability": _COMPUTE_CAPABILITY,
                "precision": engine.made_by["precision"],
                "bytes": len(engine.plan),
            }
    except ModelError as error:
        reason = str(error).replace(str(path), str(name or path))
        raise UserError(f"{backend} builds no engine of the export: {reason}; {_KEPT}") from error


def deliver(
    checkpoint: Path,
    base: Path,
    settings: Export,
    *,
    input_size: int | None = None,
    data: Path | None = None,
    split: str = "val",
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    dataset: str | None = None,
    facts: Mapping[str, Any] | None = None,
    threads: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Delivery, ...]:
    """Export a checkpoint in every precision asked for, and measure what each costs in accuracy.

    Args:
        checkpoint: an Ultralytics ``.pt`` of a detector.
        base: the fp32 file's path; the others get their precision behind the name, as in ``model_int8.onnx``.
        settings: what to export.
        input_size: as `export_onnx`.
        data: data set: images for the checks and the accuracy from ``split``, for the calibration from
            ``train``. None leaves the accuracy open.
        split: the split to measure on.
        score_threshold: as `export_onnx`.
        iou_threshold: as `export_onnx`.
        dataset: the data set's name in the cards; None for that of its description.
        facts: entries for every card, such as what the model was compressed from.
        threads: CPU threads of the measurement; 0 for one a core.
        tell: takes a line of progress.

    Raises:
        UserError: as `export_onnx` and `evaluate_model`; int8 without data.
    """
    images: Sequence[Path] = ()
    calibration: Sequence[Path] = ()
    if data is not None:
        measured_on = read_split(data, split)
        images = measured_on.images
        # Before anything is exported, not after.
        match_classes(
            checkpoint,
            list(load_model(checkpoint).names.values()),
            data,
            measured_on.names,
            named=measured_on.description.named,
        )
    if "int8" in settings.precision:
        if data is None:
            raise UserError(
                "int8 is calibrated on real images: name the data set with --data (its split train)"
            )
        calibration = spread(read_split(data, "train").images, settings.calibration_images)
    delivered: list[Delivery] = []
    reference: Accuracy | None = None
    for precision in sorted(settings.precision, key=list(TOLERANCE).index):
        path = base if precision == "fp32" else base.with_name(f"{base.stem}_{precision}{base.suffix}")
        deviation = export_onnx(
            checkpoint,
            path,
            input_size,
            precision=precision,
            settings=settings,
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
            images=images,
            calibration=calibration if precision == "int8" else (),
        )
        text = (
            f"{path.name}: {precision}, {settings.head}, {path.stat().st_size / 1e6:.1f} MB, off torch by "
            f"{deviation.box_px:.2g} px and {deviation.score:.2g} in score"
        )
        text += "".join(f", {e['backend']} {e['version']} builds it" for e in read_card(path)["engines"])
        accuracy = None
        if data is None:
            text += ", accuracy not measured (no data)"
        else:
            accuracy = evaluate(path, data, split, iou_threshold=iou_threshold, threads=threads)
            if reference is None:
                # The fp32 checkpoint, where the file just measured is not that.
                plain = precision == "fp32" and settings.head == "raw"
                reference = (
                    accuracy
                    if plain
                    else evaluate(
                        checkpoint,
                        data,
                        split,
                        iou_threshold=iou_threshold,
                        input_size=input_size,
                        threads=threads,
                    )
                )
            of_it = {"dataset": dataset or data.stem, "split": split}
            update_card(
                path,
                {
                    **(facts or {}),
                    "accuracy": {**accuracy.summary(), **of_it},
                    "accuracy_of_checkpoint": {**reference.summary(), **of_it},
                },
            )
            text += (
                f", AP50 {_figure(accuracy.ap50, reference.ap50)}, AP {_figure(accuracy.ap, reference.ap)}"
            )
        if data is None and facts:
            update_card(path, facts)
        tell(text)
        delivered.append(Delivery(path, precision, accuracy))
    return tuple(delivered)


def _figure(value: float | None, reference: float | None) -> str:
    if value is None or reference is None:
        return "-"
    change = 100 * (value - reference)
    return f"{100 * value:.1f}" + (f" ({change:+.1f} against the checkpoint)" if abs(change) >= 0.05 else "")


def evaluate(
    model: Path,
    data: Path,
    split: str = "val",
    *,
    iou_threshold: float | None = None,
    classes: str | None = None,
    input_size: int | None = None,
    threads: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Accuracy:
    """Measure a model's accuracy through `yolo_trt_node.detector`, whatever kind of file it is.

    A checkpoint is exported (fp32, raw head) into a temporary folder and measured as that ONNX: all figures
    come from the same letterbox, decoding and suppression.

    Args:
        model: an ONNX detector, a TensorRT engine, or an Ultralytics checkpoint (``.pt``).
        data: as `evaluate_model`.
        split: as `evaluate_model`.
        iou_threshold: as `evaluate_model`.
        classes: as `evaluate_model`.
        input_size: side in pixels of the square input of a checkpoint; None for the one that it was trained
            with. Other models know theirs.
        threads: as `evaluate_model`.
        progress: as `evaluate_model`.

    Raises:
        UserError: the model or the data cannot be used, or their classes differ.
    """
    if model.suffix != ".pt":
        if input_size is not None:
            raise UserError(f"{model} has its own input size; an input size is only for checkpoints (.pt)")
        return evaluate_model(
            model,
            data,
            split,
            iou_threshold=iou_threshold,
            classes=classes,
            threads=threads,
            progress=progress,
        )
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{model.stem}.onnx"
        export_onnx(model, exported, input_size)
        return evaluate(
            exported,
            data,
            split,
            iou_threshold=iou_threshold,
            classes=classes,
            threads=threads,
            progress=progress,
        )


def trained_size(model: DetectionModel) -> int:
    """Return the input size in pixels that a checkpoint was trained with.

    It is 640, Ultralytics' default, where the checkpoint does not say.
    """
    given = getattr(model, "args", {})
    size = (given if isinstance(given, dict) else vars(given)).get("imgsz", 640)
    return int(size if isinstance(size, int) else max(size))


def weights_sha256(graph: onnx.ModelProto) -> str:
    """Return the SHA-256 over all weights of a graph: name, type, shape and values of each, by name."""
    digest = hashlib.sha256()
    for tensor in sorted(graph.graph.initializer, key=lambda item: item.name):
        values = numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def read_card(path: Path) -> dict[str, Any]:
    """Return the model card of an exported file.

    Raises:
        UserError: the file has none.
    """
    entries = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    if CARD_KEY not in entries:
        raise UserError(f"{path} has no model card; export it with `yolo-compress export`")
    return json.loads(entries[CARD_KEY])


def update_card(path: Path, changes: Mapping[str, Any]) -> None:
    """Replace top-level entries of the card in an exported file; atomically, weights untouched."""
    _write(onnx.load(path), {**read_card(path), **changes}, path)


def _write(graph: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> None:
    """Put the card among the other metadata and write the file in one step."""
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**entries, CARD_KEY: json.dumps(card)})
    files.write(path, graph.SerializeToString())
