"""Every file that is asked for, and what each costs in accuracy; accuracy of any kind of model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress.checkpoints import load_model
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_split, spread
from yolo_compress.errors import UserError
from yolo_compress.export.card import IOU_THRESHOLD, SCORE_THRESHOLD, read_card, update_card
from yolo_compress.export.check import DEVIATIONS_ALLOWED, Precision
from yolo_compress.export.export import export_onnx
from yolo_compress.measure.accuracy import Accuracy, evaluate_model
from yolo_compress.measure.classes import match_classes


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
    for precision in sorted(settings.precision, key=list(DEVIATIONS_ALLOWED).index):
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
