"""The command ``yolo-compress``."""

from __future__ import annotations

import sys

from rich.console import Console

# isort: off
# In the order in which --help lists their commands.
from yolo_compress.cli import runs, stages, models, reports, data  # noqa: F401
# isort: on

from yolo_compress.cli.app import app
from yolo_compress.errors import UserError

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors of the user's making end in one message and exit code 1."""
    try:
        app()
    except UserError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {error}", markup=False)
        sys.exit(1)
