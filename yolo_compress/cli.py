"""The command ``yolo-compress``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yolo_compress.errors import UserError

if TYPE_CHECKING:
    from yolo_compress.evaluation import Accuracy

# Everything that needs torch is imported by the command that uses it: --help answers at once, and the
# processes that measure latency, which import the parent's main module, stay small.

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)
console = Console(highlight=False)


@app.callback()
def _describe() -> None:
    """Make a YOLOv8 detector smaller and faster, and see what that costs."""


@app.command(epilog="Example: yolo-compress run config/compress/demo.yaml --set distill.train.epochs=20")
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a key of the recipe: key.key=value. Repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run, instead of the recipe's.")] = None,
) -> None:
    """Do all stages of a recipe; what is done already is skipped, what was interrupted is done."""
    from yolo_compress.config import load_recipe

    changes = [*(overrides or []), *([f"output={output}"] if output else [])]
    loaded = load_recipe(recipe, changes)
    from yolo_compress.run import run_recipe

    try:
        result = run_recipe(loaded, console)
    except KeyboardInterrupt:
        console.print("interrupted; finished stages are kept, the same command goes on from there")
        raise typer.Exit(130) from None
    console.print(result.table())
    console.print(f"compressed model: {result.onnx}")


@app.command(epilog="Example: yolo-compress export yolov8n.pt --output yolov8n.onnx --input-size 640")
def export(
    checkpoint: Annotated[Path, typer.Argument(help="An Ultralytics checkpoint (.pt) of a detector.")],
    output: Annotated[
        Path | None, typer.Option(help="The ONNX file to write; by default beside the checkpoint.")
    ] = None,
    input_size: Annotated[
        int, typer.Option(help="Side in pixels of the input that it was trained for.")
    ] = 640,
) -> None:
    """Export a checkpoint to an ONNX file that describes itself, ready for the node."""
    from yolo_compress.export import export_onnx

    destination = output or checkpoint.with_suffix(".onnx")
    export_onnx(checkpoint, destination, input_size)
    console.print(f"written: {destination}")


@app.command(epilog="Example: yolo-compress evaluate model.onnx --data VisDrone.yaml --split val")
def evaluate(
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
) -> None:
    """Measure a model's accuracy through the detector that flies."""
    from rich.progress import Progress

    from yolo_compress.evaluation import evaluate_model

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("evaluating", total=None)
        accuracy = evaluate_model(
            model,
            data,
            split,
            iou_threshold=iou_threshold,
            input_size=input_size,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    print_accuracy(accuracy)
    console.print(f"on {accuracy.images} images of {data}, split {split!r}")


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


def main() -> None:
    """Run the command line; errors of the user's making end in one message and exit code 1."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
