"""Data sets that are generated, or converted for good."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_compress.cli.app import app, console
from yolo_compress.errors import UserError

data_app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(data_app, name="data")


@data_app.callback()
def _describe_data() -> None:
    """Generate and convert data sets."""


@data_app.command("scenes", epilog="Example: yolo-compress data scenes scenes --train 64 --val 16 --seed 7")
def scenes_command(
    destination: Annotated[Path, typer.Argument(help="Folder to write.")],
    recipe: Annotated[
        Path, typer.Option(help="The recipe whose camera they are seen by (its section data.scenes).")
    ] = Path("demo"),
    train: Annotated[int | None, typer.Option(help="Images to train on; by default the recipe's.")] = None,
    val: Annotated[int | None, typer.Option(help="Images to measure on; by default the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Other streets; by default the recipe's.")] = None,
) -> None:
    """Generate aerial scenes as a data set with VisDrone's classes: to try things on without data."""
    from yolo_compress.config.loading import load_recipe
    from yolo_compress.data.source import generate_scenes

    given = {"train": train, "val": val, "seed": seed}
    loaded = load_recipe(recipe, [f"data.scenes.{k}={v}" for k, v in given.items() if v is not None])
    if loaded.data.scenes is None:
        raise UserError(f"{recipe} generates no scenes; name a recipe that does, such as demo")
    written = generate_scenes(loaded.data.scenes, loaded.threads, destination, console)
    console.print(f"written: {written}", soft_wrap=True)


@data_app.command(
    "visdrone",
    epilog="Example, where VisDrone was unpacked: yolo-compress data visdrone VisDrone2019-DET visdrone",
)
def visdrone_command(
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
