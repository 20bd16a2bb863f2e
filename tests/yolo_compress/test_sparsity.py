from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from rich.console import Console
from support.squares import make_model
from torch import nn

from yolo_compress.config.base import Training
from yolo_compress.config.sections import Recipe
from yolo_compress.config.techniques import Prune
from yolo_compress.pruning.importance import group_norm, importances
from yolo_compress.pruning.surgery import Surgery
from yolo_compress.sparsity.trainer import (
    SEPARATED,
    GammaPenalty,
    Scales,
    SparsityTrainer,
    contrast,
    distribution,
    penalty_gradient,
    penalty_rate,
    prunable_scales,
    soft_threshold,
    sparsify,
    write_gammas,
)
from yolo_compress.training import StageContext, train


def test_soft_threshold_shrinks_towards_zero_and_stops_there() -> None:
    values = torch.tensor([[1.0, -1.0, 0.3, -0.3, 0.5, 0.0]])
    torch.testing.assert_close(soft_threshold(values, 0.5), torch.tensor([[0.5, -0.5, 0.0, 0.0, 0.0, 0.0]]))


@pytest.mark.parametrize("column", [(-2.0,), (0.4,), (0.7, -1.1), (0.2, 0.3)])
def test_soft_threshold_is_the_proximal_operator(column: tuple[float, ...]) -> None:
    """It minimises ``||x - v||^2 / 2 + t sqrt(L) ||x||``: no other point of a fine grid does better."""
    axis = torch.linspace(-3, 3, 1201)
    grid = torch.cartesian_prod(*[axis] * len(column)).reshape(-1, len(column))
    value = torch.tensor(column)
    cost = (grid - value).square().sum(1) / 2 + 0.6 * len(column) ** 0.5 * grid.norm(dim=1)
    found = soft_threshold(value[:, None], 0.6)[:, 0]
    torch.testing.assert_close(found, grid[cost.argmin()], atol=6e-3, rtol=0)


def test_penalty_shrinks_the_importance_that_pruning_ranks_by_in_every_group_alike() -> None:
    """However many layers a channel lies in, its group norm falls by the same."""
    for layers in (1, 2, 5):
        gammas = torch.rand(layers, 20, generator=torch.Generator().manual_seed(layers)) + 0.5
        torch.testing.assert_close(group_norm(soft_threshold(gammas, 0.1)), group_norm(gammas) - 0.1)


def test_gradient_is_that_of_the_penalty() -> None:
    gammas = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    penalty = (3**0.5 * gammas.norm(dim=0)).sum()
    torch.testing.assert_close(torch.autograd.grad(penalty, gammas)[0], penalty_gradient(gammas.detach()))
    single = torch.tensor([[2.0, -0.1, 0.0]])
    torch.testing.assert_close(penalty_gradient(single), single.sign())


def test_schedules() -> None:
    def rates(schedule: str) -> list[float]:
        return [penalty_rate(schedule, 2.0, epoch, 4) for epoch in range(4)]

    assert rates("decay") == pytest.approx([2.0, 1.55, 1.1, 0.65])  # s0 (1 - 0.9 e/E)
    assert rates("constant") == [2.0] * 4
    assert rates("ramp") == [0.5, 1.0, 1.5, 2.0]


class Small(nn.Module):
    """A convolution and two BatchNorms, the second four channels of the second coupled to the first."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.first, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(self.convolution(x))
        return self.second(torch.cat([y, y**2], 1))


GROUPS = [Scales(("first", "second"), (torch.arange(4), torch.arange(4, 8)))]


def step(
    mode: str | None,
    micro_batches: int = 1,
    batch: int = 2,
    scaler: torch.amp.GradScaler | None = None,
    clip: float | None = None,
) -> Small:
    """Take one optimizer step as Ultralytics does: accumulate, unscale, clip, step."""
    torch.manual_seed(0)
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if mode:
        GammaPenalty(model, GROUPS, mode, rate=0.5).attach(optimizer)
    for _ in range(micro_batches):
        loss = (model(torch.rand(batch, 3, 5, 5)) ** 3).mean()
        (scaler.scale(loss) if scaler else loss).backward()
    if scaler:
        scaler.unscale_(optimizer)
    if clip:
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    (scaler.step(optimizer) if scaler else optimizer.step())
    return model


@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
@pytest.mark.parametrize(
    "way",
    [
        {},
        {"micro_batches": 4},
        {"batch": 7},
        {"scaler": 2.0},
        {"scaler": 65536.0},
        {"clip": 0.001},
        {"micro_batches": 3, "scaler": 1024.0, "clip": 0.01},
    ],
)
def test_penalty_does_not_depend_on_precision_accumulation_batch_or_clipping(
    mode: str, way: dict[str, Any]
) -> None:
    def scaled() -> dict[str, Any]:
        scale = way.get("scaler")
        return {**way, "scaler": torch.amp.GradScaler("cpu", init_scale=scale) if scale else None}

    free, shrunk = step(None, **scaled()), step(mode, **scaled())

    def coupled(model: Small) -> torch.Tensor:
        return GROUPS[0].read(model).detach()

    if mode == "proximal":
        torch.testing.assert_close(
            group_norm(coupled(free)) - group_norm(coupled(shrunk)), torch.full((4,), 0.05)
        )
    else:  # both start at 1, where the gradient of the norm is 1 in each
        torch.testing.assert_close(coupled(free) - coupled(shrunk), torch.full((2, 4), 0.05))


@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
def test_penalty_touches_nothing_but_the_scales_it_was_given(mode: str) -> None:
    free, shrunk = step(None).state_dict(), step(mode).state_dict()
    changed = {name for name in free if not torch.equal(free[name], shrunk[name])}
    assert changed == {"first.weight", "second.weight"}
    assert torch.equal(free["second.weight"][:4], shrunk["second.weight"][:4])


@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
def test_a_step_skipped_for_overflow_skips_the_penalty(mode: str) -> None:
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GammaPenalty(model, GROUPS, mode, rate=0.5).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    scaler.scale((model.first.weight.sum() + model.second.weight.sum()) * float("inf")).backward()
    scaler.step(optimizer)
    assert torch.equal(model.first.weight, torch.ones(4))


@pytest.mark.parametrize("overflow", [True, False])
def test_a_fused_optimizer_that_skips_the_step_itself_skips_the_penalty(overflow: bool) -> None:
    """Mixed precision calls it in any case and lets it find out about the overflow."""
    model = Small()
    try:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0, fused=True)
    except RuntimeError as error:
        pytest.skip(f"this torch has no fused optimizer on the CPU: {error}")
    GammaPenalty(model, GROUPS, "proximal", rate=0.5).attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    loss = model.convolution.weight.sum() + 0 * (model.first.weight.sum() + model.second.weight.sum())
    scaler.scale(loss * float("inf") if overflow else loss).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    expected = 1.0 if overflow else 0.95
    torch.testing.assert_close(model.first.weight.detach(), torch.full((4,), expected))


@pytest.mark.parametrize("mode", ["proximal", "subgradient"])
def test_adam_rescales_a_subgradient_away_and_not_the_proximal_step(mode: str) -> None:
    """Why the recipe refuses the one: ten times the penalty makes no difference to it."""

    def shrinkage(rate: float) -> float:
        model = Small()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        GammaPenalty(model, GROUPS, mode, rate).attach(optimizer)
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        for _ in range(3):
            optimizer.step()
        return 1 - float(model.first.weight.mean().detach())

    ratio = shrinkage(1.0) / shrinkage(0.1)
    assert ratio == pytest.approx(10 if mode == "proximal" else 1, rel=0.01)


def test_penalty_follows_the_learning_rate_of_a_restored_optimizer() -> None:
    model = Small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    GammaPenalty(model, GROUPS, "proximal", rate=0.5).attach(optimizer)
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = 0.2
    optimizer.load_state_dict(state)
    optimizer.step()
    torch.testing.assert_close(model.first.weight.detach(), torch.full((4,), 0.9))


def recipe_with(context: StageContext, **sparsify: Any) -> StageContext:
    recipe = context.recipe.model_dump()
    recipe["sparsify"] = {**recipe["sparsify"], **sparsify}
    return dataclasses.replace(context, recipe=Recipe.model_validate(recipe))


def training(**changes: Any) -> dict[str, Any]:
    return {
        "epochs": 2,
        "batch": 4,
        "lr": 0.01,
        "lr_final": 1.0,
        "warmup_epochs": 0,
        "augment": {"mosaic": 0},
        **changes,
    }


@pytest.mark.parametrize(
    ("mode", "accumulate", "optimizer"), [("proximal", 2, "AdamW"), ("subgradient", 1, "SGD")]
)
def test_trainer_penalizes_every_prunable_scale_once_an_optimizer_step(
    mode: str,
    accumulate: int,
    optimizer: str,
    checkpoint: Path,
    context: StageContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = training(batch=2, accumulate=accumulate, optimizer=optimizer)
    context = recipe_with(context, mode=mode, schedule="ramp", strength=0.2, train=given)
    rates: list[float] = []
    method = "_shrink" if mode == "proximal" else "_add_gradient"
    original = getattr(GammaPenalty, method)

    def spy(penalty: GammaPenalty, *arguments: Any) -> None:
        rates.append(penalty.rate)
        original(penalty, *arguments)

    monkeypatch.setattr(GammaPenalty, method, spy)
    trainer = SparsityTrainer.prepare(checkpoint, Training.model_validate(given), context)
    trainer.train()
    steps = 4 // accumulate  # an epoch: 8 images in batches of 2
    assert rates == pytest.approx([0.1] * steps + [0.2] * steps)


def test_scales_of_a_trained_model_fall_with_the_penalty(checkpoint: Path, context: StageContext) -> None:
    """Through the whole trainer: the same training with and without, at a strength that shows."""

    def mean_norm(strength: float, folder: str) -> float:
        chosen = recipe_with(context, strength=strength, schedule="constant", train=training())
        chosen = dataclasses.replace(chosen, folder=context.folder / folder)
        model = train(SparsityTrainer, checkpoint, chosen.recipe.sparsify.train, chosen)
        return float(torch.cat(importances(Surgery(model), "gamma_group")).mean())

    # 4 steps of 0.01 x strength; the average follows at its own pace
    assert mean_norm(20.0, "strong") < mean_norm(1e-9, "none") - 0.1


def test_distribution_is_told_by_layer() -> None:
    model = make_model()
    with torch.no_grad():
        model.model[0].bn.weight.copy_(torch.linspace(-1.6, -0.1, 16))
    told = distribution(model, prunable_scales(model))
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert set(told["layers"]) == set(norms)
    assert told["layers"]["model.0.bn"] == pytest.approx(np.linspace(0.1, 1.6, 11).tolist(), abs=1e-5)
    every = torch.cat([m.weight.abs() for m in norms.values()]).detach().numpy()
    assert told["all"] == pytest.approx(np.quantile(every, np.linspace(0, 1, 11)).tolist(), abs=1e-4)
    json.dumps(told)


@pytest.mark.parametrize(
    ("norms", "scope", "expected"),
    [
        ([np.array([1.0, 1.0, 1.0, 1.0])], "uniform", 1.0),
        ([np.array([0.0, 2.0, 0.0, 1.0])], "uniform", 0.0),
        ([np.linspace(0, 1, 1000)], "uniform", 1 / 3),
        # A whole layer is small: a global ranking separates perfectly, half of each layer does not.
        ([np.full(4, 0.01), np.full(4, 1.0)], "uniform", 1.0),
        ([np.full(4, 0.01), np.full(4, 1.0)], "global", 0.01),
    ],
)
def test_contrast_is_what_the_removed_have_of_what_the_kept_have(
    norms: list[np.ndarray], scope: str, expected: float
) -> None:
    assert contrast(norms, 0.5, scope) == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("separated", [True, False])
def test_scales_that_have_not_separated_are_warned_of(separated: bool, tmp_path: Path) -> None:
    model = make_model()
    prune = Prune.model_validate({"target": {"macs": 0.25}})
    if separated:  # half of each group's channels at next to nothing
        surgery = Surgery(model)
        with torch.no_grad():
            for group, scales in zip(surgery.groups, prunable_scales(model), strict=True):
                for name, index in zip(scales.names, scales.indices, strict=True):
                    model.get_submodule(name).weight[index[: group.width // 2]] *= 0.01
    history = [{"epoch": 0, **distribution(model, prunable_scales(model))}]
    entry = write_gammas(tmp_path, history, model, prune)
    record = json.loads((tmp_path / entry["json"]).read_text())
    assert record["contrast"] == entry["contrast"]
    assert record["kept"] == 0.5  # a quarter of the operations is half of the channels
    assert record["epochs"] == history
    assert cv2.imread(str(tmp_path / entry["picture"])).shape[0] > 300
    if separated:
        assert entry["contrast"] < 0.05
        assert entry["warning"] is None
    else:
        assert entry["contrast"] > SEPARATED
        assert "have not separated" in entry["warning"]
        assert "sparsify.strength" in entry["warning"]


def test_stage_leaves_the_record_of_every_epoch_also_when_resumed(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    context = dataclasses.replace(
        recipe_with(context, train=training(epochs=3)), console=Console(file=shown, width=300)
    )
    original = SparsityTrainer.on_train_epoch_start

    def die(trainer: SparsityTrainer) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt
        original(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(SparsityTrainer, "on_train_epoch_start", die)
        with pytest.raises(KeyboardInterrupt):
            sparsify(checkpoint, context)
    model, facts = sparsify(checkpoint, context)
    assert "resumed at epoch 2/3" in shown.getvalue()
    entry = facts["gammas"]
    record = json.loads((context.folder / entry["json"]).read_text())
    assert [entry["epoch"] for entry in record["epochs"]] == [0, 1, 2, 3]
    assert record["epochs"][-1] == {"epoch": 3, **distribution(model, prunable_scales(model))}
    assert (context.folder / entry["picture"]).is_file()
    # A training of seconds separates nothing, and that is said.
    assert entry["warning"]
    assert entry["warning"] in shown.getvalue()
