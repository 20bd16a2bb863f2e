"""A whole compression: stages in order, each in a folder of its own that says what was done and measured.

A stage reads the models of earlier stages and leaves ``model.pt``, ``model.onnx`` and ``stage.json``. The
last is written when the rest is there, and holds a hash of everything the stage depends on: a stage whose
hash still fits is not done again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import datetime
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from yolo_compress import files
from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.config.sections import Dense, Distill, Export, Prune, Recipe, Section, Sparsify
from yolo_compress.data.labelled import read_split
from yolo_compress.data.source import Source, prepare_source
from yolo_compress.devices import check_device
from yolo_compress.distillation.trainer import distil
from yolo_compress.errors import UserError, explained_disk_errors
from yolo_compress.export.export import Delivery, deliver, export_onnx, read_card, update_card, versions
from yolo_compress.interrupts import end_if_interrupted, interrupts_heard
from yolo_compress.measure.accuracy import Accuracy, evaluate_model
from yolo_compress.measure.latency import Latency, measure_latency
from yolo_compress.pruning.budget import count_macs, count_params
from yolo_compress.pruning.pruner import Bench, prune
from yolo_compress.sparsity.trainer import sparsify
from yolo_compress.training import Setting, StageTrainer, train

from ultralytics.nn.tasks import DetectionModel, yaml_model_load  # isort: skip

CHECKPOINT = "model.pt"
ONNX = "model.onnx"
RECORD = "stage.json"
# Hash of the inputs of a stage that has begun: what it left half done is of use to the same inputs only.
BEGUN = "inputs.sha256"
RECIPE = "recipe.yaml"
COMMANDS = "commands.txt"
EXPORTS = "export.json"
# A stage's model, and what only this stage's record says.
Made = tuple[DetectionModel, dict[str, Any]]
# Images a latency round; more would only repeat.
LATENCY_IMAGES = 8
# What training needs on the disk, in bytes a parameter: two checkpoints (the old one stays until the new one
# is whole) of weights, their average and two moments of the optimizer, all fp32.
TRAINING_BYTES = 2 * 16
# What a finished stage keeps: checkpoint and ONNX file, fp32.
KEPT_BYTES = 2 * 4


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a plan: what is done to which models.

    Attributes:
        name: dense, student, sparse, pruned or distilled.
        section: the recipe's settings of it.
        recipe: for what all stages share (seed, device, input size).
        parents: the stages whose models it reads; the first one's is the model that it changes.
    """

    name: str
    section: Section
    recipe: Recipe = field(repr=False)
    parents: tuple[Stage, ...] = ()

    @property
    def key(self) -> str:
        """Hash of everything that is known before anything is done: equal stages of two plans share it."""
        return files.digest_of([*self._settings(), [parent.key for parent in self.parents]])

    def inputs(self, checkpoints: Sequence[Path], data: str) -> str:
        """Hash of everything that the result depends on: settings, models, data and versions."""
        given = getattr(self.section, "model", None)
        return files.digest_of(
            [
                *self._settings(),
                files.sha256(Path(given)) if given else None,
                [files.sha256(checkpoint) for checkpoint in checkpoints],
                data,
                versions(),
            ]
        )

    def _settings(self) -> list[Any]:
        recipe, section = self.recipe, self.section
        settings: list[Any] = [
            self.name,
            section.in_force(),
            [recipe.seed, recipe.device, recipe.input_size, recipe.amp],
        ]
        if isinstance(section, Sparsify) and section.mode == "fade":  # it does what the later stages say
            later = [recipe.prune, recipe.distill if section.distill else None]
            settings.append([None if other is None else other.in_force() for other in later])
        return settings


def plan(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a recipe in order; the first is the dense model, the last the result."""
    dense = Stage("dense", recipe.teacher, recipe)
    stages = [dense]
    if recipe.sparsify:
        stages.append(Stage("sparse", recipe.sparsify, recipe, (stages[-1],)))
    if recipe.prune:
        stages.append(Stage("pruned", recipe.prune, recipe, (stages[-1],)))
    if recipe.student:
        stages.append(Stage("student", recipe.student, recipe))
    if recipe.distill:
        stages.append(Stage("distilled", recipe.distill, recipe, (stages[-1], dense)))
    return tuple(stages)


@dataclass(frozen=True)
class StageResult:
    """What a stage left.

    Attributes:
        name: of the stage.
        checkpoint: stock Ultralytics ``.pt``.
        onnx: the exported, self-describing model.
        params: number of parameters.
        gmacs: multiply-accumulates in billions at the recipe's input size.
        accuracy: of the exported model on images never trained on.
        latency: of the exported model, beside the dense one's.
    """

    name: str
    checkpoint: Path
    onnx: Path
    params: int
    gmacs: float
    accuracy: Accuracy
    latency: Latency


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


def percent(value: float | None) -> str:
    """Render a share as per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def run_recipe(recipe: Recipe, console: Console) -> RunResult:
    """Do every stage of a recipe that is not done yet, and measure them all.

    Raises:
        UserError: something in the recipe, the data or the models cannot be used.
    """
    stages = plan(recipe)
    check_devices(stages)
    claim_folder(recipe.output, RECIPE, recipe)
    worker = StageWorker(recipe, console, lambda stage: recipe.output / stage.name)
    worker.require_space(stages)
    folders = [worker.measured(stage) for stage in stages]
    results = worker.results(folders)
    files.copy(folders[-1] / CHECKPOINT, recipe.output / CHECKPOINT)
    _deliver(recipe, folders[-1], worker.source, console)
    return RunResult(recipe, worker.source.description, tuple(results), recipe.output / ONNX)


def _deliver(recipe: Recipe, folder: Path, source: Source, console: Console) -> None:
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
    done = recipe.output / EXPORTS
    before = files.read_json(done)
    made: dict[str, str | None] = before.get("files", {})
    if before.get("of") == of and all(
        files.sha256(recipe.output / name) == sha for name, sha in made.items()
    ):
        return
    done.unlink(missing_ok=True)
    for name in made:
        (recipe.output / name).unlink(missing_ok=True)
    files.copy(folder / ONNX, recipe.output / ONNX)
    delivered: Sequence[Delivery] = ()
    if wanted:
        delivered = deliver(
            folder / CHECKPOINT,
            recipe.output / ONNX,
            settings.model_copy(update={"precision": wanted}),
            input_size=recipe.input_size,
            data=source.description,
            split=evaluate.split,
            score_threshold=evaluate.score_threshold,
            iou_threshold=evaluate.iou_threshold,
            dataset=source.name,
            facts={"compression": read_card(folder / ONNX)["compression"]},
            threads=recipe.threads,
            tell=lambda text: console.print(text, markup=False, soft_wrap=True),
        )
    names = [ONNX, *(one.path.name for one in delivered)]
    made = {name: files.sha256(recipe.output / name) for name in dict.fromkeys(names)}
    files.write_json(done, {"of": of, "files": made})


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
    claim_folder(recipe.output, RECIPE, recipe)
    worker = StageWorker(recipe, console, lambda stage: recipe.output / stage.name)
    worker.require_space([stage])
    return worker.measured(stage, checkpoints)


def check_devices(stages: Sequence[Stage]) -> None:
    """See that this machine has the devices that stages train on.

    Raises:
        UserError: it has not.
    """
    for stage in stages:
        training = getattr(stage.section, "train", None)
        if training is not None:
            check_device(stage.recipe.device, training.batch)


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
            commands.write(f"{_now()}  {command_line()}\n")
    except OSError as error:
        raise UserError(f"cannot write into the run's folder {folder}: {error.strerror}") from error


def command_line() -> str:
    """Return what was typed to start this process, without the folder of the program."""
    main = sys.modules["__main__"]
    package = getattr(getattr(main, "__spec__", None), "name", "").removesuffix(".__main__")
    program = f"python -m {package}" if package else Path(sys.argv[0]).name
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


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
        self.source: Source = prepare_source(recipe, recipe.output, console)

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
        if read_record(folder).get("inputs") == inputs and (folder / CHECKPOINT).is_file():
            self._console.print(f"{stage.name}: done before, skipped")
        else:
            with explained_disk_errors(folder):
                self._do(stage, folder, inputs, checkpoints)
        self._done[stage.key] = folder
        return folder

    def _do(self, stage: Stage, folder: Path, inputs: str, checkpoints: Sequence[Path]) -> None:
        started = time.monotonic()
        begun = folder / BEGUN
        if not begun.is_file() or begun.read_text(encoding="utf-8") != inputs:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir(parents=True)
            files.write_text(begun, inputs)
        model, facts = self._work(stage, folder, checkpoints)
        save_model(model, folder / CHECKPOINT)
        evaluate, input_size = self._recipe.evaluate, self._recipe.input_size
        export_onnx(
            folder / CHECKPOINT,
            folder / ONNX,
            input_size,
            score_threshold=evaluate.score_threshold,
            iou_threshold=evaluate.iou_threshold,
            images=read_split(self.source.description, evaluate.split).images,
        )
        _write_record(
            folder,
            {
                "stage": stage.name,
                "key": stage.key,
                "inputs": inputs,
                "checkpoint_sha256": files.sha256(folder / CHECKPOINT),
                "command": command_line(),
                "finished": _now(),
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

    def _work(self, stage: Stage, folder: Path, checkpoints: Sequence[Path]) -> Made:
        """Return the model that a stage makes, and what only its record says."""
        section = stage.section
        setting = Setting(
            stage.recipe,
            self.source.description,
            folder,
            stage.name,
            self._console,
            teacher=checkpoints[1] if len(checkpoints) > 1 else None,
        )
        match section:
            case Dense():
                if section.train is None:
                    return load_model(section.model), {}
                return train(StageTrainer, _architecture_file(section, folder), section.train, setting), {}
            case Sparsify():
                return sparsify(checkpoints[0], setting)
            case Distill():
                return distil(checkpoints[0], setting), {}
            case Prune():
                return self._prune(section, stage.recipe, checkpoints[0])
            case _:
                raise AssertionError(section)

    def _prune(self, section: Prune, recipe: Recipe, checkpoint: Path) -> Made:
        bench = Bench(
            self.source.description,
            recipe.evaluate.split,
            recipe.device,
            recipe.threads,
            recipe.evaluate.latency_rounds,
        )
        with Progress(
            console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task("pruned", total=None)
            pruned = prune(
                load_model(checkpoint),
                section,
                recipe.input_size,
                seed=recipe.seed,
                bench=bench,
                progress=lambda what, done, total: progress.update(
                    task, description=f"pruned: {what}", completed=done, total=total
                ),
            )
        self._console.print(f"pruned: {pruned.summary()}", soft_wrap=True)
        return pruned.model, pruned.record()

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
        if record.get("accuracy", {}).get("of") != of:
            accuracy = self._accuracy(stage.name, folder)
            record["accuracy"] = {"of": of, **dataclasses.asdict(accuracy)}
            _write_record(folder, record)
            self._console.print(
                f"{stage.name}: {record['params']:,} parameters, {record['gmacs']:.3f} GMACs, "
                f"AP50 {percent(accuracy.ap50)}, AP {percent(accuracy.ap)} ({record['seconds']:.0f} s)"
            )
        self._tell_card(stage, folder)
        return folder

    def _accuracy(self, name: str, folder: Path) -> Accuracy:
        settings = self._recipe.evaluate
        with Progress(
            console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task(f"{name}: accuracy", total=None)
            return evaluate_model(
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
            size = self._recipe.input_size
            assert isinstance(ancestor.section, Dense)
            changes["compression"] = {
                "from": Path(ancestor.section.model).name,
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
        if any(record.get("latency", {}).get("of") != of for record in records):
            for folder, record, latency in zip(folders, records, self.latency(folders), strict=True):
                record["latency"] = {"of": of, **dataclasses.asdict(latency)}
                _write_record(folder, record)
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


def stage_result(folder: Path) -> StageResult:
    """Return what the record of a stage that is done and measured says."""
    record = read_record(folder)
    return StageResult(
        name=record["stage"],
        checkpoint=folder / CHECKPOINT,
        onnx=folder / ONNX,
        params=record["params"],
        gmacs=record["gmacs"],
        accuracy=accuracy_of(record),
        latency=Latency(**_without(record["latency"], "of")),
    )


def space_needed(stages: Sequence[Stage]) -> int:
    """Return about how many bytes doing these stages needs on the disk.

    Raises:
        UserError: a dense model cannot be loaded.
    """
    models = {
        (section.model, section.width): section
        for stage in stages
        for section in (stage.recipe.teacher, stage.recipe.student)
        if section is not None
    }
    params = max(count_params(architecture(section)) for section in models.values())
    return params * (TRAINING_BYTES + KEPT_BYTES * len(stages))


def accuracy_of(record: Mapping[str, Any]) -> Accuracy:
    """Return the accuracy that a stage's record tells of."""
    return Accuracy.from_record(_without(record["accuracy"], "of"))


def architecture(dense: Dense) -> DetectionModel:
    """Return a model as a recipe describes it: the checkpoint, or the architecture with random weights.

    Raises:
        UserError: there is no such checkpoint or architecture.
    """
    if dense.model.endswith(".pt"):
        return load_model(dense.model)
    return DetectionModel(_layers(dense), verbose=False)


def _layers(dense: Dense) -> dict[str, Any]:
    """Return Ultralytics' description of an architecture, with the width that the recipe asks for."""
    try:
        layers: dict[str, Any] = yaml_model_load(dense.model)
    except FileNotFoundError as error:
        raise UserError(f"Ultralytics knows no architecture {dense.model}: {error}") from error
    if dense.width is not None:
        depth, _, most = layers["scales"][layers["scale"]]
        layers["scales"] = {layers["scale"]: [depth, dense.width, most]}
    return layers


def _architecture_file(dense: Dense, folder: Path) -> str:
    """Return what the trainer starts from: a checkpoint, or an architecture, ours where the width is."""
    if dense.model.endswith(".pt"):
        load_model(dense.model)  # for its error, which is clearer than the trainer's
        return dense.model
    layers = _layers(dense)
    if dense.width is None:
        return dense.model
    # The name decides on the scale that Ultralytics takes.
    path = folder / Path(dense.model).name
    files.write_text(
        path, yaml.safe_dump({k: v for k, v in layers.items() if k not in ("scale", "yaml_file")})
    )
    return str(path)


def read_record(folder: Path) -> dict[str, Any]:
    """Return a stage's ``stage.json``, empty where the stage is not finished."""
    return files.read_json(folder / RECORD)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    files.write_json(folder / RECORD, record)


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != key}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
