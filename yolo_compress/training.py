"""Ultralytics' detection trainer with the overrides that every stage needs."""

from __future__ import annotations

import contextlib
import datetime
import io
import time
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

from yolo_compress.config import Recipe, Training
from yolo_compress.errors import UserError
from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION

from ultralytics.models.yolo.detect import DetectionTrainer  # isort: skip
from ultralytics.nn.tasks import DetectionModel, load_checkpoint  # isort: skip


@dataclass(frozen=True)
class Setting:
    """What a training needs besides its own section of the recipe.

    Attributes:
        recipe: the run's recipe (seed, device, input size).
        data: the data set's description.
        folder: where Ultralytics writes its files.
        label: name of the stage on the progress display.
        console: where progress is shown.
    """

    recipe: Recipe
    data: Path
    folder: Path
    label: str
    console: Console


class StageTrainer(DetectionTrainer):
    """Trains a model as it is: keeps its architecture, shows quiet progress, measures nothing on the way.

    Validation is off because every stage is measured at its end on the exported artefact, and because the
    epoch that scores best during sparsity training is the least sparse one. The result is the last epoch's
    average.
    """

    def __init__(self, model: str | Path, training: Training, setting: Setting) -> None:
        super().__init__(overrides=_overrides(training, setting, str(model)))
        # Ultralytics leaves one core idle; on two cores that is half the speed.
        torch.set_num_threads(setting.recipe.threads)
        self._progress = EpochProgress(setting.label, training.epochs, setting.console)
        self.add_callback("on_train_start", lambda trainer: self._progress.start(len(trainer.train_loader)))
        self.add_callback("on_train_batch_end", lambda _: self._progress.step())
        self.add_callback("on_train_epoch_end", lambda trainer: self._progress.finish_epoch(trainer.tloss))
        self.add_callback("teardown", lambda _: self._progress.stop())

    def get_model(
        self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> DetectionModel:
        """Return the model to train.

        The stock trainer builds a new model from the yaml and copies what fits, which silently undoes
        pruning; here a model that already has the right number of classes is trained itself.
        """
        if weights is not None and weights.model[-1].nc == self.data["nc"]:
            return weights.float()
        return super().get_model(cfg, weights, verbose)

    def _setup_train(self) -> None:
        super()._setup_train()
        # Saves a tenth or more of the time on a CPU. Ultralytics does this on CUDA only; its average, which
        # was copied before, keeps the ordinary layout, and so does what is saved.
        if self.device.type == "cpu":
            self.model.to(memory_format=torch.channels_last)

    def get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Build the stock loader, without its own progress bars."""
        with contextlib.redirect_stdout(io.StringIO()):
            return super().get_dataloader(*args, **kwargs)

    def validate(self) -> tuple[dict[str, float], None]:
        """Measure nothing, see the class."""
        return {}, None

    def final_eval(self) -> None:
        """Measure nothing, see the class."""

    def result(self) -> DetectionModel:
        """Return the trained model: the moving average at the end of the last epoch, in fp32."""
        model = deepcopy(self.ema.ema).float().eval()
        model.criterion = None
        model.names = self.data["names"]
        return model


def _overrides(training: Training, setting: Setting, model: str) -> dict[str, Any]:
    """Translate a recipe's section into Ultralytics' arguments."""
    recipe = setting.recipe
    return {
        "model": model,
        "data": str(setting.data),
        "project": str(setting.folder.resolve().parent),
        "name": setting.folder.name,
        "exist_ok": True,
        "imgsz": recipe.input_size,
        "device": recipe.device,
        "workers": recipe.workers,
        "cache": "ram" if recipe.cache else False,
        "seed": recipe.seed,
        "deterministic": True,
        "epochs": training.epochs,
        "batch": training.batch,
        "nbs": training.batch * training.accumulate,
        "optimizer": training.optimizer,
        "lr0": training.lr,
        "lrf": training.lr_final,
        "momentum": training.momentum,
        "weight_decay": training.weight_decay,
        "warmup_epochs": training.warmup_epochs,
        # At the default of 0.1 the first steps throw the biases of a short training far off.
        "warmup_bias_lr": 0.0,
        "close_mosaic": training.close_mosaic,
        "max_det": 500,
        "amp": recipe.amp,
        "val": False,
        "plots": False,
        "patience": 0,
        **{str(name): value for name, value in training.augment.items()},
    }


class EpochProgress:
    """Progress of one training: a live bar on a terminal, one line an epoch elsewhere."""

    def __init__(self, label: str, epochs: int, console: Console) -> None:
        self._label, self._epochs, self._console = label, epochs, console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._epoch = 0
        self._started = time.monotonic()

    def start(self, batches: int) -> None:
        """Show an empty bar for ``batches`` batches an epoch."""
        self._task = self._progress.add_task(self._label, total=batches * self._epochs, losses="")
        self._progress.start()

    def step(self) -> None:
        """Advance by one batch."""
        self._progress.advance(self._task)

    def finish_epoch(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Show the mean losses of the epoch that ended."""
        self._epoch += 1
        text = "  ".join(f"{name.removesuffix('_loss')} {float(value):.3f}" for name, value in losses.items())
        self._progress.update(self._task, losses=text)
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._label}: epoch {self._epoch}/{self._epochs}  {text}  {seconds:.0f} s")

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()


def load_model(path: str | Path) -> DetectionModel:
    """Load a YOLOv8 detector in fp32 from an Ultralytics checkpoint.

    Raises:
        UserError: there is no such file, or it holds no detector.
    """
    if not Path(path).is_file():
        raise UserError(f"there is no model at {path}")
    try:
        model, _ = load_checkpoint(path)
    except Exception as error:  # Ultralytics raises whatever its unpickling meets
        raise UserError(
            f"{path} is no checkpoint that Ultralytics {ULTRALYTICS_VERSION} opens: {error}"
        ) from error
    if not isinstance(model, DetectionModel):
        raise UserError(f"{path} holds a {type(model).__name__}, not a detector")
    return model


def save_model(model: DetectionModel, path: Path) -> None:
    """Write a checkpoint that a bare Ultralytics opens, also with ``ULTRALYTICS_SAFE_LOAD=1``; atomically.

    The weights stay fp32: halving them would change what was measured.
    """
    model = deepcopy(model).cpu().eval()
    model.criterion = None
    # Plain values only: the trainer's namespace of arguments is a class that safe loading refuses.
    given = getattr(model, "args", {})
    given = given if isinstance(given, dict) else vars(given)
    model.args = arguments = {"task": "detect", "imgsz": given.get("imgsz", 640)}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    checkpoint = {
        "epoch": -1,
        "model": model,
        "ema": None,
        "optimizer": None,
        "train_args": arguments,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        "version": ULTRALYTICS_VERSION,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    part = path.with_suffix(".part")
    torch.save(checkpoint, part)
    part.replace(path)
