from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.squares import enliven, make_model

from yolo_compress.pruning.importance import importances, keep_largest
from yolo_compress.pruning.sensitivity import STEPS, calibration_batch, measure_sensitivity, taylor
from yolo_compress.pruning.surgery import Surgery

from ultralytics.cfg import get_cfg  # isort: skip


def test_calibration_images_come_with_their_labels_and_without_augmentation(dataset: Path) -> None:
    batch = calibration_batch(dataset, 3, 64)
    assert batch["img"].shape == (3, 3, 64, 64)
    assert batch["img"].dtype == torch.float32
    assert 0 <= float(batch["img"].min()) < float(batch["img"].max()) <= 1
    assert batch["batch_idx"].tolist() == [0, 0, 1, 1, 2, 2]
    assert sorted(set(batch["cls"].flatten().tolist())) == [0, 1]
    again = calibration_batch(dataset, 3, 64)
    assert torch.equal(batch["img"], again["img"])
    assert torch.equal(batch["bboxes"], again["bboxes"])


def test_no_more_images_than_there_are(dataset: Path) -> None:
    assert len(calibration_batch(dataset, 100, 64)["img"]) == 8


def test_sensitivity_is_the_loss_of_the_network_without_those_channels(dataset: Path) -> None:
    model = enliven(make_model())
    surgery = Surgery(model)
    surgery.units = tuple(unit for unit in surgery.units if len(unit) == 2)[:2]  # halves of a C2f
    scores = importances(surgery, "gamma")
    batch = calibration_batch(dataset, 2, 64)
    before = {k: v.clone() for k, v in surgery.model.state_dict().items()}
    steps: list[tuple[int, int]] = []
    losses = measure_sensitivity(surgery, scores, batch, lambda done, total: steps.append((done, total)))
    assert losses.shape == (len(surgery.units), STEPS + 1)
    assert (losses[:, 0] == 0).all()
    assert steps[-1] == (len(surgery.units), len(surgery.units))
    after = surgery.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())

    # The same, cut for real.
    row = 1
    kept = [torch.arange(group.width) for group in surgery.groups]
    for member in surgery.units[row]:
        kept[member] = keep_largest(scores[member], surgery.groups[member].width // 2)

    def loss(network: torch.nn.Module) -> float:
        network.args = get_cfg()
        network.criterion = None
        with torch.no_grad():
            return float(network.loss(batch)[0].sum()) / 2

    surgery.remove(kept)
    assert loss(surgery.folded()) - loss(model) == pytest.approx(losses[row, STEPS // 2], rel=1e-3)
    assert np.abs(losses[row]).max() > 1e-2


def test_taylor_is_the_slope_of_the_loss_when_a_channel_is_turned_down(dataset: Path) -> None:
    """Against the change that a turn by a thousandth really makes."""
    surgery = Surgery(enliven(make_model()))
    batch = calibration_batch(dataset, 1, 64)
    network = surgery.model
    scores = taylor(surgery, batch)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert [len(values) for values in scores] == [group.width for group in surgery.groups]
    index = next(i for i, group in enumerate(surgery.groups) if len(group.of("norm")) > 1)  # coupled layers
    channel = int(scores[index].argmax())

    def loss() -> float:
        with torch.no_grad():
            return float(network.double().loss({**batch, "img": batch["img"].double()})[0].sum())

    network.criterion = None
    before = loss()
    for part in surgery.groups[index].of("norm"):
        norm = network.get_submodule(part.layer)
        with torch.no_grad():
            for tensor in (norm.weight, norm.bias):
                tensor[part.positions[part.channels == channel]] *= 1 - 1e-3
    assert ((loss() - before) / 1e-3) ** 2 == pytest.approx(float(scores[index][channel]), rel=0.1)
