"""Ultralytics checkpoints: reading those of anybody, writing ours."""

from __future__ import annotations

import io
from copy import deepcopy
from pathlib import Path

import torch

from yolo_compress import files
from yolo_compress.errors import UserError
from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION

from ultralytics.nn.tasks import DetectionModel, load_checkpoint  # isort: skip


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


def trained_model(checkpoint: Path) -> DetectionModel:
    """Return the moving average in a trainer's checkpoint, in fp32."""
    model, _ = load_checkpoint(checkpoint)
    model = getattr(model, "student_model", model)  # Ultralytics' own distillation wraps it
    model.criterion = None
    return model


def save_model(model: DetectionModel, path: Path) -> None:
    """Write a checkpoint that a bare Ultralytics opens, also with ``ULTRALYTICS_SAFE_LOAD=1``; atomically.

    The weights stay fp32: halving them would change what was measured. Equal models give equal files, so that
    a stage that is done again with the same outcome does not make the later ones be done again.
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
        "version": ULTRALYTICS_VERSION,
        "license": "AGPL-3.0 (https://ultralytics.com/license)",
    }
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)  # not into the file: an error of the disk would lose its name
    files.write(path, buffer.getvalue())
