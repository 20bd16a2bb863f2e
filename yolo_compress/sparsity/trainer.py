"""Sparsity training: a penalty drives the BatchNorm scales of superfluous channels towards zero.

Network slimming (Liu et al., 2017, arXiv 1708.06519) with the schedule of arXiv 2509.12918. Channels that
residual sums couple go together or not at all, so their scales are penalised as one: the group lasso (Yuan
and Lin, 2006), ``sqrt(L) ||gamma||_2`` for a channel with L scales, which is |gamma| for the many channels
that have one. What it shrinks is the importance ``gamma_group`` that pruning ranks by.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from yolo_compress import files
from yolo_compress.config.base import Training, required
from yolo_compress.config.techniques import Prune
from yolo_compress.pruning.importance import group_norm
from yolo_compress.pruning.surgery import coupled_gammas
from yolo_compress.training import StageContext, StageTrainer, train

from ultralytics.nn.tasks import DetectionModel  # isort: skip
from ultralytics.utils import RANK  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip

GAMMAS_JSON = "gammas.json"
GAMMAS_PICTURE = "gammas.png"
QUANTILES = tuple(step / 10 for step in range(11))
# The channels to be removed should carry little of what the others do: after a penalty that worked it is a
# few hundredths; scales spread evenly from 0 up have a third at a cut in the middle, untrained ones near 1.
SEPARATED = 0.2


def soft_threshold(gammas: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the proximal operator of ``threshold sqrt(L) ||gamma||_2`` for each column.

    Args:
        gammas: L x W, the scales of W channels in the L layers that are coupled.
        threshold: at least 0. The root mean square of each column falls by this, down to 0; signs and ratios
            inside a column stay. For L = 1 it is ``sign(x) max(|x| - threshold, 0)``.
    """
    norm = group_norm(gammas)
    return gammas * ((norm - threshold).clamp(min=0) / norm.clamp(min=torch.finfo(gammas.dtype).tiny))


def penalty_gradient(gammas: torch.Tensor) -> torch.Tensor:
    """Return a subgradient of ``sqrt(L) ||gamma||_2`` for each column of L x W: the sign where L is 1."""
    norm = group_norm(gammas)
    return gammas / torch.where(norm > 0, norm, torch.ones_like(norm))


def penalty_rate(schedule: str, strength: float, epoch: int, epochs: int) -> float:
    """Return the weight of the penalty in epoch ``epoch`` (from 0) of ``epochs``.

    ``decay``: s0 (1 - 0.9 e/E), as published. ``constant``: s0. ``ramp``: s0 (e + 1)/E, so that a network
    trained from scratch finds its features before they are thinned.
    """
    factors = {"decay": 1 - 0.9 * epoch / epochs, "constant": 1.0, "ramp": (epoch + 1) / epochs}
    return strength * factors[schedule]


def sufficient_strength(schedule: str, epochs: int, steps: int, training: Training) -> float:
    """Return the strength at which a scale of 1 that nothing needs reaches 0 at the end of a training.

    Each of ``steps`` steps takes learning rate x penalty rate from it; the learning rate falls in a straight
    line from ``lr`` to ``lr x lr_final``.
    """
    progress = [epoch / epochs for epoch in range(epochs)]
    pulls = [
        penalty_rate(schedule, 1.0, epoch, epochs) * (1 - (1 - training.lr_final) * done)
        for epoch, done in enumerate(progress)
    ]
    return epochs / (steps * training.lr * sum(pulls))


@dataclass(frozen=True)
class Scales:
    """Where the scales of one group of coupled channels lie.

    Attributes:
        names: the L BatchNorm layers.
        indices: for each, W int64: row i is channel i of the group.
    """

    names: tuple[str, ...]
    indices: tuple[torch.Tensor, ...]

    def read(self, model: nn.Module) -> torch.Tensor:
        """Return a copy of the scales in ``model``, L x W."""
        return torch.stack(
            [
                model.get_submodule(name).weight[index.to(model.get_submodule(name).weight.device)]
                for name, index in zip(self.names, self.indices, strict=True)
            ]
        )


def prunable_scales(model: nn.Module) -> list[Scales]:
    """Return the scales of every group of channels that pruning can remove, and of no other.

    Raises:
        UserError: pruning does not support the architecture.
    """
    return [
        Scales(tuple(name for name, _ in places), tuple(index for _, index in places))
        for places in coupled_gammas(model)
    ]


class GammaPenalty:
    """Shrinks the scales of a model once for each step of its optimizer, whatever came before the step.

    Hooks of the optimizer run after the gradients were unscaled and clipped, once for many forward passes,
    and not at all where mixed precision skips the step. A penalty added to the loss would be divided by the
    batches that are accumulated and by the clipping, one added to scaled gradients by the loss scale.

    Attributes:
        rate: weight of the penalty, in units of the loss gradient.
    """

    def __init__(self, model: nn.Module, groups: Sequence[Scales], mode: str, rate: float) -> None:
        self._groups = [
            [
                (weight := model.get_submodule(name).weight, index.to(weight.device))
                for name, index in zip(group.names, group.indices, strict=True)
            ]
            for group in groups
        ]
        self._mode = mode
        self.rate = rate

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Work at every step that ``optimizer`` takes."""
        # By position: the groups themselves are replaced when the optimizer's state is loaded.
        self._position = {
            id(parameter): position
            for position, group in enumerate(optimizer.param_groups)
            for parameter in group["params"]
        }
        if self._mode == "subgradient":
            optimizer.register_step_pre_hook(self._add_gradient)
        else:
            optimizer.register_step_post_hook(self._shrink)

    @torch.no_grad()
    def _add_gradient(self, *_: Any) -> None:
        for group in self._groups:
            gradient = self.rate * penalty_gradient(torch.stack([w[index] for w, index in group]))
            for (weight, index), row in zip(group, gradient, strict=True):
                weight.grad[index] += row

    @torch.no_grad()
    def _shrink(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is called for a step with infinite gradients too, and skips it by itself.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is not None and overflow.item():
            return
        for group in self._groups:
            rate = optimizer.param_groups[self._position[id(group[0][0])]]["lr"] * self.rate
            shrunk = soft_threshold(torch.stack([w[index] for w, index in group]), rate)
            for (weight, index), row in zip(group, shrunk, strict=True):
                weight[index] = row


class RecordingTrainer(StageTrainer):
    """Notes what the scales of the channels that pruning can remove do.

    Attributes:
        gammas: `distribution` before the training and after each epoch.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.gammas: list[dict[str, Any]] = []

    def extra_state(self) -> dict[str, Any]:
        """Return the record of the scales."""
        return {**super().extra_state(), "gammas": self.gammas}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the record of the scales."""
        super().load_extra_state(state)
        self.gammas = state["gammas"]

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the stock optimizer, and find the scales."""
        self._scales = prunable_scales(unwrap_model(model))  # in a distributed training it is wrapped
        return super().build_optimizer(model, *args, **kwargs)

    def on_train_start(self) -> None:
        """Note the scales that the training starts from."""
        super().on_train_start()
        if self.start_epoch == 0:
            self._note_gammas(0)

    def on_train_epoch_end(self) -> None:
        """Note what became of the scales."""
        super().on_train_epoch_end()
        self._note_gammas(self.epoch + 1)

    def _note_gammas(self, epochs: int) -> None:
        if RANK not in (-1, 0):
            return
        # Of the average, which becomes the result: it is what pruning will see.
        self.gammas.append({"epoch": epochs, **distribution(self.ema.ema, self._scales)})
        files.write(self.save_dir.parent / GAMMAS_JSON, json.dumps({"epochs": self.gammas}).encode())


class SparsityTrainer(RecordingTrainer):
    """Trains with a penalty on the scales of the channels that pruning can remove, and on nothing else."""

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Hang the penalty on the optimizer."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        mode = required(self.job.recipe.sparsify).mode
        self._penalty = GammaPenalty(unwrap_model(model), self._scales, mode, rate=0.0)
        self._penalty.attach(optimizer)
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Follow the schedule."""
        super().on_train_epoch_start()
        settings = required(self.job.recipe.sparsify)
        strength = settings.strength
        if strength is None:
            steps = self.epochs * self.steps_an_epoch
            strength = sufficient_strength(settings.schedule, self.epochs, steps, settings.train)
        self._penalty.rate = penalty_rate(settings.schedule, strength, self.epoch, self.epochs)


def sparsify(model: Path, context: StageContext) -> tuple[DetectionModel, dict[str, Any]]:
    """Train a model towards sparsity, write what its scales did, and say so where they have not separated.

    Args:
        model: checkpoint of the dense model.
        context: for the rest see ``training.train``.

    Returns:
        The trained model, and the entry ``gammas`` for the stage's record.
    """
    settings = required(context.recipe.sparsify)
    if settings.mode == "fade":
        from yolo_compress.sparsity.fading import fading_trainer

        teacher = context.teacher or model  # which the fading, where it distills, learns from
        trained = train(
            fading_trainer(settings), model, settings.train, dataclasses.replace(context, teacher=teacher)
        )
    else:
        trained = train(SparsityTrainer, model, settings.train, context)
    history = json.loads((context.folder / GAMMAS_JSON).read_text(encoding="utf-8"))["epochs"]
    entry = write_gammas(context.folder, history, trained, required(context.recipe.prune))
    if entry["warning"]:
        context.console.print("warning:", style="yellow", end=" ")
        context.console.print(entry["warning"], markup=False, soft_wrap=True)
    return trained, {"gammas": entry}


@torch.no_grad()
def distribution(model: nn.Module, groups: Sequence[Scales]) -> dict[str, Any]:
    """Return the quantiles of |gamma| over all prunable channels and by layer, as plain values."""
    layers: dict[str, list[torch.Tensor]] = {}
    for group in groups:
        for name, row in zip(group.names, group.read(model).abs().float().cpu(), strict=True):
            layers.setdefault(name, []).append(row)
    joined = {name: torch.cat(rows) for name, rows in layers.items()}

    def quantiles(values: torch.Tensor) -> list[float]:
        return [round(float(value), 6) for value in np.quantile(values.numpy(), QUANTILES)]

    return {
        "all": quantiles(torch.cat(list(joined.values()))),
        "layers": {name: quantiles(values) for name, values in joined.items()},
    }


def contrast(norms: Sequence[NDArray[np.float64]], kept: float, scope: str) -> float:
    """Return the mean importance of the channels that pruning removes, as a share of that of those it keeps.

    Args:
        norms: `group_norm` of the channels of each group.
        kept: share of the channels that stay.
        scope: whether that holds in each group (``uniform``) or over all (``global``).

    Returns:
        0 (what goes is zero: perfectly separated) to 1 (no difference).
    """
    pools = list(norms) if scope == "uniform" else [np.concatenate(norms)]
    removed, stays = [], []
    for pool in pools:
        cut = round(len(pool) * (1 - kept))
        ordered = np.sort(pool)
        removed.append(ordered[:cut])
        stays.append(ordered[cut:])
    return float(np.concatenate(removed).mean() / np.concatenate(stays).mean())


def expected_share(prune: Prune) -> float:
    """Return about which share of the channels a recipe's pruning will keep.

    Parameters and multiply-accumulates go with the square of the widths; latency is taken to do so too.
    """
    share = prune.target.share
    return share if prune.target.kind == "channels" else share**0.5


@torch.no_grad()
def write_gammas(
    folder: Path, history: Sequence[dict[str, Any]], model: DetectionModel, prune: Prune
) -> dict[str, Any]:
    """Write the record of the scales and its picture into a stage's folder.

    Args:
        folder: where ``gammas.json`` and ``gammas.png`` go.
        history: of a `SparsityTrainer`.
        model: the trained model.
        prune: the recipe's section, for the cut at which the scales should have separated.

    Returns:
        An entry for the stage's record: the names of the two files, ``contrast``, and ``warning``: a sentence
        where the scales have not separated, None where they have.
    """
    norms = [group_norm(group.read(model)).double().cpu().numpy() for group in prunable_scales(model)]
    silent = float(np.mean(np.concatenate(norms) == 0))  # by a fading, which has done what it was to do
    kept = 1 - silent if silent else expected_share(prune)
    value = 0.0 if silent else contrast(norms, kept, prune.scope)
    warning = None
    if value > SEPARATED:
        warning = (
            f"the BatchNorm scales have not separated: those of the {1 - kept:.0%} of the channels that "
            f"pruning will remove have {value:.0%} of the others' size (below {SEPARATED:.0%} is good), so "
            "removing them will cost accuracy. Raise sparsify.strength or sparsify.train.epochs"
        )
    record = {"quantiles": QUANTILES, "kept": kept, "contrast": value, "epochs": list(history)}
    files.write(folder / GAMMAS_JSON, json.dumps(record).encode())
    draw_gammas(history, folder / GAMMAS_PICTURE)
    return {"json": GAMMAS_JSON, "picture": GAMMAS_PICTURE, "contrast": value, "warning": warning}


def draw_gammas(history: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the distribution of the scales over the epochs, and by layer before and after, as a PNG."""
    figure = Figure(figsize=(11, 7), layout="constrained")
    over_time, by_layer = figure.subplots(2, 1)
    epochs = [entry["epoch"] for entry in history]
    bands = np.array([entry["all"] for entry in history]).T  # quantile x epoch
    middle = len(QUANTILES) // 2
    for inner in range(middle):
        over_time.fill_between(epochs, bands[inner], bands[-1 - inner], color="tab:blue", alpha=0.15)
    over_time.plot(epochs, bands[middle], color="tab:blue", marker="o", markersize=3, label="median")
    over_time.set(
        xlabel="epoch",
        ylabel="|gamma|",
        title="BatchNorm scales of all prunable channels: deciles",
        xlim=(epochs[0], max(epochs[-1], epochs[0] + 1)),
        ylim=(0, None),
    )
    over_time.legend()
    layers = list(history[0]["layers"])
    places = np.arange(len(layers))
    for entry, color, shift in ((history[0], "tab:gray", -0.2), (history[-1], "tab:blue", 0.2)):
        values = np.array([entry["layers"][layer] for layer in layers]).T  # quantile x layer
        by_layer.vlines(places + shift, values[1], values[-2], color=color, linewidth=3)
        by_layer.plot(
            places + shift,
            values[middle],
            linestyle="none",
            marker="_",
            color="black",
            markersize=4,
        )
        by_layer.plot([], [], color=color, linewidth=3, label=f"epoch {entry['epoch']}")
    by_layer.set(
        ylabel="|gamma|",
        title="by layer: first to ninth decile, and median",
        ylim=(0, None),
        xlim=(-1, len(layers)),
    )
    by_layer.set_xticks(places, [layer.removeprefix("model.").removesuffix(".bn") for layer in layers])
    by_layer.tick_params(axis="x", labelrotation=90, labelsize=7)
    by_layer.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.savefig(path, dpi=110)
