from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from yolo_compress import sparsity
from yolo_compress.config import Training
from yolo_compress.sparsity import GammaPenalty, SparsityTrainer, penalty_rate, soft_threshold
from yolo_compress.training import Setting


def test_soft_threshold_shrinks_towards_zero_and_stops_there() -> None:
    values = torch.tensor([1.0, -1.0, 0.3, -0.3, 0.5, 0.0])
    torch.testing.assert_close(soft_threshold(values, 0.5), torch.tensor([0.5, -0.5, 0.0, 0.0, 0.0, 0.0]))


def test_soft_threshold_is_the_proximal_operator() -> None:
    """It minimises ``(x - v)^2 / 2 + t |x|``: no other point of a fine grid does better."""
    grid = torch.linspace(-3, 3, 6001)
    for value in (-2.0, -0.4, 0.0, 0.7, 1.9):
        cost = (grid - value) ** 2 / 2 + 0.6 * grid.abs()
        found = soft_threshold(torch.tensor(value), 0.6)
        assert found == pytest.approx(float(grid[cost.argmin()]), abs=2e-3)


def test_rate_falls_to_a_tenth_as_published() -> None:
    assert penalty_rate(2.0, 0, 10) == 2.0
    assert penalty_rate(2.0, 5, 10) == pytest.approx(1.1)
    assert penalty_rate(2.0, 10, 10) == pytest.approx(0.2)


def step(
    micro_batches: int, penalised: bool, scaler: torch.amp.GradScaler | None = None
) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    convolution, norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
    optimizer = torch.optim.SGD([*convolution.parameters(), *norm.parameters()], lr=0.1)
    if penalised:
        GammaPenalty([norm.weight], rate=0.5).attach(optimizer)
    for _ in range(micro_batches):
        loss = (norm(convolution(torch.rand(2, 3, 5, 5))) ** 3).mean()
        (scaler.scale(loss) if scaler else loss).backward()
    if scaler:
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
    else:
        optimizer.step()
    return convolution, norm


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_penalty_acts_once_a_step_whatever_the_accumulation(micro_batches: int) -> None:
    free, shrunk = step(micro_batches, False)[1], step(micro_batches, True)[1]
    torch.testing.assert_close(free.weight - shrunk.weight, torch.full((4,), 0.1 * 0.5))


def test_penalty_touches_nothing_but_the_gammas() -> None:
    (free_conv, free_norm), (conv, norm) = step(2, False), step(2, True)
    assert torch.equal(free_norm.bias, norm.bias)
    assert torch.equal(free_conv.weight, conv.weight)
    assert torch.equal(free_conv.bias, conv.bias)


@pytest.mark.parametrize("scale", [2.0, 1024.0])
def test_penalty_does_not_depend_on_the_loss_scale(scale: float) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    free, shrunk = step(1, False)[1], step(1, True, scaler)[1]
    torch.testing.assert_close(free.weight - shrunk.weight, torch.full((4,), 0.1 * 0.5))


def test_a_step_skipped_for_overflow_skips_the_penalty() -> None:
    norm = nn.BatchNorm2d(4)
    optimizer = torch.optim.SGD(norm.parameters(), lr=0.1)
    GammaPenalty([norm.weight], rate=0.5).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale(norm.weight.sum() * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(norm.weight, torch.ones(4))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_trainer_penalises_every_prunable_gamma_once_an_optimizer_step(
    accumulate: int, checkpoint: Path, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    shrunk: list[tuple[int, float]] = []

    def spy(values: torch.Tensor, threshold: float) -> torch.Tensor:
        shrunk.append((id(values), threshold))
        return soft_threshold(values, threshold)

    monkeypatch.setattr(sparsity, "soft_threshold", spy)
    training = Training(
        epochs=2,
        batch=2,
        accumulate=accumulate,
        lr=0.01,
        lr_final=1.0,
        warmup_epochs=0,
        augment={"mosaic": 0},
    )
    trainer = SparsityTrainer.prepare(checkpoint, training, setting)
    steps = 0

    def count(*_: object) -> None:
        nonlocal steps
        steps += 1

    trainer.add_callback(
        "on_pretrain_routine_end", lambda t: t.optimizer.register_step_pre_hook(count) and None
    )
    trainer.train()
    gammas = {id(m.weight) for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d)}
    assert steps == 8 // accumulate  # 8 images in batches of 2, twice
    assert {key for key, _ in shrunk} == gammas
    assert len(shrunk) == steps * len(gammas)
    thresholds = [threshold for _, threshold in shrunk]
    assert thresholds[0] == pytest.approx(0.01 * 0.5)
    assert thresholds[-1] == pytest.approx(0.01 * 0.5 * 0.55)  # second of two epochs: 1 - 0.9 / 2
