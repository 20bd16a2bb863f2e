"""Does the stages of a plan and measures them.

A stage reads the models of earlier stages and leaves ``model.pt``, ``model.onnx`` and ``stage.json``. The
last is written when the rest is there, and holds a hash of everything the stage depends on: a stage whose
hash still fits is not done again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from yolo_compress import files
from yolo_compress.checkpoints import save_model
from yolo_compress.config.sections import Recipe
from yolo_compress.data.labelled import read_split
from yolo_compress.data.source import RunData, prepare_source
from yolo_compress.errors import UserError, explained_disk_errors, explained_failures
from yolo_compress.export.card import CardFacts, read_card, update_card
from yolo_compress.export.export import export_onnx
from yolo_compress.interrupts import end_if_interrupted, interrupts_heard
from yolo_compress.measure.accuracy import Measured, evaluate_images
from yolo_compress.measure.latency import Latency, measure_latency
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.run.plan import space_needed
from yolo_compress.run.record import (
    BEGUN,
    CHECKPOINT,
    MATCHES,
    ONNX,
    RECORD,
    StageResult,
    accuracy_of,
    command_line,
    memo,
    now,
    percent,
    read_record,
    stage_result,
    write_record,
)
from yolo_compress.stages import Stage
from yolo_compress.training import StageContext
from yolo_compress.versions import versions

# Images a latency round; more would only repeat.
LATENCY_IMAGES = 8


class StageWorker:
    """Does and measures stages; each in the folder that the caller names."""

    def __init__(self, recipe: Recipe, console: Console, folder_of: Callable[[Stage], Path]) -> None:
        """Prepare the data in the recipe's output folder.

        Args:
            recipe: for the data and the measurements; the stages bring their own settings.
            console: for progress.
            folder_of: where a stage is kept.
        """
        self._recipe = recipe
        self._console = console
        self._folder_of = folder_of
        self._done: dict[str, Path] = {}
        self.source: RunData = prepare_source(recipe, recipe.output, console)

    def require_space(self, stages: Sequence[Stage]) -> None:
        """Refuse to start what would end in a full disk.

        Raises:
            UserError: the disk has less room than training and its results need.
        """
        todo = [stage for stage in stages if not (self._folder_of(stage) / RECORD).is_file()]
        if not todo:
            return
        needed = space_needed(todo)
        free = shutil.disk_usage(self._recipe.output).free
        if free < needed:
            raise UserError(
                f"{self._recipe.output} has {free / 2**20:.0f} MiB free, but this needs about "
                f"{needed / 2**20:.0f} MiB ({len(todo)} stages); free some, or choose another output"
            )

    def do(self, stage: Stage, checkpoints: Sequence[Path] | None = None) -> Path:
        """Do a stage, and those that it needs, unless they are done already; return its folder.

        Args:
            stage: what to do.
            checkpoints: models that take the place of the parents' results.
        """
        if stage.key in self._done:
            return self._done[stage.key]
        if checkpoints is None:
            checkpoints = [self.do(parent) / CHECKPOINT for parent in stage.parents]
        folder = self._folder_of(stage)
        inputs = stage.inputs(checkpoints, self.source.fingerprint)
        with explained_disk_errors(folder):
            record = read_record(folder)
            if record.get("inputs") == inputs and self._whole(stage, folder, record):
                self._console.print(f"{stage.name}: done before, skipped")
            else:
                folder.parent.mkdir(parents=True, exist_ok=True)
                with files.locked(folder.with_name(f".{folder.name}.lock")) as alone:
                    if not alone:
                        raise UserError(f"another process does the stage {folder}; wait for it")
                    # Beside the stage's folder, which is emptied when its inputs change.
                    with explained_failures(stage.name, folder.with_name(f"{folder.name}.error.log")):
                        self._do(stage, folder, inputs, checkpoints)
        self._done[stage.key] = folder
        return folder

    def _whole(self, stage: Stage, folder: Path, record: Mapping[str, Any]) -> bool:
        """Say whether a finished stage's files are what its record says; mend what needs no training.

        Whatever is not as it was left is named.
        """
        found = files.sha256(folder / CHECKPOINT)
        if found != record.get("checkpoint_sha256") or found is None:
            what = "missing" if found is None else "not the file that its record tells of"
            self._tell(f"{stage.name}: {folder / CHECKPOINT} is {what}; the stage is done again")
            return False
        found = files.sha256(folder / ONNX)
        if found is None or found != record.get("onnx_sha256", found):
            what = "missing" if found is None else "not the file that its record tells of"
            self._tell(f"{stage.name}: {folder / ONNX} is {what}; it is exported again")
            self._export(folder, stage.recipe.input_size)
            write_record(folder, {**record, "onnx_sha256": files.sha256(folder / ONNX)})
        return True

    def _tell(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def _do(self, stage: Stage, folder: Path, inputs: str, checkpoints: Sequence[Path]) -> None:
        started = time.monotonic()
        begun = folder / BEGUN
        if not begun.is_file() or begun.read_text(encoding="utf-8") != inputs:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            files.write_text(begun, inputs)
        context = StageContext(
            stage.recipe,
            self.source.description,
            folder,
            stage.name,
            self._console,
            teacher=checkpoints[1] if len(checkpoints) > 1 else None,
        )
        model, facts = stage.make(context, checkpoints)
        save_model(model, folder / CHECKPOINT)
        input_size = stage.recipe.input_size  # of a comparison's arm
        self._export(folder, input_size)
        write_record(
            folder,
            {
                "stage": stage.name,
                "key": stage.key,
                "inputs": inputs,
                "checkpoint_sha256": files.sha256(folder / CHECKPOINT),
                "onnx_sha256": files.sha256(folder / ONNX),
                "command": command_line(),
                "finished": now(),
                "seconds": round(time.monotonic() - started, 1),
                "versions": versions(),
                "input_size": input_size,
                "params": count_params(model),
                "gmacs": count_macs(model, input_size) / 1e9,
                **facts,
            },
        )
        # Only now: who was killed during the export need not train again.
        shutil.rmtree(folder / "training" / "weights", ignore_errors=True)
        end_if_interrupted()

    def _export(self, folder: Path, input_size: int) -> None:
        evaluate = self._recipe.evaluate
        export_onnx(
            folder / CHECKPOINT,
            folder / ONNX,
            input_size,
            facts=CardFacts(evaluate.score_threshold, evaluate.iou_threshold),
            images=read_split(self.source.description, evaluate.split).images,
        )

    def measured(self, stage: Stage, checkpoints: Sequence[Path] | None = None) -> Path:
        """Do a stage (`do`) and measure its exported model unless that is done; return its folder."""
        with interrupts_heard():
            folder = self._measured(stage, checkpoints)
            end_if_interrupted()
        return folder

    def _measured(self, stage: Stage, checkpoints: Sequence[Path] | None) -> Path:
        folder = self.do(stage, checkpoints)
        settings, source = self._recipe.evaluate, self.source
        record = read_record(folder)
        of = files.digest_of(
            [record["checkpoint_sha256"], settings.split, settings.iou_threshold, source.fingerprint]
        )

        def measure() -> dict[str, Any]:
            measured = self._accuracy(stage.name, folder)
            measured.matches.save(folder / MATCHES)
            accuracy = measured.accuracy
            self._tell(
                f"{stage.name}: {record['params']:,} parameters, {record['gmacs']:.3f} GMACs, "
                f"AP50 {percent(accuracy.ap50)}, AP {percent(accuracy.ap)} ({record['seconds']:.0f} s)"
            )
            return dataclasses.asdict(accuracy)

        memo(folder / RECORD, "accuracy", of, measure, valid=lambda _: (folder / MATCHES).is_file())
        self._tell_card(stage, folder)
        return folder

    def _accuracy(self, name: str, folder: Path) -> Measured:
        settings = self._recipe.evaluate
        with Progress(
            console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(f"{name}: accuracy", total=None)
            return evaluate_images(
                folder / ONNX,
                self.source.description,
                settings.split,
                iou_threshold=settings.iou_threshold,
                threads=self._recipe.threads,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )

    def _tell_card(self, stage: Stage, folder: Path) -> None:
        """Write into the exported model how well it does, and what it was made from at which cost."""
        after = read_record(folder)
        split = self._recipe.evaluate.split
        accuracy = accuracy_of(after)
        changes: dict[str, Any] = {
            "accuracy": {**accuracy.summary(), "dataset": self.source.name, "split": split}
        }
        ancestor = stage
        while ancestor.parents:
            ancestor = ancestor.parents[0]
        before = read_record(self._done[ancestor.key]) if ancestor.key in self._done else {}
        if ancestor is not stage and "accuracy" in before:
            size = stage.recipe.input_size
            changes["compression"] = {
                "from": Path(getattr(ancestor.section, "model", ancestor.name)).name,
                "stage": after["stage"],
                "params": [before["params"], after["params"]],
                "gmacs": {"at": [size, size], "before": before["gmacs"], "after": after["gmacs"]},
                **{
                    name: {"before": before["accuracy"][name], "after": value}
                    for name, value in accuracy.summary().items()
                    if name != "images"
                },
                "dataset": self.source.name,
                "split": split,
                "images": accuracy.images,
            }
        card = read_card(folder / ONNX)
        if any(card.get(key) != value for key, value in changes.items()):
            update_card(folder / ONNX, changes)
            write_record(folder, {**after, "onnx_sha256": files.sha256(folder / ONNX)})

    def results(self, folders: Sequence[Path]) -> list[StageResult]:
        """Measure latency, all models in one go, unless that is done; gather what the records say."""
        recipe = self._recipe
        records = [read_record(folder) for folder in folders]
        of = files.digest_of(
            [
                *(record["checkpoint_sha256"] for record in records),
                recipe.evaluate.latency_rounds,
                recipe.threads,
            ]
        )
        known = [record.get("latency", {}).get("of") == of for record in records]
        # Times of one go only are compared: where one is not there, all are measured.
        measured = None if all(known) else self.latency(folders)
        for index, (folder, record) in enumerate(zip(folders, records, strict=True)):
            if measured is not None:
                latency = {"of": of, **dataclasses.asdict(measured[index])}
                write_record(folder, {**record, "latency": latency})
        return [stage_result(folder) for folder in folders]

    def latency(self, folders: Sequence[Path]) -> list[Latency]:
        """Time the exported models of stages against each other."""
        settings = self._recipe.evaluate
        return measure_latency(
            [folder / ONNX for folder in folders],
            read_split(self.source.description, settings.split).images[:LATENCY_IMAGES],
            rounds=settings.latency_rounds,
            threads=self._recipe.threads,
        )
