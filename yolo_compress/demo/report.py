"""The demo's report: one HTML page that needs no other file."""

from __future__ import annotations

import base64
import datetime
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from yolo_trt_node.drawing import class_colour

from yolo_compress.demo.pictures import small_jpeg
from yolo_compress.demo.replay import FlownModel
from yolo_compress.evaluation import Accuracy
from yolo_compress.export import versions


@dataclass(frozen=True)
class Rows:
    """A table and the sentence below it."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


def flight_table(flown: Sequence[FlownModel], accuracy: Sequence[Accuracy], note: str) -> Rows:
    """One row a model: answers, drops, ages, and the AP50 of what was published."""
    return Rows(
        ("model", "frames", "answered", "dropped", "age median", "age p95", "AP50 as published"),
        [
            (
                model.name,
                str(model.frames),
                str(len(model.found)),
                str(model.dropped),
                f"{model.age_ms(0.5):.0f} ms",
                f"{model.age_ms(0.95):.0f} ms",
                percent(scored.ap50),
            )
            for model, scored in zip(flown, accuracy, strict=True)
        ],
        note,
    )


def percent(value: float | None) -> str:
    """Render a share as per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    stages: Rows,
    flights: Rows,
    names: Sequence[str],
    sheet: Path,
    sheet_note: str,
    ages: Path,
    command: str,
    seconds: float,
) -> None:
    """Write the page, with its pictures inside.

    Args:
        path: the HTML file to write.
        title: of the page.
        summary: the result in a sentence or two.
        stages: what each model is and how well it does on single images.
        flights: what each model answered in flight.
        names: class names, for the legend.
        sheet: picture of the same frames as each model saw them.
        sheet_note: which frames they are.
        ages: picture of the frame ages.
        command: what was typed.
        seconds: how long all of it took.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."), undefined=StrictUndefined, autoescape=True
    )
    page = environment.get_template("report.html.j2").render(
        title=title,
        summary=summary,
        stages=stages,
        flights=flights,
        legend=[(name, _css(class_colour(index))) for index, name in enumerate(names)],
        sheet=base64.b64encode(small_jpeg(sheet)).decode(),
        sheet_note=sheet_note,
        ages=base64.b64encode(small_jpeg(ages)).decode(),
        command=command,
        minutes=f"{seconds / 60:.1f} minutes",
        machine=f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
        date=datetime.date.today().isoformat(),
        versions=", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    path.write_text(page, encoding="utf-8")


def _css(bgr: tuple[int, int, int]) -> str:
    blue, green, red = bgr
    return f"rgb({red},{green},{blue})"


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
