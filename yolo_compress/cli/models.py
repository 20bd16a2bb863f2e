"""A finished model: its files and its accuracy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo_compress.cli.app import Classes, app, console
from yolo_compress.errors import UserError

if TYPE_CHECKING:
    from yolo_compress.measure.accuracy import Accuracy


@app.command(
    "export",
    epilog="Example: yolo-compress export models/demo_parent.pt --precision fp16 -o exported/small.onnx",
)
def export_command(
    checkpoint: Annotated[Path, typer.Argument(help="An Ultralytics checkpoint (.pt) of a detector.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Keys of the recipe's section export: key=value, as in dynamic=none batch=4.",
            metavar="KEY=VALUE",
        ),
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="fp32, fp16 or int8; one file for each. Repeatable.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="raw, or end2end: with the suppression inside.")] = None,
    verify: Annotated[
        list[str] | None,
        typer.Option(help="Build an engine too, to see that it can be done: tensorrt_rtx. Needs no GPU."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="A data set description (YAML): measures each file; int8 is calibrated on it."),
    ] = None,
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "val",
    input_size: Annotated[
        int | None, typer.Option(help="Side in pixels of the input; by default as it was trained.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The fp32 file to write, by default beside the checkpoint; others are NAME_fp16, NAME_int8.",
        ),
    ] = None,
) -> None:
    """Export a checkpoint to ONNX files that describe themselves, checked against torch."""
    from yolo_compress.config.loading import load_section
    from yolo_compress.config.sections import Export
    from yolo_compress.errors import explained_disk_errors
    from yolo_compress.export.deliver import MeasuredOn, deliver

    lists = {"precision": precision, "verify": verify}
    given = [f"{name}=[{', '.join(values)}]" for name, values in lists.items() if values]
    given += [f"head={head}"] if head else []
    settings = load_section(Export, [*(overrides or []), *given], "the export")
    destination = output or checkpoint.with_suffix(".onnx")
    if destination.suffix != ".onnx":
        raise UserError(f"--output {destination} is no .onnx file")
    with explained_disk_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)  # to know now that it can be made
        delivered = deliver(
            checkpoint,
            destination,
            settings,
            input_size=input_size,
            measured_on=None if data is None else MeasuredOn(data, split),
            tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        )
    for one in delivered:
        console.print(f"written: {one.path}", soft_wrap=True)


@app.command(
    "evaluate",
    epilog="Example: yolo-compress data scenes scenes && yolo-compress evaluate models/demo_parent.pt "
    "--data scenes/data.yaml --split val",
)
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="A checkpoint (.pt), an ONNX file or an engine (.engine).")],
    data: Annotated[Path, typer.Option(help="An Ultralytics data set description (YAML).")],
    split: Annotated[str, typer.Option(help="The split to measure on.")] = "val",
    iou_threshold: Annotated[
        float | None, typer.Option(help="Of the suppression; by default the model card's.")
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(help="Side in pixels of a checkpoint's input; by default as it was trained."),
    ] = None,
    classes: Classes = None,
) -> None:
    """Measure a model's accuracy through the detector that flies."""
    from rich.progress import Progress

    from yolo_compress.data.labelled import read_split
    from yolo_compress.export.deliver import evaluate as measure

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)
        accuracy = measure(
            model,
            data,
            split,
            iou_threshold=iou_threshold,
            classes=classes,
            input_size=input_size,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    print_accuracy(accuracy)
    console.print(f"on {accuracy.images} images of {data}, split {split!r}", markup=False, soft_wrap=True)
    for reason, count, examples in read_split(data, split).reasons():
        text = f"{count} more are left out, as training would: {reason}; such as {'; '.join(examples)}"
        console.print(text, markup=False, soft_wrap=True)


def print_accuracy(accuracy: Accuracy) -> None:
    """Print one row for all classes, and one a class."""
    from rich.table import Table

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:.1f}"

    table = Table(box=None)
    table.add_column("class")
    for column in ("objects", "AP50", "AP", "AP75", "APs", "APm", "APl"):
        table.add_column(column, justify="right")
    a = accuracy
    figures = (a.ap50, a.ap, a.ap75, a.ap_small, a.ap_medium, a.ap_large)
    table.add_row("all", str(sum(c.objects for c in a.per_class)), *map(percent, figures))
    for c in a.per_class:
        table.add_row(c.name, str(c.objects), percent(c.ap50), percent(c.ap))
    console.print(table)
