"""Whole runs: a recipe, a checkpoint without one, several ways to a detector."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yolo_compress.cli.app import (
    Output,
    Overrides,
    RecipeFile,
    Sets,
    app,
    changes_of,
    console,
    interruptible,
    load,
)
from yolo_compress.errors import UserError, explained_disk_errors

if TYPE_CHECKING:
    from yolo_compress.config.sections import Recipe
    from yolo_compress.run.recipe import RunResult


@app.command("run", epilog="Example: yolo-compress run config/compress/demo.yaml distill.train.epochs=20")
def run_command(
    recipe: RecipeFile, overrides: Overrides = None, sets: Sets = None, output: Output = None
) -> None:
    """Do all stages of a recipe; what is done already is skipped, what was interrupted goes on."""
    do_run(load(recipe, overrides, sets, output))


def do_run(loaded: Recipe) -> RunResult:
    """Do a recipe, show its table and name its files."""
    with interruptible(loaded.output):
        from yolo_compress.report.content import write_report
        from yolo_compress.run.recipe import run_recipe

        result = run_recipe(loaded, console)
        page = write_report(loaded.output)
    console.print(result.table())
    console.print(f"compressed model: {result.onnx}", soft_wrap=True)
    console.print(f"report: {page}", soft_wrap=True)
    return result


@app.command(
    "compress",
    epilog="Example: yolo-compress data scenes scenes && yolo-compress compress models/demo_parent.pt "
    "--data scenes/data.yaml --macs 0.33 --epochs 16",
)
def compress_command(
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
    from yolo_compress.checkpoints import load_model
    from yolo_compress.config.loading import load_recipe
    from yolo_compress.doctor import examine
    from yolo_compress.export.export import trained_size

    shares = {"macs": macs, "params": params, "latency": latency, "like": like}
    if sum(share is not None for share in shares.values()) != 1:
        raise UserError("say how small: one of --macs, --params, --latency and --like, as in --macs 0.33")
    if like is not None:
        size = input_size or trained_size(load_model(checkpoint))
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
        with explained_disk_errors(save_recipe.parent):
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
    result = do_run(loaded)
    console.print(
        f"fly it: ros2 launch yolo_trt_node detect.launch.py model:={result.onnx.resolve()}", soft_wrap=True
    )


@app.command("compare", epilog="Example: yolo-compress compare config/compress/compare_scenes.yaml seeds=[0]")
def compare_command(
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
    ray: Annotated[
        str | None,
        typer.Option(
            help="Train on a Ray cluster whose workers see the same files: its address, auto, or local.",
            metavar="ADDRESS",
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(help="With --ray: GPUs a stage takes; by default 1, none where the device is cpu."),
    ] = None,
    time: Annotated[
        bool, typer.Option("--time", help="With --collect: time the models that are there.")
    ] = False,
    keep: Annotated[
        bool,
        typer.Option("--keep", help="With --collect: write records, tables and pictures into `records:`."),
    ] = False,
    ready: Annotated[
        Path | None,
        typer.Option(
            help="With --collect and --arm: a folder of models; the arm's is exported into it as fp16 and "
            "listed in its README.md.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option(help="With --keep: a Markdown page whose section of this comparison is written anew."),
    ] = None,
) -> None:
    """Train several ways to a detector at one budget of epochs, and say which is worth it."""
    from yolo_compress.config.loading import load_comparison

    arms = load_comparison(recipe, changes_of(overrides, sets, output))
    folder = arms.base.output
    with interruptible(folder):
        from yolo_compress import compare as comparison
        from yolo_compress.report.content import write_report

        if ray is not None:
            if collect or arm is not None or seed is not None:
                raise UserError("--ray does all arms and seeds: leave out --arm, --seed and --collect")
            from yolo_compress.cluster import train_on_ray

            train_on_ray(arms, console, ray, gpus)
        if collect:
            if time:
                comparison.measure_times(arms, console)
            result = comparison.collect(arms, console)
            if ready is not None:
                chosen = arms.comparison.seeds[0] if seed is None else seed
                made = comparison.make_arm_ready(arms, arm or arms.comparison.ratio_to, chosen, ready)
                console.print(f"ready to fly: {made}", soft_wrap=True)
            if keep:
                kept = comparison.keep(arms, result, page)
                console.print(f"kept: {kept}", soft_wrap=True)
        else:
            result = comparison.run_comparison(arms, console, arm=arm, seed=seed)
        html = None if collect else write_report(folder)
    for table in result.tables():
        console.print(table)
    for sentence in result.sentences():
        console.print(f"- {sentence}")
    if html is not None:
        console.print(f"table: {folder / comparison.MARKDOWN}   report: {html}", soft_wrap=True)
