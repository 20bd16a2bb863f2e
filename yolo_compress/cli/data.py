"""Data sets that are converted for good."""

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
    """Convert data sets."""


@data_app.command("visdrone", epilog="Example: yolo-compress data visdrone VisDrone2019-DET visdrone")
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
