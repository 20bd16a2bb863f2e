"""The command ``yolo-compress``."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yolo_compress.errors import UserError

if TYPE_CHECKING:
    from yolo_compress.config.sections import Recipe
    from yolo_compress.measure.accuracy import Accuracy
    from yolo_compress.run.recipe import RunResult

# Everything that needs torch is imported by the command that uses it: --help answers at once, and the
# processes that measure latency, which import the parent's main module, stay small.

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)
# No markup: paths and names of classes hold brackets.
console = Console(highlight=False, markup=False)

RecipeFile = Annotated[
    Path, typer.Argument(help="The recipe: a YAML file, or a shipped one's name, such as demo.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Changes to the recipe: key=value, with dots between nested keys.", metavar="KEY=VALUE"
    ),
]
Sets = Annotated[list[str] | None, typer.Option("--set", help="The same as KEY=VALUE. Repeatable.")]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Which class of the model is which of the data's: car=car,truck=van. Others do not count.",
        metavar="MODEL=DATA,...",
    ),
]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder, instead of the recipe's.")]


@app.callback()
def _describe(
    trust: Annotated[
        bool, typer.Option("--trust", help="Let checkpoints run the code in them; see docs/security.md.")
    ] = False,
) -> None:
    """Make a YOLOv8 detector smaller and faster, and see what that costs."""
    if trust:
        # Read by Ultralytics when a command imports it.
        os.environ["ULTRALYTICS_SAFE_LOAD"] = "0"
        console.print("warning: --trust: the code inside of checkpoints is run", style="yellow")


def _changes(overrides: list[str] | None, sets: list[str] | None, output: Path | None) -> list[str]:
    return [*(overrides or []), *(sets or []), *([f"output={output}"] if output else [])]


def _load(recipe: Path, overrides: list[str] | None, sets: list[str] | None, output: Path | None) -> Recipe:
    from yolo_compress.config.loading import load_recipe

    return load_recipe(recipe, _changes(overrides, sets, output))


@contextlib.contextmanager
def _interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C into a sentence about what is kept and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        console.print(
            f"\ninterrupted; finished stages and the last whole epoch are kept in {folder}, "
            "the same command goes on from there",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None


@app.command(epilog="Example: yolo-compress run config/compress/demo.yaml distill.train.epochs=20")
def run(recipe: RecipeFile, overrides: Overrides = None, sets: Sets = None, output: Output = None) -> None:
    """Do all stages of a recipe; what is done already is skipped, what was interrupted goes on."""
    _run(_load(recipe, overrides, sets, output))


def _run(loaded: Recipe) -> RunResult:
    with _interruptible(loaded.output):
        from yolo_compress.report.content import write_report
        from yolo_compress.run.recipe import run_recipe

        result = run_recipe(loaded, console)
        page = write_report(loaded.output)
    console.print(result.table())
    console.print(f"compressed model: {result.onnx}", soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)
    return result


@app.command(epilog="Example: yolo-compress compress best.pt --data my.yaml --macs 0.33")
def compress(
    checkpoint: Annotated[Path, typer.Argument(help="The trained detector, an Ultralytics .pt.")],
    data: Annotated[Path, typer.Option(help="The data set that it was trained on (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Changes to the recipe that it makes: key=value.", metavar="KEY=VALUE"),
    ] = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates to keep.")] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters to keep.")] = None,
    latency: Annotated[float | None, typer.Option(help="Share of the time to keep.")] = None,
    like: Annotated[
        str | None, typer.Option(help="The work of another model, for instance yolov8n.pt.")
    ] = None,
    input_size: Annotated[
        int | None, typer.Option(help="Side in pixels of the input; by default as it was trained.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Of recovery; a quarter as many fade before.")] = 60,
    device: Annotated[str | None, typer.Option(help="cpu, 0, ...; by default a GPU if there is one.")] = None,
    save_recipe: Annotated[
        Path | None, typer.Option(help="Write what it does as a recipe for `run`, and change it there.")
    ] = None,
    output: Output = None,
) -> None:
    """Compress a trained checkpoint without a recipe: fade, prune, recover, export, measure."""
    import tempfile

    from yolo_compress import compress as wish
    from yolo_compress import files
    from yolo_compress.config.loading import load_recipe
    from yolo_compress.doctor import examine

    shares = {"macs": macs, "params": params, "latency": latency, "like": like}
    if sum(share is not None for share in shares.values()) != 1:
        raise UserError("say how small: one of --macs, --params, --latency and --like, as in --macs 0.33")
    if like is not None:
        size = input_size or wish.trained_size(checkpoint)
        target = {"macs": wish.like(checkpoint, like, size)}
    else:
        target = {name: float(share) for name, share in shares.items() if share is not None}
    recipe = wish.recipe_for(
        checkpoint,
        data,
        target,
        input_size=input_size,
        epochs=epochs,
        device=device,
        output=output,
        overrides=overrides or [],
    )
    if save_recipe is not None:
        files.write_text(save_recipe, wish.written(recipe))
        console.print(f"recipe: {save_recipe}", soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        path = save_recipe or Path(name, "recipe.yaml")
        if save_recipe is None:
            files.write_text(path, wish.written(recipe))
        findings = [
            finding
            for finding in examine(path)
            if finding.what.startswith("time:") or finding.status == "FAIL"
        ]
        loaded = load_recipe(path)
    console.print(wish.plan_in_words(recipe), soft_wrap=True)
    for finding in findings:
        console.print(f"{finding.what}" + (f" -> {finding.remedy}" if finding.remedy else ""), soft_wrap=True)
    if any(finding.status == "FAIL" for finding in findings):
        raise typer.Exit(1)
    result = _run(loaded)
    console.print(
        f"fly it: ros2 launch yolo_trt_node detect.launch.py model:={result.onnx.resolve()}", soft_wrap=True
    )


def _stage(loaded: Recipe, name: str, checkpoints: list[Path]) -> None:
    with _interruptible(loaded.output):
        from yolo_compress.run.recipe import run_stage
        from yolo_compress.run.record import CHECKPOINT

        folder = run_stage(loaded, name, checkpoints, console)
    console.print(f"written: {folder / CHECKPOINT}", soft_wrap=True)


@app.command(epilog="Example: yolo-compress train config/compress/demo.yaml teacher.train.epochs=20")
def train(recipe: RecipeFile, overrides: Overrides = None, sets: Sets = None, output: Output = None) -> None:
    """Train the dense detector of a recipe's section `teacher`: the first stage alone."""
    _stage(_load(recipe, overrides, sets, output), "dense", [])


@app.command(epilog="Example: yolo-compress sparsify best.pt recipe.yaml sparsify.strength=0.1 -o runs/mine")
def sparsify(
    checkpoint: Annotated[Path, typer.Argument(help="The detector to train on, an Ultralytics .pt.")],
    recipe: RecipeFile,
    overrides: Overrides = None,
    sets: Sets = None,
    output: Output = None,
) -> None:
    """Train a checkpoint with a penalty on the channels that pruning can remove (section `sparsify`)."""
    _stage(_load(recipe, overrides, sets, output), "sparse", [checkpoint])


@app.command(epilog="Example: yolo-compress prune best.pt --macs 0.33 --input-size 640 -o pruned.pt")
def prune(
    checkpoint: Annotated[Path, typer.Argument(help="The detector to prune, an Ultralytics .pt.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Keys of the recipe's section prune: key=value.", metavar="KEY=VALUE"),
    ] = None,
    params: Annotated[float | None, typer.Option(help="Share of the parameters to keep.")] = None,
    macs: Annotated[float | None, typer.Option(help="Share of the multiply-accumulates to keep.")] = None,
    latency: Annotated[
        float | None, typer.Option(help="Share of the time to keep; needs --data or --board.")
    ] = None,
    board: Annotated[
        str | None,
        typer.Option(help="Measure the time on a board: http://HOST:8765 of the time_model that runs there."),
    ] = None,
    input_size: Annotated[int, typer.Option(help="Side in pixels at which costs are counted.")] = 640,
    data: Annotated[
        Path | None,
        typer.Option(help="A data set description (YAML), to measure latency or sensitivity on."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .pt to write; by default NAME-pruned.pt.")
    ] = None,
) -> None:
    """Remove channels from a checkpoint; the result opens in any Ultralytics. Fine-tune it by `distill`."""
    from yolo_compress.checkpoints import load_model, save_model
    from yolo_compress.config.loading import load_section
    from yolo_compress.config.techniques import Prune
    from yolo_compress.errors import explained_disk_errors
    from yolo_compress.pruning.pruner import Bench
    from yolo_compress.pruning.pruner import prune as remove_channels

    targets = {"params": params, "macs": macs, "latency": latency}
    given = [f"target.{name}={share}" for name, share in targets.items() if share is not None]
    given += [f"board={board}"] if board else []
    settings = load_section(Prune, [*(overrides or []), *given], "the pruning")
    if settings.board and settings.target.latency is None:
        raise UserError("--board times models: say what share of the time to keep, as in --latency 0.6")
    measures = settings.sensitivity or settings.importance == "taylor"
    if data is None and (measures or (settings.target.latency is not None and not settings.board)):
        raise UserError(
            "latency, sensitivity and taylor are measured on images: give --data (or, for latency, --board)"
        )
    destination = output or checkpoint.with_name(f"{checkpoint.stem}-pruned.pt")
    pruned = remove_channels(
        load_model(checkpoint), settings, input_size, bench=None if data is None else Bench(data)
    )
    with explained_disk_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        save_model(pruned.model, destination)
    console.print(f"{pruned.summary()}; written: {destination}", soft_wrap=True)


@app.command(epilog="Example: yolo-compress distill pruned.pt --teacher best.pt recipe.yaml -o runs/mine")
def distill(
    student: Annotated[Path, typer.Argument(help="The detector to train, an Ultralytics .pt.")],
    recipe: RecipeFile,
    teacher: Annotated[Path, typer.Option(help="The detector to learn from, an Ultralytics .pt.")],
    overrides: Overrides = None,
    sets: Sets = None,
    output: Output = None,
) -> None:
    """Train a checkpoint under a teacher (section `distill`)."""
    _stage(_load(recipe, overrides, sets, output), "distilled", [student, teacher])


@app.command(epilog="Example: yolo-compress compare config/compress/compare_scenes.yaml seeds=[0]")
def compare(
    recipe: Annotated[Path, typer.Argument(help="The comparison, a YAML file with `arms:`.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes to the comparison, or to its base recipe: key=value.", metavar="KEY=VALUE"
        ),
    ] = None,
    sets: Sets = None,
    output: Output = None,
    arm: Annotated[str | None, typer.Option(help="Do this arm alone.")] = None,
    seed: Annotated[int | None, typer.Option(help="Do this seed alone.")] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Show what is there already; train nothing.")
    ] = False,
) -> None:
    """Train several ways to a detector at one budget of epochs, and say which is worth it."""
    from yolo_compress.config.loading import load_comparison

    arms = load_comparison(recipe, _changes(overrides, sets, output))
    folder = arms.base.output
    with _interruptible(folder):
        from yolo_compress import compare as comparison
        from yolo_compress.report.content import write_report

        if collect:
            result = comparison.collect(arms)
        else:
            result = comparison.run_comparison(arms, console, arm=arm, seed=seed)
        page = None if collect else write_report(folder)
    console.print(result.table())
    for sentence in result.sentences():
        console.print(f"- {sentence}")
    if page is not None:
        console.print(f"table: {folder / comparison.MARKDOWN}   report: {page}", soft_wrap=True)


@app.command(epilog="Example: yolo-compress report runs/demo")
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of a comparison.")],
) -> None:
    """Write one self-contained HTML page about a run or a comparison into its folder."""
    from yolo_compress.errors import explained_disk_errors
    from yolo_compress.report.content import write_report

    with explained_disk_errors(run):
        page = write_report(run)
    console.print(f"written: {page}", soft_wrap=True)


@app.command(epilog="Example: yolo-compress doctor config/compress/hit_uav.yaml")
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="A recipe to check too.")] = None,
    overrides: Overrides = None,
    classes: Classes = None,
) -> None:
    """Check this machine, and a recipe, before hours of training; exit code 1 where a run would fail."""
    from yolo_compress.doctor import examine

    failed = False
    colors = {"OK": "green", "WARN": "yellow", "FAIL": "red"}
    for finding in examine(recipe, tuple(overrides or ()), classes):
        failed |= finding.status == "FAIL"
        console.print(f"{finding.status:4}", style=colors[finding.status], end="  ")
        console.print(finding.what, markup=False, soft_wrap=True)
        if finding.remedy:
            console.print(f"      -> {finding.remedy}", markup=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command(
    epilog="Example: yolo-compress export best.pt --precision fp16 --precision int8 --data VisDrone.yaml"
)
def export(
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
    from yolo_compress.export.deliver import deliver

    lists = {"precision": precision, "verify": verify}
    given = [f"{name}=[{', '.join(values)}]" for name, values in lists.items() if values]
    given += [f"head={head}"] if head else []
    settings = load_section(Export, [*(overrides or []), *given], "the export")
    destination = output or checkpoint.with_suffix(".onnx")
    if destination.suffix != ".onnx":
        raise UserError(f"--output {destination} is no .onnx file")
    with explained_disk_errors(destination.parent):
        delivered = deliver(
            checkpoint,
            destination,
            settings,
            input_size=input_size,
            data=data,
            split=split,
            tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        )
    for one in delivered:
        console.print(f"written: {one.path}", soft_wrap=True)


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


data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(data_app, name="data")


@data_app.callback()
def _describe_data() -> None:
    """Convert data sets."""


@data_app.command(epilog="Example: yolo-compress data visdrone VisDrone2019-DET visdrone")
def visdrone(
    source: Annotated[
        Path,
        typer.Argument(
            help="VisDrone-DET as downloaded: images/ and annotations/, or folders that hold them."
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="Folder to write; images are linked, not copied.")],
) -> None:
    """Lay VisDrone-DET out for good as a data set with YOLO labels; a run takes it as downloaded, too."""
    from rich.progress import Progress

    from aerial_scenes.dataset import convert_visdrone
    from yolo_compress.errors import explained_disk_errors

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("images", total=None)
        try:
            with explained_disk_errors(destination):
                written = convert_visdrone(
                    source,
                    destination,
                    progress=lambda done, total: progress.update(task, completed=done, total=total),
                )
        except (FileNotFoundError, ValueError) as error:
            raise UserError(str(error)) from error
    console.print(f"written: {written}", soft_wrap=True, markup=False)


def main() -> None:
    """Run the command line; errors of the user's making end in one message and exit code 1."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
