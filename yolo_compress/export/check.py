"""Whether an exported file computes what torch computes, and whether a builder takes it."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector import ModelError
from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, TargetDevice, import_tensorrt
from yolo_trt_node.detector.decode import decode_end2end, decode_raw
from yolo_trt_node.detector.letterbox import Preprocessor
from yolo_trt_node.detector.options import LoadOptions

from aerial_scenes.scenes import SceneSpec, render_scene
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_image, spread
from yolo_compress.errors import UserError
from yolo_compress.measure.detector import SCORE_FLOOR

from ultralytics.nn.tasks import DetectionModel  # isort: skip

from yolo_compress.export.card import LETTERBOX_COLOR, SCALE

Precision = Literal["fp32", "fp16", "int8"]
Image = NDArray[np.uint8]
Batch = NDArray[np.float32]
# Images that an export is checked on.
_CHECKED_IMAGES = 4
# The anchors that score best in an image: the ones that become boxes.
_CHECKED_ANCHORS = 100
# An engine can be built for any; the generation of the Orin and of many workstations.
_COMPUTE_CAPABILITY = "8.6"
KEPT = "no file was kept"


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


DEVIATIONS_ALLOWED: Mapping[Precision, Deviation] = {
    "fp32": Deviation(0.1, 0.001),
    "fp16": Deviation(1.0, 0.01),
    "int8": Deviation(5.0, 0.1),
}
"""What a file may deviate: fp32 and fp16 at most, anywhere; int8 on the average of an image.

int8 is another network, a little worse; a single anchor of it may be far off. Its true cost is in accuracy,
which `deliver` measures; this finds what is broken.
"""


class ImageLetterbox:
    """The node's own letterbox, with results that last."""

    def __init__(self, height: int, width: int) -> None:
        self._preprocess = Preprocessor(height, width, channels="RGB", scale=SCALE, color=LETTERBOX_COLOR)

    def __call__(self, images: Sequence[Image]) -> Batch:
        """Return the images as one batch, N x 3 x height x width float32."""
        return self._preprocess(images)[0].copy()


def batches(settings: Export, size: int, stride: int, images: Sequence[Path]) -> Iterator[Batch]:
    """Yield what an export is checked on, in the batches and sizes that its free axes allow."""
    # Spread over the set: neighbours are often frames of one flight.
    chosen = spread(images, _CHECKED_IMAGES) if images else []
    frames = [read_image(path) for path in chosen] or list(_generated_images())
    square = ImageLetterbox(size, size)
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
        yield ImageLetterbox(math.ceil(size / 2 / stride) * stride, size)([last])


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


def compare_with_torch(
    model: DetectionModel, graph: onnx.ModelProto, batches: Sequence[Batch], precision: Precision
) -> tuple[Deviation, list[tuple[Batch, NDArray[np.float32]]]]:
    """Compare a raw graph's answers with torch's; return the worst, and each batch with the graph's answer.

    Raises:
        UserError: they differ by more than `DEVIATIONS_ALLOWED`.
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
                f"the exported model answers {found.shape} where torch answers {expected.shape}; {KEPT}"
            )
        for ours, theirs in zip(found, expected, strict=True):
            best = np.argsort(-theirs[4:].max(axis=0))[:_CHECKED_ANCHORS]
            longer = theirs[2:4, best].max(axis=0)
            difference = np.abs(_corners(ours[:, best]) - _corners(theirs[:, best])).max(axis=0)
            boxes.append(difference / np.maximum(longer / 100, 1))
            scores.append(np.abs(ours[4:, best] - theirs[4:, best]).max(axis=0))
    summarise: Callable[..., Any] = np.mean if precision == "int8" else np.max
    worst = Deviation(*(float(max(summarise(values) for values in parts)) for parts in (boxes, scores)))
    allowed = DEVIATIONS_ALLOWED[precision]
    # Written so that NaN fails.
    if not (worst.box_px <= allowed.box_px and worst.score <= allowed.score):
        raise UserError(
            f"the exported {precision} model does not compute what torch computes: boxes differ by "
            f"{worst.box_px:.3g} px (allowed {allowed.box_px}), scores by {worst.score:.3g} (allowed "
            f"{allowed.score}) on {len(boxes)} images; {KEPT}"
        )
    return worst, answers


def _corners(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Turn 4 x N centre x, centre y, width, height into x1, y1, x2, y2."""
    center, half = columns[:2], columns[2:4] / 2
    return np.concatenate([center - half, center + half])


def compare_head(
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
                    f"{len(expected)}, or others; {KEPT}"
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
            target = TargetDevice(f"GPU of compute capability {_COMPUTE_CAPABILITY}", _COMPUTE_CAPABILITY)
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
        raise UserError(f"{backend} builds no engine of the export: {reason}; {KEPT}") from error
