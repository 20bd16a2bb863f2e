"""Several ways to a detector at one protocol and one budget of epochs: what each costs and what it is worth.

The arms of a comparison are recipes that differ in a few stages. Stages that are equal in two arms are done
once; each seed is a whole repetition. What the figures say is `yolo_compress.verdicts`'s.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from matplotlib.figure import Figure
from rich.console import Console

from yolo_compress import files, ready, records
from yolo_compress.config.loading import Arms
from yolo_compress.config.sections import Recipe
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
from yolo_compress.export.deliver import MeasuredOn
from yolo_compress.measure.accuracy import evaluate_images
from yolo_compress.measure.latency import Latency
from yolo_compress.measure.matches import Matches
from yolo_compress.report.charts import Point, accuracy_cost, accuracy_time, kept_channels, save
from yolo_compress.run.plan import check_devices, plan
from yolo_compress.run.recipe import claim_folder
from yolo_compress.run.record import MATCHES, ONNX, accuracy_of, read_record
from yolo_compress.run.worker import StageWorker
from yolo_compress.stages import Stage
from yolo_compress.verdicts import TEACHER, ComparisonResult, Row

DOCUMENT = "comparison.yaml"
BASE = "base.yaml"
RESULT = "comparison.json"
MARKDOWN = "comparison.md"
PLOT = "accuracy_cost"
# Which of the images measured on belong to which part of them, by number.
PARTS = "parts.json"


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
    claim(arms)
    worker = worker_of(arms, console)
    worker.require_space(stages)
    _parts(arms)
    for name, number in pieces:
        console.print(f"seed {number}, {name}", style="bold", markup=False)
        worker.measured(plan(_seeded(shown[name], number))[-1])
    folders = {name: _folder(output, plan(_seeded(r, seeds[0]))[-1]) for name, r in shown.items()}
    if arm is None and seed is None:
        _measure_latency(arms, folders, worker)
    result = collect(arms, console)
    _write(result, output)
    return result


def claim(arms: Arms) -> None:
    """Make the comparison's folder, and write into it what is compared.

    Raises:
        UserError: the folder is another's or cannot be written.
    """
    output = arms.base.output
    saved = arms.comparison.model_copy(update={"base": Path(BASE), "set": {}, "records": None})
    claim_folder(output, DOCUMENT, saved)
    files.sweep_temporary()
    files.write_text(output / BASE, yaml.safe_dump(arms.base.model_dump(mode="json"), sort_keys=False))


def worker_of(arms: Arms, console: Console) -> StageWorker:
    """Return what does single stages of a comparison, in its folder."""
    return StageWorker(arms.base, console, lambda stage: _folder(arms.base.output, stage))


@dataclass(frozen=True)
class Step:
    """One stage of a comparison, which may be done beside others once those that it needs are done.

    Attributes:
        stage: what is done.
        folder: where.
        needs: the folders of the stages whose models it reads.
        shown: whether it is the last of an arm, and so measured.
    """

    stage: Stage
    folder: Path
    needs: tuple[Path, ...]
    shown: bool


def steps(arms: Arms) -> list[Step]:
    """Return every stage of every arm and seed once, each after those that it needs."""
    output = arms.base.output
    found: dict[Path, Step] = {}
    for number in arms.comparison.seeds:
        for recipe in _shown(arms).values():
            stages = plan(_seeded(recipe, number))
            for stage in stages:
                folder = _folder(output, stage)
                known = found.get(folder)
                shown = stage is stages[-1] or (known is not None and known.shown)
                needs = tuple(_folder(output, parent) for parent in stage.parents)
                found[folder] = Step(stage, folder, needs, shown)
    return list(found.values())


def collect(arms: Arms, console: Console | None = None) -> ComparisonResult:
    """Gather what is there of a comparison; nothing is trained.

    Args:
        arms: the comparison.
        console: where it is said that a model is measured again; left out, none is. That happens to what was
            measured before per-image results were kept, once, where model and images are at hand.

    Raises:
        UserError: nothing is there.
    """
    output, seeds = arms.base.output, arms.comparison.seeds
    if not (output / DOCUMENT).is_file() and arms.comparison.records is not None:
        known = records.read(arms, _shown(arms), arms.comparison.records)
        if known is not None:
            return known
    parts = _parts(arms)
    latency = files.read_json(output / RESULT).get("latency", {})
    rows, missing = [], []
    images = 0
    for name, recipe in _shown(arms).items():
        done = {}
        matches: dict[int, Matches] = {}
        stages = {}
        for seed in seeds:
            folders = [_folder(output, stage) for stage in plan(_seeded(recipe, seed))]
            folder = folders[-1]
            record = read_record(folder)
            if "accuracy" in record:
                done[seed] = record
                stages[seed] = records.way(folders)
                found = _matches(folder, arms.base, console)
                if found is not None:
                    matches[seed] = found
            else:
                missing.append((name, seed))
        if not done:
            continue
        first = done[min(done, key=seeds.index)]
        timed = latency.get(name, {})
        accuracy = {seed: accuracy_of(record) for seed, record in done.items()}
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
                matches=matches,
                left_out=arms.comparison.left_out,
                stages=stages,
            )
        )
    if not rows:
        raise UserError(f"nothing of this comparison is in {output} yet; leave out --collect to begin")
    return ComparisonResult(arms, tuple(rows), tuple(missing), images, parts)


def _matches(folder: Path, base: Recipe, console: Console | None) -> Matches | None:
    """Return a measured stage's per-image results, if need be by measuring its model again."""
    kept = Matches.load(folder / MATCHES)
    data = base.output / "data.yaml"
    if kept is not None or console is None or not (folder / ONNX).is_file() or not data.is_file():
        return kept
    console.print(f"{folder.name}: measured again, for what it finds in each image", markup=False)
    settings = base.evaluate
    measured = evaluate_images(
        folder / ONNX, data, settings.split, iou_threshold=settings.iou_threshold, threads=base.threads
    )
    measured.matches.save(folder / MATCHES)
    return measured.matches


def _parts(arms: Arms) -> dict[str, tuple[int, ...]]:
    """Return which images measured on, by number, belong to each of the comparison's `parts`.

    They are kept beside the figures, for who has these but not the images.
    """
    path, base = arms.base.output / PARTS, arms.base
    known = files.read_json(path)
    wanted = arms.comparison.parts
    measured = base.output / "data.yaml"
    if any(name not in known for name in wanted) and base.data.yaml is not None and measured.is_file():
        number = {
            os.path.realpath(image): index
            for index, image in enumerate(read_split(measured, base.evaluate.split).images)
        }
        for name in wanted:
            images = (os.path.realpath(image) for image in read_split(base.data.yaml, name).images)
            known[name] = [number[image] for image in images if image in number]
            if not known[name]:
                raise UserError(
                    f"parts: the split {name!r} of {base.data.yaml} has no image in common with "
                    f"{base.evaluate.split!r}, which is measured on; name parts of that"
                )
        files.write_json(path, known)
    return {name: tuple(known[name]) for name in wanted if name in known}


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
    _draw(result, output)


def _draw(result: ComparisonResult, folder: Path) -> dict[str, str]:
    """Draw a comparison; return the name of each picture's file by what it shows."""
    drawn = {}
    for name, (what, figure) in figures(result).items():
        save(figure, folder / name)
        drawn[what] = f"{name}.svg"
    return drawn


def figures(result: ComparisonResult) -> dict[str, tuple[str, Figure]]:
    """Return the pictures of a comparison: for each file's name what it shows, and the figure."""
    size, compared = result.arms.base.input_size, points(result.rows)
    drawn = {PLOT: ("AP50 over multiply-accumulates", accuracy_cost(compared, size))}
    if any(point.ms is not None for point in compared):
        drawn["accuracy_time"] = ("AP50 over milliseconds an image", accuracy_time(compared))
    kept = {row.name: row.channels for row in result.rows if row.channels}
    if kept:
        drawn["kept_channels"] = ("The share of its channels that each layer keeps", kept_channels(kept))
    return drawn


def keep(arms: Arms, result: ComparisonResult, page: Path | None = None) -> Path:
    """Write a comparison's records, tables and pictures where its recipe says that they are kept.

    Args:
        arms: the comparison.
        result: what is there of it.
        page: a Markdown page in which the section between ``<!-- NAME -->`` and ``<!-- /NAME -->`` is
            written anew; NAME is that of the records' folder.

    Raises:
        UserError: the comparison does not say where, or the page has no such section.
    """
    folder = arms.comparison.records
    if folder is None:
        raise UserError("the comparison does not say where its records are kept; give `records:`, a folder")
    records.keep(result, _shown(arms), folder)
    drawn = _draw(result, folder)
    for picture in folder.glob("*.png"):
        picture.unlink()  # the vector pictures say the same
    files.write_text(folder / MARKDOWN, result.markdown(drawn))
    if page is not None:
        place = os.path.relpath(folder, page.parent)
        section = result.markdown({what: f"{place}/{name}" for what, name in drawn.items()})
        name = folder.name
        written = files.with_section(page.read_text(encoding="utf-8"), name, section)
        if written is None:
            raise UserError(f"{page} has no section between <!-- {name} --> and <!-- /{name} -->")
        files.write_text(page, written)
    return folder


def make_arm_ready(arms: Arms, arm: str, seed: int, folder: Path) -> Path:
    """Export an arm's model as fp16 with a complete card into a folder of models, and list it there.

    Raises:
        UserError: there is no such arm, or its model or the images are not there.
    """
    output, base, shown = arms.base.output, arms.base, _shown(arms)
    if arm not in shown:
        raise UserError(f"there is no arm {arm}; the arms are {', '.join(shown)}")
    data = output / "data.yaml"
    if not data.is_file():
        raise UserError(f"{data} is not there: a model is measured before it is made ready")
    stages = plan(_seeded(shown[arm], seed))
    own = [stage for stage in stages if stage.kind == stages[-1].kind or stage.name == "dense"]
    source = str(base.data.yaml.stem if base.data.yaml else "scenes")
    return ready.make_ready(
        [_folder(output, stage) for stage in (own if stages[-1].kind == "pruned" else stages[-1:])],
        MeasuredOn(data, base.evaluate.split, source, base.threads),
        base.evaluate.iou_threshold,
        f"{output.name}_{arm}",
        folder,
    )


def measure_times(arms: Arms, console: Console) -> None:
    """Time the models that are there against each other.

    Raises:
        UserError: the arm that they are compared with is not there.
    """
    output, seed = arms.base.output, arms.comparison.seeds[0]
    folders = {name: _folder(output, plan(_seeded(r, seed))[-1]) for name, r in _shown(arms).items()}
    there = {name: folder for name, folder in folders.items() if "accuracy" in read_record(folder)}
    if arms.comparison.ratio_to not in there:
        raise UserError(
            f"the arm {arms.comparison.ratio_to}, which the others are timed beside, is not there yet"
        )
    _measure_latency(arms, there, StageWorker(arms.base, console, lambda stage: _folder(output, stage)))


def points(rows: Sequence[Row]) -> list[Point]:
    """Return the arms as points of the accuracy-against-cost plot."""
    return [
        Point(
            row.name,
            row.kind,
            row.gmacs,
            row.mean_ap50(),
            row.spread() or 0.0,
            None if row.latency is None else row.latency.ms,
        )
        for row in rows
    ]
