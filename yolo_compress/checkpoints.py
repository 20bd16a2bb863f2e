"""Ultralytics checkpoints: reading those of anybody, writing ours."""

from __future__ import annotations

import io
import os
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_compress import files
from yolo_compress.errors import UserError
from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION

from ultralytics.nn.tasks import DetectionModel, load_checkpoint  # isort: skip


_DETECTORS = ("Detect", "v10Detect")
_OTHER_HEADS = {
    "Segment": "a segmentation model (-seg)",
    "Pose": "a pose model (-pose)",
    "OBB": "a model of oriented boxes (-obb)",
    "Classify": "a classification model (-cls)",
    "RTDETRDecoder": "an RT-DETR model",
    "WorldDetect": "a YOLO-World model",
    "YOLOEDetect": "a YOLOE model",
    "YOLOESegment": "a YOLOE model",
}


def load_model(path: str | Path) -> DetectionModel:
    """Load a YOLOv8 detector in fp32 from an Ultralytics checkpoint.

    Raises:
        UserError: there is no such file, or it holds no detector.
    """
    if not os.path.isfile(path):
        raise UserError(f"there is no model at {path}")
    try:
        model, _ = load_checkpoint(path)
    except Exception as error:  # Ultralytics raises whatever its unpickling meets
        if "nsupported " in (refused := str(error.__cause__)) and "operand" not in refused:
            raise UserError(
                f"{path} needs code besides the layers of Ultralytics {ULTRALYTICS_VERSION}, which would run "
                "on loading; where you trust whoever made it: yolo-compress --trust ..."
            ) from error
        raise UserError(
            f"{path} is no checkpoint that Ultralytics {ULTRALYTICS_VERSION} opens: {_first_line(error)}"
        ) from error
    require_detector(model, path)
    return model


def require_detector(model: Any, path: str | Path) -> None:
    """See that a model is a detector: Ultralytics' Detect head behind three channels.

    Raises:
        UserError: it is something else; the message says what.
    """
    kind = type(model).__name__
    head = (
        type(model.model[-1]).__name__ if isinstance(getattr(model, "model", None), nn.Sequential) else kind
    )
    if kind != "DetectionModel" or head not in _DETECTORS:
        what = _OTHER_HEADS.get(
            head, f"a {kind}" if head in (kind, "Detect") else f"a model with the head {head}"
        )
        raise UserError(f"{path} holds {what}, not a detector: it takes YOLO models with the head Detect")
    channels = next(m.in_channels for m in model.modules() if isinstance(m, nn.Conv2d))
    if channels != 3:
        raise UserError(f"{path} takes images of {channels} channels; a detector has 3 (color)")


def _first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


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
