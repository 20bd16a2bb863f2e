"""Export to an ONNX file that describes itself: weights, and the model card that the node reads.

Nothing is kept that was not checked: every file has computed what torch computes on real images, within the
tolerance of its precision, before it takes its name.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxslim
from yolo_trt_node.detector.card import CARD_FORMAT_VERSION

from yolo_compress.checkpoints import load_model
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_image
from yolo_compress.errors import UserError
from yolo_compress.export.graph import append_suppression, fix_sizes, quantize, tail_nodes, to_half
from yolo_compress.measure.detector import SCORE_FLOOR
from yolo_compress.versions import versions

from ultralytics import YOLO  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

from yolo_compress.export.card import (
    LETTERBOX_COLOR,
    SCALE,
    CardFacts,
    weights_sha256,
    write_model,
)
from yolo_compress.export.check import (
    DEVIATIONS_ALLOWED,
    Deviation,
    ImageLetterbox,
    Precision,
    batches,
    compare_head,
    compare_with_torch,
    verify_engine,
)

# What IR version goes with the operator sets that we write: the newest that old runtimes read.
_IR_VERSION = 8


def export_onnx(
    checkpoint: Path,
    destination: Path,
    input_size: int | None = None,
    *,
    precision: Precision = "fp32",
    settings: Export | None = None,
    facts: CardFacts | None = None,
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
        facts: for the card.
        images: real images to compare with torch on; generated scenes where there are none.
        calibration: real images for int8.

    Returns:
        How far the file's answers are from torch's.

    Raises:
        UserError: the checkpoint is missing or no detector, the input size is no multiple of its stride, int8
            has no images, or a check failed; nothing is written then.
    """
    settings, facts = settings or Export.model_validate({}), facts or CardFacts()
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
        source = ImageLetterbox(size, size)
        graph = quantize(
            graph,
            tail_nodes(graph),
            len(calibration),
            lambda index: source([read_image(calibration[index])] * together),
        )
    graph.ir_version = _IR_VERSION
    deviation, answers = compare_with_torch(
        model, graph, list(batches(settings, size, stride, images)), precision
    )
    if settings.head == "end2end":
        graph = append_suppression(
            graph, max_det=settings.max_det, iou_threshold=facts.iou_threshold, score_floor=SCORE_FLOOR
        )
        compare_head(graph, answers, settings.max_det, facts.iou_threshold)
    card = {
        "format_version": CARD_FORMAT_VERSION,
        "task": "detect",
        "names": [str(model.names[i]) for i in sorted(model.names)],
        "input": {
            "height": size,
            "width": size,
            "channels": "RGB",
            "scale": SCALE,
            "letterbox_color": list(LETTERBOX_COLOR),
        },
        "precision": precision,
        "head": settings.head,
        "suppression": None
        if settings.head == "raw"
        else {
            "max_det": settings.max_det,
            "iou_threshold": facts.iou_threshold,
            "score_floor": SCORE_FLOOR,
        },
        "stride": stride,
        "score_threshold": facts.score_threshold,
        "iou_threshold": facts.iou_threshold,
        "calibration": {"images": len(calibration)} if precision == "int8" else None,
        "deviation_from_torch": {
            **dataclasses.asdict(deviation),
            "allowed": dataclasses.asdict(DEVIATIONS_ALLOWED[precision]),
            "of": "mean of the worst image" if precision == "int8" else "largest",
        },
        "compression": None if facts.compression is None else dict(facts.compression),
        "versions": versions(),
        "weights_sha256": weights_sha256(graph),
    }
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / destination.name
        write_model(graph, card, trial)
        engines = [verify_engine(trial, backend, size, checkpoint) for backend in settings.verify]
    destination.parent.mkdir(parents=True, exist_ok=True)
    write_model(graph, {**card, "engines": engines}, destination)
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


def trained_size(model: DetectionModel) -> int:
    """Return the input size in pixels that a checkpoint was trained with.

    It is 640, Ultralytics' default, where the checkpoint does not say.
    """
    given = getattr(model, "args", {})
    size = (given if isinstance(given, dict) else vars(given)).get("imgsz", 640)
    return int(size if isinstance(size, int) else max(size))
