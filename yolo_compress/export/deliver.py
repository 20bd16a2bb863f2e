"""Every file that is asked for, and what each costs in accuracy; accuracy of any kind of model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolo_compress.checkpoints import load_model
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_split, spread
from yolo_compress.errors import UserError
from yolo_compress.export.card import CardFacts, read_card, update_card
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


@dataclass(frozen=True)
class MeasuredOn:
    """The data set that a delivery looks at.

    Attributes:
        data: its description. Images for the calibration are those of its split ``train``.
        split: that the checks and the accuracy take images from.
        name: in the cards; None for that of the description.
        threads: CPU threads of the measurement; 0 for one a core.
    """

    data: Path
    split: str = "val"
    name: str | None = None
    threads: int = 0

    def accuracy(self, model: Path, iou_threshold: float, input_size: int | None = None) -> Accuracy:
        """Measure a model, see `evaluate`."""
        return evaluate(
            model,
            self.data,
            self.split,
            iou_threshold=iou_threshold,
            input_size=input_size,
            threads=self.threads,
        )


def deliver(
    checkpoint: Path,
    base: Path,
    settings: Export,
    *,
    input_size: int | None = None,
    measured_on: MeasuredOn | None = None,
    facts: CardFacts | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> tuple[Delivery, ...]:
    """Export a checkpoint in every precision asked for, and measure what each costs in accuracy.

    Args:
        checkpoint: an Ultralytics ``.pt`` of a detector.
        base: the fp32 file's path; the others get their precision behind the name, as in ``model_int8.onnx``.
        settings: what to export.
        input_size: as `export_onnx`.
        measured_on: the data; None leaves the accuracy open.
        facts: for every card.
        tell: takes a line of progress.

    Raises:
        UserError: as `export_onnx` and `evaluate_model`; int8 without data.
    """
    facts = facts or CardFacts()
    images: Sequence[Path] = ()
    calibration: Sequence[Path] = ()
    if measured_on is not None:
        data = measured_on.data
        split = read_split(data, measured_on.split)
        images = split.images
        # Before anything is exported, not after.
        match_classes(
            checkpoint,
            list(load_model(checkpoint).names.values()),
            data,
            split.names,
            named=split.description.named,
        )
    if "int8" in settings.precision:
        if measured_on is None:
            raise UserError(
                "int8 is calibrated on real images: name the data set with --data (its split train)"
            )
        calibration = spread(read_split(measured_on.data, "train").images, settings.calibration_images)
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
            facts=facts,
            images=images,
            calibration=calibration if precision == "int8" else (),
        )
        text = (
            f"{path.name}: {precision}, {settings.head}, {path.stat().st_size / 1e6:.1f} MB, off torch by "
            f"{deviation.box_px:.2g} px and {deviation.score:.2g} in score"
        )
        text += "".join(f", {e['backend']} {e['version']} builds it" for e in read_card(path)["engines"])
        accuracy = None
        if measured_on is None:
            text += ", accuracy not measured (no data)"
        else:
            accuracy = measured_on.accuracy(path, facts.iou_threshold)
            if reference is None:
                # The fp32 checkpoint, where the file just measured is not that.
                plain = precision == "fp32" and settings.head == "raw"
                reference = (
                    accuracy if plain else measured_on.accuracy(checkpoint, facts.iou_threshold, input_size)
                )
            name = measured_on.name or measured_on.data.stem
            of_it = {"dataset": name, "split": measured_on.split}
            update_card(
                path,
                {
                    "accuracy": {**accuracy.summary(), **of_it},
                    "accuracy_of_checkpoint": {**reference.summary(), **of_it},
                },
            )
            text += (
                f", AP50 {_figure(accuracy.ap50, reference.ap50)}, AP {_figure(accuracy.ap, reference.ap)}"
            )
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

    def measured(file: Path) -> Accuracy:
        return evaluate_model(
            file,
            data,
            split,
            iou_threshold=iou_threshold,
            classes=classes,
            threads=threads,
            progress=progress,
        )

    if model.suffix != ".pt":
        if input_size is not None:
            raise UserError(f"{model} has its own input size; an input size is only for checkpoints (.pt)")
        return measured(model)
    with tempfile.TemporaryDirectory() as folder:
        exported = Path(folder) / f"{model.stem}.onnx"
        export_onnx(model, exported, input_size)
        return measured(exported)
