"""A recipe from its first stage to the file that it delivers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.base import Section
from yolo_compress.config.sections import Export, Recipe
from yolo_compress.data.source import RunData
from yolo_compress.errors import UserError, explained_disk_errors
from yolo_compress.export.card import CardFacts, read_card
from yolo_compress.export.deliver import Delivery, MeasuredOn, deliver
from yolo_compress.run.plan import check_devices, plan
from yolo_compress.run.record import (
    CHECKPOINT,
    COMMANDS,
    EXPORTS,
    LOCK,
    ONNX,
    RECIPE,
    StageResult,
    command_line,
    memo,
    now,
    percent,
    read_record,
)
from yolo_compress.run.worker import StageWorker
from yolo_compress.versions import versions


@dataclass(frozen=True)
class RunResult:
    """What a run left.

    Attributes:
        recipe: the recipe in force.
        data: the data set's description.
        stages: in the order they were done; the first is the dense model, the last the result.
        onnx: the result, in the run's folder.
    """

    recipe: Recipe
    data: Path
    stages: tuple[StageResult, ...]
    onnx: Path

    def table(self) -> Table:
        """Render one row a stage."""
        size = self.recipe.input_size
        table = Table(
            caption=f"{self.stages[0].accuracy.images} images of the split {self.recipe.evaluate.split!r}; "
            "latency: image in, boxes out",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        table.add_column("stage")
        for column in ("params", f"GMACs@{size}", "AP50", "AP", "APs", "APm", "APl", "latency", "ratio"):
            table.add_column(column, justify="right")
        for stage in self.stages:
            a = stage.accuracy
            table.add_row(
                stage.name,
                f"{stage.params / 1e6:.3f} M",
                f"{stage.gmacs:.3f}",
                *(percent(value) for value in (a.ap50, a.ap, a.ap_small, a.ap_medium, a.ap_large)),
                f"{stage.latency.ms:.1f} ms",
                f"{stage.latency.ratio:.2f}",
            )
        return table


def run_recipe(recipe: Recipe, console: Console | None = None) -> RunResult:
    """Do every stage of a recipe that is not done yet, and measure them all.

    Args:
        recipe: says how, and where to.
        console: for progress; None for the terminal.

    Raises:
        UserError: something in the recipe, the data or the models cannot be used.
    """
    console = console or Console(highlight=False, markup=False, emoji=False)
    stages = plan(recipe)
    check_devices(stages)
    with claimed(recipe.output, RECIPE, recipe):
        worker = StageWorker(recipe, console, lambda stage: recipe.output / stage.name)
        worker.require_space(stages)
        folders = [worker.measured(stage) for stage in stages]
        results = worker.results(folders)
        files.copy(folders[-1] / CHECKPOINT, recipe.output / CHECKPOINT)
        _deliver(recipe, folders[-1], worker.source, console)
    return RunResult(recipe, worker.source.description, tuple(results), recipe.output / ONNX)


def _deliver(recipe: Recipe, folder: Path, source: RunData, console: Console) -> None:
    """Put the result of a run's last stage into its folder, in every precision asked for.

    ``model.onnx`` is there in any case: in fp32, as the stage exported it, unless the recipe asks for another
    fp32 file.
    """
    settings, evaluate = recipe.export, recipe.evaluate
    plain = settings.model_copy(update={"precision": ["fp32"]}) == Export.model_validate({})
    wanted = [p for p in settings.precision if not (plain and p == "fp32")]
    of = files.digest_of(
        [
            read_record(folder)["checkpoint_sha256"],
            settings.model_dump(mode="json"),
            evaluate.model_dump(mode="json"),
            recipe.input_size,
            source.fingerprint,
            versions(),
        ]
    )

    def make() -> dict[str, Any]:
        done = recipe.output / EXPORTS
        for name in files.read_json(done).get("delivered", {}).get("files", {}):
            if name != ONNX and Path(name).name == name:  # the record of a folder that somebody sent
                (recipe.output / name).unlink(missing_ok=True)
        files.copy(folder / ONNX, recipe.output / ONNX)
        delivered: Sequence[Delivery] = ()
        if wanted:
            delivered = deliver(
                folder / CHECKPOINT,
                recipe.output / ONNX,
                settings.model_copy(update={"precision": wanted}),
                input_size=recipe.input_size,
                measured_on=MeasuredOn(source.description, evaluate.split, source.name, recipe.threads),
                facts=CardFacts(
                    evaluate.score_threshold,
                    evaluate.iou_threshold,
                    read_card(folder / ONNX)["compression"],
                ),
                tell=lambda text: console.print(text, markup=False, soft_wrap=True),
            )
        made = dict.fromkeys([ONNX, *(one.path.name for one in delivered)])
        return {"files": {name: files.sha256(recipe.output / name) for name in made}}

    def intact(entry: Mapping[str, Any]) -> bool:
        made = entry.get("files")
        return isinstance(made, dict) and all(
            sha is not None and files.sha256(recipe.output / name) == sha for name, sha in made.items()
        )

    memo(recipe.output / EXPORTS, "delivered", of, make, intact)


def run_stage(recipe: Recipe, name: str, checkpoints: Sequence[Path], console: Console) -> Path:
    """Do one stage of a recipe on models that are there, unless it is done; return its folder.

    The folder is the one that `run_recipe` uses, so that stages done one by one add up to a run.

    Args:
        recipe: says how, and where to.
        name: of the stage.
        checkpoints: the models that it reads, in the order of the stage's parents.
        console: for progress.

    Raises:
        UserError: the recipe has no such stage, or something cannot be used.
    """
    stage = next((stage for stage in plan(recipe) if stage.name == name), None)
    if stage is None:
        raise UserError(
            f"the recipe leaves out the stage {name}; its stages are "
            + ", ".join(stage.name for stage in plan(recipe))
        )
    check_devices([stage])
    for checkpoint in checkpoints:
        load_model(checkpoint)  # for its error, which is clearer than the trainer's
    with claimed(recipe.output, RECIPE, recipe):
        worker = StageWorker(recipe, console, lambda stage: recipe.output / stage.name)
        worker.require_space([stage])
        return worker.measured(stage, checkpoints)


@contextlib.contextmanager
def claimed(folder: Path, document: str, content: Section) -> Iterator[None]:
    """Claim a run's folder (`claim_folder`) for this process alone, and explain what its disk may do.

    Raises:
        UserError: another process works there, or what `claim_folder` and `explained_disk_errors` raise.
    """
    claim_folder(folder, document, content)
    with explained_disk_errors(folder), files.locked(folder / LOCK) as alone:
        if not alone:
            raise UserError(
                f"another process works in {folder}; wait for it, or choose another output folder"
            )
        files.remove_parts(folder)
        files.sweep_temporary()
        yield


def claim_folder(folder: Path, document: str, content: Section) -> None:
    """Make the folder of a run or comparison and write into it what is done there, and by which command.

    Args:
        folder: to make; one that holds anything else than an earlier run is refused.
        document: file name for ``content``.
        content: the effective recipe or comparison.

    Raises:
        UserError: the folder is not ours or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Stages clear their folders: nothing that is not a run may be in the way.
        if any(folder.iterdir()) and not (folder / document).is_file():
            raise UserError(f"{folder} holds other files; choose an empty or new folder as output")
        files.write_text(folder / document, yaml.safe_dump(content.model_dump(mode="json"), sort_keys=False))
        with (folder / COMMANDS).open("a", encoding="utf-8") as commands:
            commands.write(f"{now()}  {command_line()}\n")
    except (OSError, ValueError) as error:  # no name of a folder holds a null byte
        raise UserError(
            f"cannot write into the run's folder {folder}: {getattr(error, 'strerror', error)}"
        ) from error
