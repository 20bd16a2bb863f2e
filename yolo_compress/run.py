"""A whole compression: stages in order, each in a folder of its own that says what was done and measured.

A stage reads the artefacts of earlier stages and leaves ``model.pt``, ``model.onnx`` and ``stage.json``. The
last is written when the rest is there, and holds a hash of everything the stage depends on: a stage whose
hash still fits is not done again, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from yolo_compress.config import Recipe, Scenes
from yolo_compress.data.dataset import generate_dataset
from yolo_compress.data.scenes import SceneSpec
from yolo_compress.distillation import DistillationTrainer
from yolo_compress.errors import UserError
from yolo_compress.evaluation import Accuracy, Latency, beside, evaluate_model, measure_latency, read_split
from yolo_compress.export import export_onnx, update_card, versions
from yolo_compress.pruning import count_macs, count_params, prune_to_macs
from yolo_compress.sparsity import SparsityTrainer
from yolo_compress.training import Setting, StageTrainer, load_model, save_model

from ultralytics.nn.tasks import DetectionModel  # isort: skip

CHECKPOINT = "model.pt"
ONNX = "model.onnx"
RECORD = "stage.json"
# Images a latency round; more would only repeat.
LATENCY_IMAGES = 8


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
                *(_percent(value) for value in (a.ap50, a.ap, a.ap_small, a.ap_medium, a.ap_large)),
                f"{stage.latency.ms:.1f} ms",
                f"{stage.latency.ratio:.2f}",
            )
        return table


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def run_recipe(recipe: Recipe, console: Console) -> RunResult:
    """Do every stage of a recipe that is not done yet, and measure them all.

    Raises:
        UserError: something in the recipe, the data or the models cannot be used.
    """
    return Run(recipe, console).run()


class Run:
    """One run in its folder."""

    def __init__(self, recipe: Recipe, console: Console) -> None:
        self._recipe = recipe
        self._console = console
        self._folder = recipe.output
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            # Stages clear their folders: nothing that is not a run may be in the way.
            if any(self._folder.iterdir()) and not (self._folder / "recipe.yaml").is_file():
                raise UserError(f"{self._folder} holds other files; choose an empty or new folder as output")
            _write_text(
                self._folder / "recipe.yaml", yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)
            )
        except OSError as error:
            raise UserError(f"cannot write into the run's folder {self._folder}: {error.strerror}") from error
        data = self._prepare_data()
        self._dataset_name = "generated scenes" if recipe.data.scenes else data.stem
        self._data_print = data_fingerprint(data, sorted({"train", "val", recipe.evaluate.split}))
        self._data = self._resolve_data(data)

    def run(self) -> RunResult:
        """Do the stages, then measure latency, then say what came out."""
        recipe = self._recipe
        dense = self._stage("dense", [], recipe.teacher, self._teach)
        sparse = self._stage("sparse", [dense], recipe.sparsify, self._sparsify)
        pruned = self._stage("pruned", [sparse, dense], recipe.prune, self._prune)
        distilled = self._stage("distilled", [pruned, dense], recipe.distill, self._distill)
        results = self._results([dense, sparse, pruned, distilled])
        for name in (ONNX, CHECKPOINT):
            _copy(distilled / name, self._folder / name)
        return RunResult(recipe, self._data, tuple(results), self._folder / ONNX)

    def _prepare_data(self) -> Path:
        """Return the data set's description, generating the scenes first where the recipe asks for them."""
        scenes = self._recipe.data.scenes
        if scenes is None:
            assert self._recipe.data.yaml is not None
            return self._recipe.data.yaml
        try:
            spec = camera_spec(scenes).scaled(scenes.scale, width=scenes.width, height=scenes.height)
        except ValueError as error:
            raise UserError(f"data.scenes: {error}") from error
        with Progress(
            console=self._console, transient=True, disable=not self._console.is_terminal
        ) as progress:
            task = progress.add_task("scenes", total=scenes.train + scenes.val)
            return generate_dataset(
                self._folder / "data",
                train=scenes.train,
                val=scenes.val,
                seed=scenes.seed,
                spec=spec,
                workers=min(2, self._recipe.threads),
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )

    def _resolve_data(self, data: Path) -> Path:
        """Write the description with an absolute path: Ultralytics looks for a relative one elsewhere."""
        content = yaml.safe_load(data.read_text(encoding="utf-8"))
        content["path"] = str((data.parent / str(content.get("path") or ".")).resolve())
        resolved = self._folder / "data.yaml"
        _write_text(resolved, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return resolved

    def _setting(self, name: str, folder: Path) -> Setting:
        return Setting(self._recipe, self._data, folder / "training", name, self._console)

    def _teach(self, folder: Path) -> DetectionModel:
        teacher = self._recipe.teacher
        if teacher.train is None:
            return load_model(teacher.model)
        if teacher.model.endswith(".pt"):
            load_model(teacher.model)  # for its error, which is clearer than the trainer's
        trainer = StageTrainer(teacher.model, teacher.train, self._setting("dense", folder))
        trainer.train()
        return trainer.result()

    def _sparsify(self, folder: Path, dense: Path) -> DetectionModel:
        settings = self._recipe.sparsify
        trainer = SparsityTrainer(
            dense / CHECKPOINT, settings.train, self._setting("sparse", folder), settings.strength
        )
        trainer.train()
        return trainer.result()

    def _prune(self, _folder: Path, sparse: Path, _dense: Path) -> DetectionModel:
        settings = self._recipe.prune
        pruned = prune_to_macs(
            load_model(sparse / CHECKPOINT), settings.macs, self._recipe.input_size, settings.round_to
        )
        self._console.print(
            f"pruned: {pruned.ratio:.1%} of each layer's channels, "
            f"{pruned.macs / pruned.dense_macs:.1%} of the MACs left (asked for at most {settings.macs:.1%})"
        )
        return pruned.model

    def _distill(self, folder: Path, pruned: Path, dense: Path) -> DetectionModel:
        trainer = DistillationTrainer(
            pruned / CHECKPOINT, dense / CHECKPOINT, self._recipe.distill, self._setting("distilled", folder)
        )
        trainer.train()
        return trainer.result()

    def _stage(
        self, name: str, parents: Sequence[Path], section: Any, work: Callable[..., DetectionModel]
    ) -> Path:
        """Do one stage unless it is done already; return its folder."""
        folder = self._folder / name
        recipe = self._recipe
        inputs = _hash(
            {
                "stage": name,
                "section": section.model_dump(mode="json"),
                "checkpoint": _file_hash(Path(section.model)) if name == "dense" else None,
                "parents": [read_record(parent)["checkpoint_sha256"] for parent in parents],
                "data": self._data_print,
                "settings": [recipe.seed, recipe.device, recipe.input_size, recipe.amp],
                "versions": versions(),
            }
        )
        if read_record(folder).get("inputs") == inputs and (folder / CHECKPOINT).is_file():
            self._console.print(f"{name}: done before, skipped")
        else:
            self._do_stage(folder, name, inputs, lambda: work(folder, *parents))
        self._measure_accuracy(folder, dense=parents[-1] if parents else None)
        return folder

    def _do_stage(self, folder: Path, name: str, inputs: str, work: Callable[[], DetectionModel]) -> None:
        recipe = self._recipe
        started = time.monotonic()
        # What an interrupted attempt left is of no use to the next.
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = work()
        save_model(model, folder / CHECKPOINT)
        # The trainer's own checkpoints: its last epoch is what was just saved.
        shutil.rmtree(folder / "training" / "weights", ignore_errors=True)
        export_onnx(
            folder / CHECKPOINT,
            folder / ONNX,
            recipe.input_size,
            score_threshold=recipe.evaluate.score_threshold,
            iou_threshold=recipe.evaluate.iou_threshold,
        )
        _write_record(
            folder,
            {
                "stage": name,
                "inputs": inputs,
                "checkpoint_sha256": _file_hash(folder / CHECKPOINT),
                "finished": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
                "seconds": round(time.monotonic() - started, 1),
                "versions": versions(),
                "input_size": recipe.input_size,
                "params": count_params(model),
                "gmacs": count_macs(model, recipe.input_size) / 1e9,
            },
        )

    def _measure_accuracy(self, folder: Path, dense: Path | None) -> None:
        """Measure a stage's exported model unless that is done, and write the result into record and card."""
        settings = self._recipe.evaluate
        record = read_record(folder)
        of = _hash([record["checkpoint_sha256"], settings.split, settings.iou_threshold, self._data_print])
        if record.get("accuracy", {}).get("of") == of:
            return
        accuracy = evaluate_model(
            folder / ONNX,
            self._data,
            settings.split,
            iou_threshold=settings.iou_threshold,
            threads=self._recipe.threads,
        )
        record["accuracy"] = {"of": of, **dataclasses.asdict(accuracy)}
        changes: dict[str, Any] = {
            "accuracy": {
                **accuracy.summary(),
                "dataset": self._dataset_name,
                "split": settings.split,
            }
        }
        if dense is not None:
            changes["compression"] = self._compression(read_record(dense), record)
        update_card(folder / ONNX, changes)
        _write_record(folder, record)
        self._console.print(
            f"{record['stage']}: {record['params']:,} parameters, {record['gmacs']:.3f} GMACs, "
            f"AP50 {_percent(accuracy.ap50)}, AP {_percent(accuracy.ap)} ({record['seconds']:.0f} s)"
        )

    def _compression(self, before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
        """Return the card's account of what a stage's model was made from, and what that cost."""
        size = self._recipe.input_size

        def both(key: str) -> dict[str, float | None]:
            return {"before": before["accuracy"][key], "after": after["accuracy"][key]}

        return {
            "from": Path(self._recipe.teacher.model).name,
            "stage": after["stage"],
            "params": [before["params"], after["params"]],
            "gmacs": {"at": [size, size], "before": before["gmacs"], "after": after["gmacs"]},
            "ap": both("ap"),
            "ap50": both("ap50"),
            "ap_small": both("ap_small"),
            "ap_medium": both("ap_medium"),
            "ap_large": both("ap_large"),
            "dataset": self._dataset_name,
            "split": self._recipe.evaluate.split,
            "images": after["accuracy"]["images"],
        }

    def _results(self, folders: Sequence[Path]) -> list[StageResult]:
        """Measure latency, all models in one go, unless that is done; gather what the records say."""
        recipe = self._recipe
        records = [read_record(folder) for folder in folders]
        of = _hash(
            [
                *(record["checkpoint_sha256"] for record in records),
                recipe.evaluate.latency_rounds,
                recipe.threads,
            ]
        )
        if any(record.get("latency", {}).get("of") != of for record in records):
            images = read_split(self._data, recipe.evaluate.split).images[:LATENCY_IMAGES]
            measured = measure_latency(
                [folder / ONNX for folder in folders],
                images,
                rounds=recipe.evaluate.latency_rounds,
                threads=recipe.threads,
            )
            for folder, record, latency in zip(folders, records, measured, strict=True):
                record["latency"] = {"of": of, **dataclasses.asdict(latency)}
                _write_record(folder, record)
        return [
            StageResult(
                name=record["stage"],
                checkpoint=folder / CHECKPOINT,
                onnx=folder / ONNX,
                params=record["params"],
                gmacs=record["gmacs"],
                accuracy=Accuracy.from_record(_without(record["accuracy"], "of")),
                latency=Latency(**_without(record["latency"], "of")),
            )
            for folder, record in zip(folders, records, strict=True)
        ]


def camera_spec(scenes: Scenes) -> SceneSpec:
    """Return the specification of the camera's own frames, before they are scaled to the training images.

    Raises:
        UserError: a field is unknown or out of range.
    """
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in scenes.camera.items()}
    try:
        return SceneSpec(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"data.scenes.camera: {error}") from error


def read_record(folder: Path) -> dict[str, Any]:
    """Return a stage's ``stage.json``, empty where the stage is not finished."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    _write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")


def _write_text(path: Path, text: str) -> None:
    """Write a file in one step: it is there whole, or as it was."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _copy(source: Path, destination: Path) -> None:
    part = destination.with_name(destination.name + ".part")
    shutil.copyfile(source, part)
    part.replace(destination)


def _without(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {k: v for k, v in mapping.items() if k != key}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _file_hash(path: Path) -> str | None:
    """Return the SHA-256 of a file, or None where there is none (an architecture that Ultralytics ships)."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def data_fingerprint(data: Path, splits: Sequence[str]) -> str:
    """Return a hash that changes when a data set's description, images or labels do.

    Images and labels enter by path, size and time of change: reading gigabytes before each run would cost
    more than the rare false alarm.
    """
    entries: list[tuple[str, int, int]] = []
    for split in splits:
        for image in read_split(data, split).images:
            for path in (image, beside(image, "labels"), beside(image, "annotations")):
                with contextlib.suppress(FileNotFoundError):
                    status = path.stat()
                    entries.append((str(path), status.st_size, status.st_mtime_ns))
    return _hash([data.read_text(encoding="utf-8"), entries])
