"""A page: a title, a sentence, and parts of tables, pictures and notes."""

from __future__ import annotations

import base64
import datetime
import io
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from yolo_trt_node.drawing import class_color

from yolo_compress import files
from yolo_compress.versions import versions

# Wide enough for a box around a small car, and no wider: every picture is inside the page.
PHOTO_PX = 1920


@dataclass(frozen=True)
class Rows:
    """A table and the sentence below it.

    Attributes:
        header: column titles.
        rows: cells, the first of each row its name.
        note: what the figures are.
        text_column: index of a column of running text; None where all are figures.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    text_column: int | None = None


@dataclass(frozen=True)
class PagePicture:
    """A picture inside the page: what it shows, its data URI, and whether it is a photograph."""

    alt: str
    source: str
    photo: bool = False


@dataclass(frozen=True)
class PagePart:
    """One headed part of a page; what is empty is left out.

    Attributes:
        title: heading.
        points: sentences of a list.
        table: figures.
        legend: names and CSS colours.
        pictures: one below the other.
        note: below the pictures.
        code: typed text.
        links: texts and where they lead, relative to the page.
        details: summaries and texts that open on a click.
    """

    title: str
    points: Sequence[str] = ()
    table: Rows | None = None
    legend: Sequence[tuple[str, str]] = ()
    pictures: Sequence[PagePicture] = ()
    note: str = ""
    code: str = ""
    links: Sequence[tuple[str, str]] = ()
    details: Sequence[tuple[str, str]] = ()


def write_page(path: Path, *, title: str, lead: str, parts: Sequence[PagePart]) -> None:
    """Write one HTML file that needs no other; atomically."""
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(
        title=title,
        lead=lead,
        parts=parts,
        footer=f"{processor_name()}, {datetime.date.today().isoformat()}. "
        + ", ".join(f"{name} {version}" for name, version in versions().items()),
    )
    files.write_text(path, page)


def chart(figure: Figure, alt: str) -> PagePicture:
    """Return a drawn figure as a vector picture."""
    buffer = io.BytesIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return PagePicture(alt, "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode())


def photo(image: NDArray, alt: str) -> PagePicture:
    """Return an H x W x 3 uint8 BGR image, scaled down to the page, as JPEG."""
    height, width = image.shape[:2]
    if width > PHOTO_PX:
        size = (PHOTO_PX, round(height * PHOTO_PX / width))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return PagePicture(alt, "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode(), photo=True)


def class_legend(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return each class with the CSS colour that its boxes are drawn in."""
    return [(name, class_css(index)) for index, name in enumerate(names)]


def class_css(index: int) -> str:
    """Return the colour of a class's boxes as ``#rrggbb``."""
    blue, green, red = class_color(index)
    return f"#{red:02x}{green:02x}{blue:02x}"


def processor_name() -> str:
    """Return the processor's name and the number of cores that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    available = getattr(os, "sched_getaffinity", None)
    cores = len(available(0)) if available else os.cpu_count()
    return f"{name}, {cores} cores"
