"""The command line's frame: the application, the arguments that several commands have, what they all do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from yolo_compress.errors import explained_disk_errors

if TYPE_CHECKING:
    from yolo_compress.config.sections import Recipe

# Everything that needs torch is imported by the command that uses it: --help answers at once, and the
# processes that measure latency, which import the parent's main module, stay small.


app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)

# No markup, no :names: of emoji: paths and names of classes hold brackets and colons.
console = Console(highlight=False, markup=False, emoji=False)

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


def changes_of(overrides: list[str] | None, sets: list[str] | None, output: Path | None) -> list[str]:
    """Return the changes to a recipe that a command line asks for."""
    return [*(overrides or []), *(sets or []), *([f"output={output}"] if output else [])]


def load(recipe: Path, overrides: list[str] | None, sets: list[str] | None, output: Path | None) -> Recipe:
    """Load a recipe with the changes that a command line asks for."""
    from yolo_compress.config.loading import load_recipe

    return load_recipe(recipe, changes_of(overrides, sets, output))


@contextlib.contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn Ctrl-C, and what the disk does, into a sentence about what is kept and how to go on."""
    try:
        with explained_disk_errors(folder):
            yield
    except KeyboardInterrupt:
        console.print(
            f"\ninterrupted; finished stages and the last whole epoch are kept in {folder}, "
            "the same command goes on from there",
            soft_wrap=True,
        )
        raise typer.Exit(130) from None
