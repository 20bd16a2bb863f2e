"""One stage at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo_compress.cli.app import Output, Overrides, RecipeFile, Sets, app, console, interruptible, load
from yolo_compress.errors import UserError

if TYPE_CHECKING:
    from yolo_compress.config.sections import Recipe


def do_stage(loaded: Recipe, name: str, checkpoints: list[Path]) -> None:
    """Do one stage of a recipe on given checkpoints."""
    with interruptible(loaded.output):
        from yolo_compress.run.recipe import run_stage
        from yolo_compress.run.record import CHECKPOINT

        folder = run_stage(loaded, name, checkpoints, console)
    console.print(f"written: {folder / CHECKPOINT}", soft_wrap=True)


@app.command(
    "train", epilog="Example: yolo-compress train config/compress/scenes.yaml teacher.train.epochs=20"
)
def train_command(
    recipe: RecipeFile, overrides: Overrides = None, sets: Sets = None, output: Output = None
) -> None:
    """Train the dense detector of a recipe's section `teacher`: the first stage alone."""
    do_stage(load(recipe, overrides, sets, output), "dense", [])


@app.command(
    "sparsify",
    epilog="Example: yolo-compress sparsify models/demo_parent.pt demo -o runs/mine",
)
def sparsify_command(
    checkpoint: Annotated[Path, typer.Argument(help="The detector to train on, an Ultralytics .pt.")],
    recipe: RecipeFile,
    overrides: Overrides = None,
    sets: Sets = None,
    output: Output = None,
) -> None:
    """Train a checkpoint with a penalty on the channels that pruning can remove (section `sparsify`)."""
    do_stage(load(recipe, overrides, sets, output), "sparse", [checkpoint])


@app.command("prune", epilog="Example: yolo-compress prune models/demo_parent.pt --macs 0.33 -o pruned.pt")
def prune_command(
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
    """Remove channels from a checkpoint; the result opens in any Ultralytics. Fine-tune it by `distill`.

    By importance lamp over the whole network unless KEY=VALUE says otherwise.
    """
    from yolo_compress.checkpoints import load_model, save_model
    from yolo_compress.config.loading import load_section
    from yolo_compress.config.techniques import Prune
    from yolo_compress.errors import explained_disk_errors
    from yolo_compress.pruning.pruner import Bench
    from yolo_compress.pruning.pruner import prune as remove_channels

    targets = {"params": params, "macs": macs, "latency": latency}
    given = [f"target.{name}={share}" for name, share in targets.items() if share is not None]
    given += [f"board={board}"] if board else []
    # What the shipped recipes do, unless told otherwise; a share of each layer leaves nothing to rank.
    uniform = any(override.startswith("target.channels") for override in overrides or ())
    best = ["importance=lamp"] + ([] if uniform else ["scope=global"])
    settings = load_section(Prune, [*best, *(overrides or []), *given], "the pruning")
    if settings.board and settings.target.latency is None:
        raise UserError("--board times models: say what share of the time to keep, as in --latency 0.6")
    measures = settings.sensitivity or settings.importance == "taylor"
    if data is None and (measures or (settings.target.latency is not None and not settings.board)):
        raise UserError(
            "latency, sensitivity and taylor are measured on images: give --data (or, for latency, --board)"
        )
    destination = output or checkpoint.with_name(f"{checkpoint.stem}-pruned.pt")
    with explained_disk_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)  # to know now that it can be made
        pruned = remove_channels(
            load_model(checkpoint), settings, input_size, bench=None if data is None else Bench(data)
        )
        save_model(pruned.model, destination)
    console.print(f"{pruned.summary()}; written: {destination}", soft_wrap=True)


@app.command(
    "distill",
    epilog="Example: yolo-compress prune models/demo_parent.pt --macs 0.33 -o pruned.pt && "
    "yolo-compress distill pruned.pt --teacher models/demo_parent.pt demo -o runs/mine",
)
def distill_command(
    student: Annotated[Path, typer.Argument(help="The detector to train, an Ultralytics .pt.")],
    recipe: RecipeFile,
    teacher: Annotated[Path, typer.Option(help="The detector to learn from, an Ultralytics .pt.")],
    overrides: Overrides = None,
    sets: Sets = None,
    output: Output = None,
) -> None:
    """Train a checkpoint under a teacher (section `distill`)."""
    do_stage(load(recipe, overrides, sets, output), "distilled", [student, teacher])
