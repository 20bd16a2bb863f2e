"""What the figures of a comparison say: tables, differences with their intervals, and sentences.

Chance has two sources in a difference of two arms. The seeds: how much it varies from training to training.
The images: how much it would vary with other images of the same kind, by a paired bootstrap: both arms
see the same resampled images. The two are joined, so that one seed's difference has an interval too.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.table import Table

from yolo_compress.config.loading import Arms
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.measure.latency import Latency
from yolo_compress.measure.matches import Matches, resamples
from yolo_compress.run.record import percent

# The model that the arms learn from; shown beside them, at its own number of epochs.
TEACHER = "teacher"
# A difference counts when it is larger than so many of its standard errors: the interval is of 95 %.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True, eq=False)
class Row:
    """What one arm came to.

    Attributes:
        name: of the arm.
        kind: dense, pruned or student: how it came to its size.
        epochs: on the way to its weights.
        params: number of parameters, of the first seed's model.
        gmacs: multiply-accumulates in billions at the arm's input size, of the same.
        accuracy: of each seed's model that is there, by seed.
        latency: of the first seed's model beside the arm `ratio_to`; None where not all arms are there yet.
        matches: what each seed's model got right in each image, where that was kept.
        left_out: names of classes outside of AP50.
        stages: of each seed what the records of the stages on the way say, as `records.way` returns it.
    """

    name: str
    kind: str
    epochs: int
    params: int
    gmacs: float
    accuracy: dict[int, Accuracy]
    latency: Latency | None
    matches: dict[int, Matches] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    stages: dict[int, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def channels(self) -> dict[str, tuple[int, int]]:
        """Each layer's channels before and after the first seed's pruning; empty for what is not pruned."""
        told = next(iter(self.stages.values()), [])
        return {
            entry["layer"]: (entry["before"], entry["after"])
            for stage in told
            for entry in stage.get("channels", ())
        }

    def mean(self, figure: str) -> float | None:
        """Return the mean over the seeds of one of `Accuracy`'s figures; None where the data has none."""
        values = [getattr(accuracy, figure) for accuracy in self.accuracy.values()]
        return None if None in values else statistics.fmean(values)

    def ap50_of(self, seed: int) -> float:
        """Return a seed's AP50 over the classes that count, 0 to 1.

        Raises:
            UserError: the images measured on hold no object of them.
        """
        accuracy = self.accuracy[seed]
        if self.left_out:
            values = [
                c.ap50 for c in accuracy.per_class if c.name not in self.left_out and c.ap50 is not None
            ]
            value = statistics.fmean(values) if values else None
        else:
            value = accuracy.ap50
        if value is None:
            raise UserError("the images measured on hold no object: no AP50 can be compared")
        return value

    def mean_ap50(self) -> float:
        """Return the mean of `ap50_of` over the seeds."""
        return statistics.fmean(self.ap50_of(seed) for seed in self.accuracy)

    def spread(self) -> float | None:
        """Return the standard deviation of AP50 over the seeds; None for fewer than two."""
        values = [self.ap50_of(seed) for seed in self.accuracy]
        return statistics.stdev(values) if len(values) > 1 else None

    def ap50(self) -> str:
        """Render AP50 with its spread, in per cent."""
        spread = self.spread()
        return percent(self.mean_ap50()) + ("" if spread is None else f" ± {100 * spread:.1f}")

    def class_ap50(self, index: int) -> float | None:
        """Return the mean over the seeds of one class's AP50."""
        values = [accuracy.per_class[index].ap50 for accuracy in self.accuracy.values()]
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if len(known) == len(values) else None

    def part_ap50(self, images: Sequence[int]) -> float | None:
        """Return the mean over the seeds of AP50 on some of the images; None where a seed's are not kept."""
        if self.accuracy.keys() != self.matches.keys():
            return None
        values = [float(self.bootstrap(seed, tuple(images))[0]) for seed in self.accuracy]
        return None if any(math.isnan(value) for value in values) else statistics.fmean(values)

    def bootstrap(self, seed: int, images: tuple[int, ...] | None = None) -> NDArray[np.float64]:
        """Return AP50 on the images, or some of them, as they are and then resampled: 1 + draws values."""
        known = self._bootstraps
        if (seed, images) not in known:
            matches = self.matches[seed] if images is None else self.matches[seed].only(images)
            classes = [
                index
                for index, entry in enumerate(self.accuracy[seed].per_class)
                if entry.name not in self.left_out
            ]
            counts = np.concatenate([np.ones((1, matches.images), np.float32), resamples(matches.images)])
            known[seed, images] = matches.ap50(counts, classes)
        return known[seed, images]

    @functools.cached_property
    def _bootstraps(self) -> dict[tuple[int, tuple[int, ...] | None], NDArray[np.float64]]:
        return {}


@dataclass(frozen=True)
class Difference:
    """How much better one arm is than another.

    Attributes:
        mean: of AP50 over the seeds that both have, 0 to 1.
        error: standard error of that mean, over seeds and images; None where neither tells.
        seeds: how many.
        images: number of images that were resampled; 0 where the error is over the seeds alone.
    """

    mean: float
    error: float | None
    seeds: int
    images: int = 0

    @property
    def counts(self) -> bool:
        """Whether seeds and images tell that there is a difference at all: the interval is without 0."""
        return self.error is not None and abs(self.mean) > STANDARD_ERRORS * self.error

    def interval(self) -> str:
        """Render the interval, in points; nothing where there is none."""
        if self.error is None:
            return ""
        low, high = (100 * (self.mean + sign * STANDARD_ERRORS * self.error) for sign in (-1, 1))
        return f"[{low:+.1f}, {high:+.1f}]"

    def __str__(self) -> str:
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        images = f", {self.images} images" if self.images else ""
        return (
            f"AP50 {' '.join([f'{100 * self.mean:+.1f}', self.interval()]).strip()} points, {seeds}{images}"
        )


def difference(one: Row, other: Row, images: Sequence[int] | None = None) -> Difference:
    """Compare two arms seed by seed, on the same images: what a seed or an image does to both cancels out.

    Args:
        one: of the arms.
        other: that it is compared with.
        images: the images to compare on, by number; all if not given.

    Raises:
        ValueError: no seed is there for both, or some images are asked for and their results were not kept.
    """
    seeds = sorted(one.accuracy.keys() & other.accuracy.keys())
    if not seeds:
        raise ValueError(f"{one.name} and {other.name} have no seed in common")
    chosen = None if images is None else tuple(images)
    resampled = all(seed in row.matches for row in (one, other) for seed in seeds)
    if chosen is not None and not resampled:
        raise ValueError(f"of {one.name} and {other.name} it was not kept what they found in each image")
    errors = []
    if resampled:
        draws = np.stack([one.bootstrap(seed, chosen) - other.bootstrap(seed, chosen) for seed in seeds])
        gaps = [float(gap) for gap in draws[:, 0]]
        errors.append(float(np.nanstd(draws[:, 1:].mean(axis=0), ddof=1)))
    else:
        gaps = [one.ap50_of(seed) - other.ap50_of(seed) for seed in seeds]
    if len(gaps) > 1:
        errors.append(statistics.stdev(gaps) / math.sqrt(len(gaps)))
    number = one.matches[seeds[0]].images if resampled and chosen is None else len(chosen or ())
    return Difference(statistics.fmean(gaps), math.hypot(*errors) if errors else None, len(gaps), number)


def verdict(one: Row, other: Row, parts: Mapping[str, Sequence[int]] | None = None) -> str:
    """Say which of two arms is better, or that the figures do not tell; then on which parts of the images."""
    if not one.accuracy.keys() & other.accuracy.keys():
        return f"{one.name} and {other.name} have no seed in common yet."
    gap = difference(one, other)
    if gap.counts:
        said = f"{one.name} is {'better' if gap.mean > 0 else 'worse'} than {other.name} ({gap})."
    else:
        said = f"{one.name} and {other.name} cannot be told apart ({gap})."
    seeds = one.accuracy.keys() & other.accuracy.keys()
    if parts and all(seed in row.matches for row in (one, other) for seed in seeds):
        gaps = {name: difference(one, other, images) for name, images in parts.items()}
        each = ", ".join(f"{name} {100 * gap.mean:+.1f} {gap.interval()}" for name, gap in gaps.items())
        lost = [name for name, gap in gaps.items() if gap.mean < 0]
        said += f" By part: {each}; behind on {', '.join(lost) if lost else 'none'}."
    return said


def stock_sentence(ours: Row, stock: Row) -> str:
    """Say whether somebody would better take the smaller stock model than the best compressed one."""
    cost = (
        f"{ours.name} costs {ours.gmacs / stock.gmacs:.2f} times the multiply-accumulates and "
        f"{ours.params / stock.params:.2f} times the parameters of {stock.name}"
    )
    if not ours.accuracy.keys() & stock.accuracy.keys():
        return f"{ours.name} and the smaller stock model {stock.name} have no seed in common yet; {cost}."
    gap = difference(ours, stock)
    if not gap.counts:
        cheaper = stock.name if stock.gmacs <= ours.gmacs else ours.name
        return (
            f"The smaller stock model {stock.name} and the best compressed one, {ours.name}, cannot be told "
            f"apart in accuracy ({gap}); {cost}: take {cheaper}, the cheaper."
        )
    if gap.mean < 0:
        return (
            f"The smaller stock model wins: {stock.name} is more accurate than the best compressed one, "
            f"{ours.name} ({gap}); {cost}."
        )
    return (
        f"The smaller stock model does not win: the best compressed one, {ours.name}, is more accurate than "
        f"{stock.name} ({gap}); {cost}."
    )


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison came to, or came to so far.

    Attributes:
        arms: the comparison and its recipes.
        rows: of the arms that are there, for at least one seed.
        missing: arms and seeds that are not.
        images: number of images measured on.
        parts: names of parts of these, and which images each holds.
    """

    arms: Arms
    rows: tuple[Row, ...]
    missing: tuple[tuple[str, int], ...]
    images: int
    parts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def header(self) -> tuple[str, ...]:
        """Column titles of `cells`."""
        size = self.arms.base.input_size
        return ("arm", "epochs", "params", f"GMACs@{size}", "AP50", "AP", "APs", "APm", "latency ratio")

    def cells(self) -> list[tuple[str, ...]]:
        """Render one row an arm."""
        return [
            (
                row.name,
                str(row.epochs),
                f"{row.params / 1e6:.3f} M",
                f"{row.gmacs:.3f}",
                row.ap50(),
                *(percent(row.mean(figure)) for figure in ("ap", "ap_small", "ap_medium")),
                "-" if row.latency is None else f"{row.latency.ratio:.2f}",
            )
            for row in self.rows
        ]

    @property
    def detail_header(self) -> tuple[str, ...]:
        """Column titles of `details`."""
        classes = self.rows[0].accuracy[next(iter(self.rows[0].accuracy))].per_class
        out = self.arms.comparison.left_out
        names = [f"({entry.name})" if entry.name in out else entry.name for entry in classes]
        return ("arm", *names, *self.parts)

    def details(self) -> list[tuple[str, ...]]:
        """Render each arm's AP50 of each class, and on each part of the images."""
        classes = len(self.rows[0].accuracy[next(iter(self.rows[0].accuracy))].per_class)
        return [
            (
                row.name,
                *(percent(row.class_ap50(index)) for index in range(classes)),
                *(percent(row.part_ap50(images)) for images in self.parts.values()),
            )
            for row in self.rows
        ]

    def protocol(self) -> str:
        """Say in a sentence or two what was measured how."""
        base, comparison = self.arms.base, self.arms.comparison
        seeds = ", ".join(map(str, comparison.seeds))
        epochs = next(iter(self.arms.recipes.values())).epochs
        without = f" without {', '.join(comparison.left_out)}" if comparison.left_out else ""
        return (
            f"{epochs} epochs on the way to each arm's weights; seeds {seeds}; {self.images} images of the "
            f"split {base.evaluate.split!r}, input {base.input_size}; AP50{without} is mean ± standard "
            f"deviation over the seeds, latency image in to boxes out beside {comparison.ratio_to}'s in the "
            "same rounds. Intervals are of 95 %, over the seeds and over resampled images."
        )

    def tables(self) -> list[Table]:
        """Render one row an arm, for a terminal: the figures, then classes and parts."""
        tables = []
        for header, rows, caption in (
            (self.header, self.cells(), self.protocol()),
            (self.detail_header, self.details(), _DETAILS),
        ):
            table = Table(caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
            for index, title in enumerate(header):
                table.add_column(
                    title.replace("latency ", ""), justify="right" if index else "left", overflow="fold"
                )
            for cells in rows:
                table.add_row(*cells)
            tables.append(table)
        return tables

    def markdown(self, pictures: Mapping[str, str] | None = None) -> str:
        """Render what the figures say, the tables, and how they came about as a section of Markdown.

        Args:
            pictures: what each shows, and where it lies.
        """
        lines = [*(f"- {sentence}" for sentence in self.sentences()), ""]
        lines += [*_markdown(self.header, self.cells()), "", self.protocol(), ""]
        for what, place in (pictures or {}).items():
            lines += [f"![{what}]({place})", ""]
        lines += [*_markdown(self.detail_header, self.details()), "", _DETAILS, "", *self.made()]
        return "\n".join(lines) + "\n"

    def made(self) -> list[str]:
        """Say by which commands, when and with which versions the figures came about, in lines."""
        last = [stages[-1] for row in self.rows for stages in row.stages.values() if stages]
        commands = {stage["command"]: stage["finished"][:16].replace("T", " ") for stage in last}
        lines = ["```text", *(f"{date}  {command}" for command, date in commands.items()), "```", ""]
        used = dict.fromkeys(", ".join(map(" ".join, stage["versions"].items())) for stage in last)
        return [*lines, *(f"{text}." for text in used)] if last else []

    def sentences(self) -> list[str]:
        """Say what the figures say: first how the smaller stock models fare, then each verdict asked for."""
        rows = {row.name: row for row in self.rows}
        compressed = [row for row in self.rows if row.kind == "pruned"]
        reference = rows.get(self.arms.comparison.ratio_to)
        stock = [
            row
            for row in self.rows
            if row.kind == "dense" and reference and row.gmacs < reference.gmacs and row.name != TEACHER
        ]
        said = []
        if compressed:
            best = max(compressed, key=lambda row: row.mean_ap50())
            said += [stock_sentence(best, row) for row in stock]
        said += [
            verdict(rows[one], rows[other], self.parts)
            for one, other in self.arms.comparison.verdicts
            if one in rows and other in rows
        ]
        if self.missing:
            said.append(
                "Not there yet: " + ", ".join(f"{name} (seed {seed})" for name, seed in self.missing) + "."
            )
        return said


_DETAILS = "AP50 of each class (in brackets: outside of the verdicts), and on each part of the images."


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "---:|" * (len(header) - 1)]
    return lines + ["| " + " | ".join(cells) + " |" for cells in rows]
