"""What a detector's loss says about pruning each of its parts, measured on a few labelled images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.pruning.importance import keep_largest
from yolo_compress.pruning.surgery import Group, Surgery

from ultralytics.cfg import get_cfg  # isort: skip
from ultralytics.data import build_yolo_dataset  # isort: skip
from ultralytics.data.utils import check_det_dataset  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

# A unit's loss is measured with these shares of its channels gone; the last one would leave nothing of it.
STEPS = 4


def calibration_batch(data: Path, images: int, input_size: int) -> dict[str, Any]:
    """Return the first training images of a data set with their labels, letterboxed, not augmented.

    Args:
        data: an Ultralytics data set description.
        images: how many; fewer where the set has fewer.
        input_size: side of the square input in pixels.

    Returns:
        A batch as Ultralytics' losses take it; ``img`` is N x 3 x H x W fp32 RGB, 0 to 1.
    """
    description = check_det_dataset(str(data), autodownload=False)
    settings = get_cfg(overrides={"imgsz": input_size, "task": "detect"})
    dataset = build_yolo_dataset(settings, description["train"], images, description, mode="val")
    batch = dataset.collate_fn([dataset[i] for i in range(min(images, len(dataset)))])
    batch["img"] = batch["img"].float() / 255
    return batch


@torch.no_grad()
def measure_sensitivity(
    surgery: Surgery,
    importances: Sequence[torch.Tensor],
    batch: dict[str, Any],
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Measure how much the detection loss rises when the least important channels of a unit are gone.

    A channel whose BatchNorm scales and shifts are 0 sends what a removed one sends: nothing. So the network
    is masked and not cut.

    Args:
        surgery: the opened model, not yet operated on; it is left as it was.
        importances: of the channels of each group.
        batch: as `calibration_batch` gives it, on the model's device.
        progress: called with (units done, units in all).

    Returns:
        U x (STEPS + 1) float64: increase of the mean loss of an image with the share f / STEPS gone.
    """
    surgery.model.args = get_cfg()  # the gains of the loss' parts
    dense = _loss(surgery.model, batch)
    result = np.zeros((len(surgery.units), STEPS + 1))
    for row, unit in enumerate(surgery.units):
        for step in range(1, STEPS + 1):
            saved = [
                state
                for member in unit
                for state in _mask(surgery.model, surgery.groups[member], importances[member], step / STEPS)
            ]
            result[row, step] = _loss(surgery.model, batch) - dense
            for tensor, before in saved:
                tensor.copy_(before)
        if progress is not None:
            progress(row + 1, len(surgery.units))
    return result


def taylor(
    surgery: Surgery, batch: dict[str, Any], progress: Callable[[int, int], None] | None = None
) -> list[torch.Tensor]:
    """Return by how much, to first order, the loss changes when a channel is silenced, squared.

    Silencing a channel multiplies scale and shift of its BatchNorms by 0, which changes the loss of an image
    by about ``-sum(gamma dL/dgamma + beta dL/dbeta)`` over the coupled layers; the importance is the mean of
    its square over the images (Molchanov et al., 2019, arXiv 1906.10771, with coupled gates as one).

    Args:
        surgery: the opened model, not yet operated on; it is left as it was.
        batch: as `calibration_batch` gives it, on the model's device.
        progress: called with (images done, images in all).

    Returns:
        One fp32 tensor of W importances on the CPU for each group; 0 for channels that no BatchNorm has.
    """
    model = surgery.model
    model.args = get_cfg()
    count = len(batch["img"])
    sums = [torch.zeros(group.width) for group in surgery.groups]
    for image in range(count):
        of_image = batch["batch_idx"].flatten() == image
        one = {
            "img": batch["img"][image : image + 1],
            "cls": batch["cls"][of_image],
            "bboxes": batch["bboxes"][of_image],
            "batch_idx": torch.zeros_like(batch["batch_idx"][of_image]),
        }
        model.zero_grad(set_to_none=True)
        with torch.enable_grad():
            model.loss(one)[0].sum().backward()
        with torch.no_grad():
            for total, group in zip(sums, surgery.groups, strict=True):
                change = torch.zeros_like(total)
                for part in group.of("norm"):
                    norm = model.get_submodule(part.layer)
                    gates = (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad).float().cpu()
                    change.index_add_(0, part.channels, gates[part.positions])
                total += change.square() / count
        if progress is not None:
            progress(image + 1, count)
    model.zero_grad(set_to_none=True)
    return sums


def _loss(model: DetectionModel, batch: dict[str, Any]) -> float:
    loss, _ = model.loss(batch)
    return float(loss.sum()) / len(batch["img"])


def _mask(
    model: DetectionModel, group: Group, importance: torch.Tensor, share: float
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Silence the least important channels; return the tensors touched, each with its former values."""
    gone = torch.ones(group.width, dtype=torch.bool)
    gone[keep_largest(importance, round(group.width * (1 - share)))] = False
    saved = []
    for part in group.of("norm"):
        norm = model.get_submodule(part.layer)
        for tensor in (norm.weight, norm.bias):
            saved.append((tensor, tensor.clone()))
            tensor[part.positions[gone[part.channels]]] = 0
    return saved
