"""What a run came to, and whether one would succeed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from yolo_compress.cli.app import Classes, Overrides, app, console


@app.command("report", epilog="Example: yolo-compress run demo && yolo-compress report runs/demo")
def report_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run or of a comparison.")],
) -> None:
    """Write one self-contained HTML page about a run or a comparison into its folder."""
    from yolo_compress.errors import explained_disk_errors
    from yolo_compress.report.content import write_report

    with explained_disk_errors(run):
        page = write_report(run)
    console.print(f"written: {page}", soft_wrap=True)


@app.command("doctor", epilog="Example: yolo-compress doctor config/compress/demo.yaml")
def doctor_command(
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
