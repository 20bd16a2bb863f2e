"""The command ``yolo-compress``."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

# isort: off
# In the order in which --help lists their commands.
from yolo_compress.cli import runs, stages, models, reports, data  # noqa: F401
# isort: on

from yolo_compress.cli.app import app
from yolo_compress.errors import UserError, explained_disk_errors

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line; errors of the user's making end in one message and exit code 1."""
    try:
        with explained_disk_errors(Path.cwd()):
            app()
    except UserError as error:
        errors = Console(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
        errors.print(f"error: {error}")
        sys.exit(1)
