"""Several ways to a detector at one protocol and one budget of epochs: what each costs and what it is worth.

The arms of a comparison are recipes that differ in a few stages. Stages that are equal in two arms are done
once; each seed is a whole repetition, and the spread over the seeds decides which differences count.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from yolo_compress import files
from yolo_compress.config.loading import Arms
from yolo_compress.config.sections import Recipe
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.measure.latency import Latency
from yolo_compress.report.charts import Point, accuracy_cost, save
from yolo_compress.run.plan import check_devices, plan
from yolo_compress.run.recipe import claim_folder
from yolo_compress.run.record import accuracy_of, percent, read_record
from yolo_compress.run.worker import StageWorker
from yolo_compress.stages import Stage
from yolo_compress.versions import versions

DOCUMENT = "comparison.yaml"
BASE = "base.yaml"
RESULT = "comparison.json"
MARKDOWN = "comparison.md"
PLOT = "accuracy_cost"
# The model that the arms learn from; shown beside them, at its own number of epochs.
TEACHER = "teacher"
# A difference counts when it is larger than so many of its standard errors.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Row:
    """What one arm came to.

    Attributes:
        name: of the arm.
        kind: dense, pruned or student: how it came to its size.
        epochs: on the way to its weights.
        params: number of parameters, of the first seed's model.
        gmacs: multiply-accumulates in billions at the recipe's input size, of the same.
        accuracy: of each seed's model that is there, by seed.
        latency: of the first seed's model beside the arm `ratio_to`; None where not all arms are there yet.
    """

    name: str
    kind: str
    epochs: int
    params: int
    gmacs: float
    accuracy: dict[int, Accuracy]
    latency: Latency | None

    def mean(self, figure: str) -> float | None:
        """Return the mean over the seeds of one of `Accuracy`'s figures; None where the data has none."""
        values = [getattr(accuracy, figure) for accuracy in self.accuracy.values()]
        return None if None in values else statistics.fmean(values)

    def spread(self) -> float | None:
        """Return the standard deviation of AP50 over the seeds; None for fewer than two."""
        values = [_ap50(accuracy) for accuracy in self.accuracy.values()]
        return statistics.stdev(values) if len(values) > 1 else None

    def ap50(self) -> str:
        """Render AP50 with its spread, in per cent."""
        spread = self.spread()
        return percent(self.mean("ap50")) + ("" if spread is None else f" ± {100 * spread:.1f}")


@dataclass(frozen=True)
class ComparisonResult:
    """What a comparison came to, or came to so far.

    Attributes:
        arms: the comparison and its recipes.
        rows: of the arms that are there, for at least one seed.
        missing: arms and seeds that are not.
        images: number of images measured on.
    """

    arms: Arms
    rows: tuple[Row, ...]
    missing: tuple[tuple[str, int], ...]
    images: int

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

    def protocol(self) -> str:
        """Say in a sentence or two what was measured how."""
        base, comparison = self.arms.base, self.arms.comparison
        seeds = ", ".join(map(str, comparison.seeds))
        epochs = next(iter(self.arms.recipes.values())).epochs
        return (
            f"{epochs} epochs on the way to each arm's weights; seeds {seeds}; {self.images} images of the "
            f"split {base.evaluate.split!r}, input {base.input_size}; AP50 is mean ± standard deviation over "
            f"the seeds, latency image in to boxes out beside {comparison.ratio_to}'s in the same rounds."
        )

    def table(self) -> Table:
        """Render one row an arm, for a terminal."""
        table = Table(caption=self.protocol(), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for index, title in enumerate(self.header):
            table.add_column(title.replace("latency ", ""), justify="right" if index else "left")
        for cells in self.cells():
            table.add_row(*cells)
        return table

    def markdown(self) -> str:
        """Render the table and what follows from it as a section of Markdown."""
        lines = ["| " + " | ".join(self.header) + " |", "|---|" + "---:|" * (len(self.header) - 1)]
        lines += ["| " + " | ".join(cells) + " |" for cells in self.cells()]
        lines += ["", self.protocol(), ""]
        lines += [f"- {sentence}" for sentence in self.sentences()]
        lines += ["", ", ".join(f"{name} {version}" for name, version in versions().items()) + "."]
        return "\n".join(lines) + "\n"

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
            best = max(compressed, key=lambda row: row.mean("ap50") or 0.0)
            said += [stock_sentence(best, row) for row in stock]
        said += [
            verdict(rows[one], rows[other])
            for one, other in self.arms.comparison.verdicts
            if one in rows and other in rows
        ]
        if self.missing:
            said.append(
                "Not there yet: " + ", ".join(f"{name} (seed {seed})" for name, seed in self.missing) + "."
            )
        return said


@dataclass(frozen=True)
class Difference:
    """How much better one arm is than another.

    Attributes:
        mean: of AP50 over the seeds that both have, 0 to 1.
        error: standard error of that mean; None for fewer than two seeds.
        seeds: how many.
    """

    mean: float
    error: float | None
    seeds: int

    @property
    def counts(self) -> bool:
        """Whether the seeds tell that there is a difference at all."""
        return self.error is not None and abs(self.mean) > STANDARD_ERRORS * self.error

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {100 * self.error:.1f}"
        seeds = "one seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"AP50 {100 * self.mean:+.1f}{error} points, {seeds}"


def difference(one: Row, other: Row) -> Difference:
    """Compare two arms seed by seed: what a seed does to both cancels out.

    Raises:
        ValueError: no seed is there for both.
    """
    seeds = sorted(one.accuracy.keys() & other.accuracy.keys())
    if not seeds:
        raise ValueError(f"{one.name} and {other.name} have no seed in common")
    gaps = [_ap50(one.accuracy[seed]) - _ap50(other.accuracy[seed]) for seed in seeds]
    error = statistics.stdev(gaps) / math.sqrt(len(gaps)) if len(gaps) > 1 else None
    return Difference(statistics.fmean(gaps), error, len(gaps))


def verdict(one: Row, other: Row) -> str:
    """Say which of two arms is better, or that the seeds do not tell."""
    if not one.accuracy.keys() & other.accuracy.keys():
        return f"{one.name} and {other.name} have no seed in common yet."
    gap = difference(one, other)
    if not gap.counts:
        return f"{one.name} and {other.name} cannot be told apart ({gap})."
    return f"{one.name} is {'better' if gap.mean > 0 else 'worse'} than {other.name} ({gap})."


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


def run_comparison(
    arms: Arms, console: Console, *, arm: str | None = None, seed: int | None = None
) -> ComparisonResult:
    """Do every stage of every arm that is not done yet, seed by seed; measure; write what came out.

    A piece of a comparison, one arm or one seed, can be done by itself and beside others in the same folder;
    latency is measured when all is asked for.

    Leaves ``comparison.md`` (table and sentences), ``accuracy_cost.svg`` and ``.png``, and the figures as
    ``comparison.json`` in the comparison's folder.

    Raises:
        UserError: something in the recipe, the data or the models cannot be used.
    """
    output = arms.base.output
    saved = arms.comparison.model_copy(update={"base": Path(BASE), "set": {}})
    shown = _shown(arms)
    seeds = arms.comparison.seeds
    if arm is not None and arm not in shown:
        raise UserError(f"--arm {arm}: there is no such arm; the arms are {', '.join(shown)}")
    if seed is not None and seed not in seeds:
        raise UserError(f"--seed {seed}: the comparison's seeds are {', '.join(map(str, seeds))}")
    pieces = [
        (name, number)
        for number in (seeds if seed is None else (seed,))
        for name in (shown if arm is None else (arm,))
    ]
    stages = [stage for name, number in pieces for stage in plan(_seeded(shown[name], number))]
    check_devices(stages)
    claim_folder(output, DOCUMENT, saved)
    files.write_text(output / BASE, yaml.safe_dump(arms.base.model_dump(mode="json"), sort_keys=False))
    worker = StageWorker(arms.base, console, lambda stage: _folder(output, stage))
    worker.require_space(stages)
    for name, number in pieces:
        console.print(f"seed {number}, {name}", style="bold", markup=False)
        worker.measured(plan(_seeded(shown[name], number))[-1])
    folders = {name: _folder(output, plan(_seeded(r, seeds[0]))[-1]) for name, r in shown.items()}
    if arm is None and seed is None:
        _measure_latency(arms, folders, worker)
    result = collect(arms)
    _write(result, output)
    return result


def collect(arms: Arms) -> ComparisonResult:
    """Gather what is there of a comparison, without doing anything.

    Raises:
        UserError: nothing is there.
    """
    output, seeds = arms.base.output, arms.comparison.seeds
    latency = files.read_json(output / RESULT).get("latency", {})
    rows, missing = [], []
    images = 0
    for name, recipe in _shown(arms).items():
        records = {}
        for seed in seeds:
            record = read_record(_folder(output, plan(_seeded(recipe, seed))[-1]))
            if "accuracy" in record:
                records[seed] = record
            else:
                missing.append((name, seed))
        if not records:
            continue
        first = records[min(records, key=seeds.index)]
        timed = latency.get(name, {})
        accuracy = {seed: accuracy_of(record) for seed, record in records.items()}
        images = next(iter(accuracy.values())).images
        rows.append(
            Row(
                name=name,
                kind=plan(recipe)[-1].kind,
                epochs=recipe.epochs,
                params=first["params"],
                gmacs=first["gmacs"],
                accuracy=accuracy,
                latency=Latency(timed["ms"], timed["ratio"])
                if timed.get("checkpoint") == first["checkpoint_sha256"]
                else None,
            )
        )
    if not rows:
        raise UserError(f"nothing of this comparison is in {output} yet; leave out --collect to begin")
    return ComparisonResult(arms, tuple(rows), tuple(missing), images)


def _shown(arms: Arms) -> dict[str, Recipe]:
    """Return the arms, and the dense model that they start and learn from where it is none of them."""
    base = arms.base
    teacher = base.model_copy(update={key: None for key in Recipe.stage_sections() if key != "teacher"})
    if TEACHER in arms.recipes or plan(base)[-1].name == "dense":
        return arms.recipes
    return {TEACHER: teacher, **arms.recipes}


def _seeded(recipe: Recipe, seed: int) -> Recipe:
    return recipe.model_copy(update={"seed": seed})


def _folder(output: Path, stage: Stage) -> Path:
    """Name a stage's folder by what is done there: arms that agree on a stage agree on its folder."""
    return output / f"seed{stage.recipe.seed}" / f"{stage.name}-{stage.key[:8]}"


def _measure_latency(arms: Arms, folders: dict[str, Path], worker: StageWorker) -> None:
    """Time the arms' models against each other, those of the first seed, unless that is done."""
    path = arms.base.output / RESULT
    known = files.read_json(path)
    sums = {name: read_record(folder)["checkpoint_sha256"] for name, folder in folders.items()}
    if {name: entry.get("checkpoint") for name, entry in known.get("latency", {}).items()} == sums:
        return
    reference = arms.comparison.ratio_to
    order = [reference, *(name for name in folders if name != reference)]
    measured = worker.latency([folders[name] for name in order])
    known["latency"] = {
        name: {"checkpoint": sums[name], **dataclasses.asdict(latency)}
        for name, latency in zip(order, measured, strict=True)
    }
    files.write_json(path, known)


def _write(result: ComparisonResult, output: Path) -> None:
    """Write the figures for programs, the table for people, and the plot."""
    figures = {
        row.name: {
            "kind": row.kind,
            "epochs": row.epochs,
            "params": row.params,
            "gmacs": row.gmacs,
            "seeds": {seed: accuracy.summary() for seed, accuracy in row.accuracy.items()},
        }
        for row in result.rows
    }
    known = files.read_json(output / RESULT)
    document = {**known, "arms": figures, "sentences": result.sentences()}
    files.write_json(output / RESULT, document)
    files.write_text(output / MARKDOWN, result.markdown())
    save(accuracy_cost(points(result.rows), result.arms.base.input_size), output / PLOT)


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the arms as points of the accuracy-against-cost plot."""
    return [
        Point(row.name, row.kind, row.gmacs, row.mean("ap50") or 0.0, row.spread() or 0.0) for row in rows
    ]


def _ap50(accuracy: Accuracy) -> float:
    if accuracy.ap50 is None:
        raise UserError("the images measured on hold no object: no AP50 can be compared")
    return accuracy.ap50
