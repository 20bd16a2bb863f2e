"""What a training is asked to do: beside its section of the recipe, and in Ultralytics' own terms."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from yolo_compress.config.base import Section, Training
from yolo_compress.config.sections import Recipe

# In a stage's folder: what each process of a training reads, the losses, and Ultralytics' own folder.
JOB = "job.json"
HISTORY = "history.json"
TRAINING = "training"


@dataclass(frozen=True)
class StageContext:
    """What a training needs besides its own section of the recipe.

    Attributes:
        recipe: the run's recipe.
        data: the data set's description.
        folder: the stage's folder; the training leaves ``history.json`` and Ultralytics' folder ``training``.
        label: name of the stage on the progress display.
        console: where progress is shown.
        teacher: checkpoint of the model to learn from, where there is one.
    """

    recipe: Recipe
    data: Path
    folder: Path
    label: str
    console: Console
    teacher: Path | None = None


class Job(Section):
    """The part of a ``StageContext`` that Ultralytics' arguments do not hold.

    It lies in a file beside the training because Ultralytics starts the processes of a distributed training
    with its own arguments only.
    """

    recipe: Recipe
    label: str
    teacher: Path | None
    accumulate: int
    quiet: bool


def arguments_of(training: Training, context: StageContext) -> dict[str, Any]:
    """Translate a recipe's section into Ultralytics' arguments."""
    recipe = context.recipe
    return {
        "data": str(context.data),
        "project": str(context.folder.resolve()),
        "name": TRAINING,
        "exist_ok": True,
        "imgsz": recipe.input_size,
        "device": recipe.device,
        "workers": recipe.workers,
        "cache": "ram" if recipe.cache else False,
        "seed": recipe.seed,
        "deterministic": True,
        "epochs": training.epochs,
        "batch": training.batch,
        "nbs": training.batch,  # accumulation is StageTrainer.optimizer_step's
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
