"""Fading: the channels that pruning will remove are chosen first, and then fall silent step by step.

After every step of the optimizer the BatchNorm scales and shifts of exactly these channels are multiplied by
a factor, so that they fall to 0 in a straight line while everything else trains on. A channel without scale
and shift sends SiLU(0) = 0, so its removal changes nothing. No strength needs choosing, and optimizer,
precision and accumulation make no difference. (Growing regularization, Wang et al., 2021, arXiv 2012.09243,
has the same aim: its penalty must outgrow the optimizer's normalized step; a factor need not.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yolo_compress.config.base import required
from yolo_compress.config.techniques import Sparsify
from yolo_compress.distillation.trainer import DistillationTrainer
from yolo_compress.pruning.pruner import Bench, prune
from yolo_compress.pruning.surgery import Surgery
from yolo_compress.sparsity.trainer import RecordingTrainer
from yolo_compress.training import StageTrainer

from ultralytics.nn.tasks import DetectionModel  # isort: skip
from ultralytics.utils import RANK  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip

# BatchNorms by name, and the channels in each that fade.
Places = list[tuple[str, torch.Tensor]]


def volume(step: int, start: int, steps: int) -> float:
    """Return what is left of the fading channels after ``step`` steps of the optimizer: 1 to 0.

    Args:
        step: steps done.
        start: steps done when the fading starts.
        steps: that it takes, at least 1.
    """
    return 1.0 - min(max((step - start) / steps, 0.0), 1.0)


@torch.no_grad()
def turn_down(model: nn.Module, places: Places, factor: float) -> None:
    """Multiply scale and shift of the fading channels."""
    for name, channels in places:
        norm = model.get_submodule(name)
        for tensor in (norm.weight, norm.bias):
            tensor[channels.to(tensor.device)] *= factor


def places_of(model: DetectionModel, kept: Sequence[torch.Tensor]) -> Places:
    """Return where the channels that do not stay lie.

    Args:
        model: in Ultralytics' own form.
        kept: for each group of channels those that stay, as `pruner.Pruned` has them.
    """
    surgery, places = Surgery(model), []
    for group, stays in zip(surgery.groups, kept, strict=True):
        gone = torch.ones(group.width, dtype=torch.bool)
        gone[stays] = False
        for part in group.of("norm"):
            name, positions = surgery.stock_place(part)
            if gone.any():
                places.append((name, positions[gone]))
    return places


class FadeTrainer(RecordingTrainer):
    """Trains while the channels that the recipe's pruning will remove fade.

    Attributes:
        places: where the fading channels lie; empty before they are chosen.
        taken: steps that the optimizer has taken.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.places: Places = []
        self.taken = self._heard = 0

    def extra_state(self) -> dict[str, Any]:
        """Add the choice and the count of steps."""
        return {**super().extra_state(), "fading": {"places": self.places, "taken": self.taken}}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the choice and the count of steps."""
        super().load_extra_state(state)
        self.places = state["fading"]["places"]
        self.taken = self._heard = state["fading"]["taken"]

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Follow the optimizer's steps."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        optimizer.register_step_post_hook(self._count)
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Choose what fades, when it is time."""
        super().on_train_epoch_start()
        if not self.places and self.epoch >= required(self.job.recipe.sparsify).start:
            self.places = self._chosen()

    def _chosen(self) -> Places:
        recipe = self.job.recipe
        bench = Bench(
            Path(self.args.data),
            recipe.evaluate.split,
            recipe.device,
            recipe.threads,
            recipe.evaluate.latency_rounds,
        )
        # The average, which becomes the result; every rank has the same one.
        chosen = prune(self.ema.ema, required(recipe.prune), recipe.input_size, seed=recipe.seed, bench=bench)
        if RANK in (-1, 0):
            share = f"{chosen.reached:.1%} of the {chosen.kind} stay"
            self.console.print(f"{self.job.label}: the channels that will go fade; {share}", soft_wrap=True)
        return places_of(self.ema.ema, chosen.kept)

    def _count(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        # A fused optimizer is called for a step with infinite gradients too, and skips it by itself.
        overflow = getattr(optimizer, "found_inf", None)
        if overflow is None or not overflow.item():
            self.taken += 1

    def optimizer_step(self) -> None:
        """Step, then turn the fading channels down, in the average too."""
        super().optimizer_step()
        if self.taken == self._heard or not self.places:
            self._heard = self.taken
            return
        settings = required(self.job.recipe.sparsify)
        start = settings.start * self.steps_an_epoch
        steps = max(1, math.floor(settings.fade_epochs * self.steps_an_epoch))
        before, after = (volume(step, start, steps) for step in (self._heard, self.taken))
        factor = after / before if before else 0.0
        for model in (unwrap_model(self.model), self.ema.ema):
            turn_down(model, self.places, factor)
        self._heard = self.taken


class DistilledFadeTrainer(FadeTrainer, DistillationTrainer):
    """The same under the model that the fading starts from, in the way that the recipe's ``distill`` says."""


def fading_trainer(settings: Sparsify) -> type[StageTrainer]:
    """Return what trains as the section says."""
    return DistilledFadeTrainer if settings.distill else FadeTrainer
