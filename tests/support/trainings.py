"""Each kind of training, as small as possible, and a process that kills itself in the middle of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console

from support.squares import make_recipe
from yolo_compress.distillation.trainer import distill
from yolo_compress.sparsity.trainer import sparsify
from yolo_compress.training import StageContext, StageTrainer, train

# With everything that has to survive an interruption: warm-up, steps that do not divide the epoch, mosaic
# that closes before the end and takes its images from those seen last.
EPOCHS = 3
TRAINING = {
    "epochs": EPOCHS,
    "batch": 2,
    "accumulate": 3,
    "lr": 0.01,
    "warmup_epochs": 2,
    "close_mosaic": 2,
    "augment": {"mosaic": 1.0},
}
DISTILLATIONS = {
    "cwd": {"adaptive": True, "small_objects": 0.5, "warmup_epochs": 1},
    "logits": {"method": "logits", "off_last_epochs": 1},
    "ultralytics": {"method": "ultralytics"},
    "none": {"method": "none"},
}
KINDS = ("dense", "sparse", *DISTILLATIONS)


def run_training(kind: str, folder: Path, dataset: Path, dense: Path, pruned: Path, console: Console) -> Any:
    """Do or resume one training; return its model."""
    recipe = make_recipe(
        folder,
        dataset,
        cache=False,
        teacher={"model": "yolov8n.yaml", "train": TRAINING},
        sparsify={"strength": 0.5, "train": {**TRAINING, "optimizer": "SGD"}},
        distill={"train": TRAINING, **DISTILLATIONS.get(kind, {})},
    )
    context = StageContext(recipe, dataset, folder, kind, console, teacher=dense)
    if kind == "dense":
        assert recipe.teacher.train is not None
        return train(StageTrainer, recipe.teacher.model, recipe.teacher.train, context)
    if kind == "sparse":
        return sparsify(dense, context)[0]
    return distill(pruned, context)


def acting_in(epoch: int, act: Callable[[], object], batch: int = 3) -> Any:
    """Within the returned context, do ``act`` at a batch (from 1) of an epoch of any training."""
    preprocess = StageTrainer.preprocess_batch

    def preprocess_and_act(self: StageTrainer, images: Any) -> Any:
        if self.epoch + 1 == epoch and self._batches + 1 == batch:
            act()
        return preprocess(self, images)

    return mock.patch.object(StageTrainer, "preprocess_batch", preprocess_and_act)


def killed_in(epoch: int, *arguments: object) -> Any:
    """Start a training in a process that kills itself with SIGKILL in the middle of an epoch."""
    folders = [str(Path(__file__).parents[1]), *sys.path]
    return subprocess.run(
        [sys.executable, "-m", "support.trainings", str(epoch), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(folders)},
    )


if __name__ == "__main__":
    with acting_in(int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL)):
        run_training(sys.argv[2], *map(Path, sys.argv[3:]), Console())
