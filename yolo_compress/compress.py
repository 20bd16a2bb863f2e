"""The commonest wish without a recipe: a trained checkpoint to a target, in the way that has won so far."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from yolo_compress.checkpoints import load_model
from yolo_compress.config.loading import recipe_of
from yolo_compress.config.sections import Recipe
from yolo_compress.errors import UserError
from yolo_compress.export.export import trained_size
from yolo_compress.pruning.budget import count_macs, count_params

from ultralytics.nn.tasks import DetectionModel  # isort: skip

# Epochs of recovery that it takes unless told; the fading has a quarter as many.
EPOCHS = 60


def like(checkpoint: Path, other: str, input_size: int) -> float:
    """Return which share of a checkpoint's multiply-accumulates another model has at the same classes.

    Args:
        checkpoint: the detector to compress.
        other: a checkpoint or an architecture of Ultralytics', as ``yolov8n.pt`` or ``yolov8n.yaml``.
        input_size: side of the square input in pixels.

    Raises:
        UserError: the other is not there, or no smaller.
    """
    model = load_model(checkpoint)
    if Path(other).is_file() and other.endswith(".pt"):
        layers: Any = load_model(other).yaml
    else:  # a stock name: its architecture is known without its weights
        layers = Path(other).with_suffix(".yaml").name
    try:
        target = DetectionModel(layers, nc=model.model[-1].nc, verbose=False)
    except FileNotFoundError as error:
        raise UserError(
            f"--like {other}: neither a checkpoint nor an architecture of Ultralytics'"
        ) from error
    share = count_macs(target, input_size) / count_macs(model, input_size)
    if share >= 1:
        raise UserError(
            f"--like {other}: it does {share:.2f} times the work of {checkpoint}; name a smaller model"
        )
    return share


def recipe_for(
    checkpoint: Path,
    data: Path,
    target: dict[str, float],
    *,
    input_size: int | None = None,
    epochs: int = EPOCHS,
    device: str | None = None,
    output: Path | None = None,
    overrides: Sequence[str] = (),
) -> Recipe:
    """Return the recipe that fades, prunes and recovers a trained checkpoint.

    Args:
        checkpoint: a trained Ultralytics ``.pt``; it is the teacher too.
        data: the data set that it was trained on, an Ultralytics description.
        target: what pruning leaves, as ``{"macs": 0.33}``.
        input_size: side of the square input in pixels; by default as the checkpoint was trained.
        epochs: of the recovery; the fading has a quarter as many.
        device: as Ultralytics names it; by default the first GPU, or the CPU.
        output: the run's folder; by default ``runs/compress-NAME``.
        overrides: further changes to the recipe, ``key=value``.

    Raises:
        UserError: the checkpoint is not there, or something does not fit.
    """
    if epochs < 1:
        raise UserError(f"--epochs {epochs}: at least 1")
    chosen = device or ("0" if torch.cuda.is_available() else "cpu")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    fading = max(1, epochs // 4)

    def training(count: int) -> dict[str, Any]:
        return {
            "epochs": count,
            "batch": 8 if chosen == "cpu" else 16,
            "lr": 0.001,
            "warmup_epochs": min(1, count - 1),
            "close_mosaic": count // 6,
        }

    content: dict[str, Any] = {
        "output": str(output or Path("runs", f"compress-{checkpoint.stem}")),
        "device": chosen,
        "amp": True,
        "threads": cores,
        "workers": 0 if chosen == "cpu" else 4,
        "input_size": input_size or trained_size(load_model(checkpoint)),
        "data": {"yaml": str(data)},
        "teacher": {"model": str(checkpoint)},
        "sparsify": {"mode": "fade", "train": training(fading)},
        "prune": {"target": target, "importance": "lamp", "scope": "global"},
        "distill": {"method": "cwd", "train": training(epochs)},
    }
    return recipe_of(content, overrides, f"the compression of {checkpoint}")


def written(recipe: Recipe) -> str:
    """Return a recipe as YAML: every setting in force."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False)


def plan_in_words(recipe: Recipe) -> str:
    """Say what a recipe of `recipe_for` will do."""
    assert recipe.sparsify
    assert recipe.prune
    assert recipe.distill
    model, size, target = load_model(recipe.teacher.model), recipe.input_size, recipe.prune.target
    return (
        f"{recipe.teacher.model}: {count_params(model) / 1e6:.2f} M parameters, "
        f"{count_macs(model, size) / 1e9:.2f} GMACs at {size}. To {target.share:.1%} of its {target.kind}: "
        f"{recipe.sparsify.train.epochs} epochs in which the channels that go fade, their removal, "
        f"{recipe.distill.train.epochs} epochs of recovery under the model as it is, export and measurement."
    )
