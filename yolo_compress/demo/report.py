"""The demo's page: what each model is, what it saw, how it flew."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_compress.data.labelled import read_image
from yolo_compress.demo.replay import FlownModel
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.report.page import PagePart, Rows, class_legend, photo, write_page
from yolo_compress.run.record import percent


def flight_against_table(
    images: tuple[Accuracy, Accuracy], flown: tuple[Accuracy, Accuracy], name: str = "compressed"
) -> str:
    """Say what the flight says, where that points the other way than the images; otherwise nothing.

    Args:
        images: of the dense and the compressed model on single images.
        flown: of the same two, of what was published in flight.
        name: of the second.
    """
    on_images, in_flight = ((second.ap50 or 0.0) - (first.ap50 or 0.0) for first, second in (images, flown))
    if on_images * in_flight >= 0:
        return ""
    better = "ahead" if in_flight > 0 else "behind"
    return (
        f" In the flight below it is the other way round, and the {name} model is {better}: AP50 of what was "
        f"published {percent(flown[1].ap50)} against {percent(flown[0].ap50)}."
    )


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


def write_demo_report(
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
    onward: PagePart | None,
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
        onward: what to look at and type next; None where nothing follows.
        seconds: how long all of it took.
    """
    seen = photo(read_image(sheet), "The same frames with the ground truth and with each model's boxes")
    write_page(
        path,
        title=title,
        lead=summary,
        parts=[
            PagePart("Models", table=stages),
            PagePart("What was seen", legend=class_legend(names), pictures=[seen], note=sheet_note),
            PagePart(
                "The flight",
                table=flights,
                pictures=[photo(read_image(ages), "Frame age over the time of the flight")],
            ),
            *([onward] if onward else []),
            PagePart("How it was made", code=command, note=f"in {seconds / 60:.1f} minutes"),
        ],
    )
