"""Sparsity training: an L1 penalty drives the BatchNorm scales of superfluous channels towards zero.

Network slimming (Liu et al., 2017, arXiv 1708.06519) with the schedule of arXiv 2509.12918. The penalty is a
proximal step after the optimizer's: a subgradient would be rescaled to nothing by Adam, divided by the loss
scale under mixed precision and counted once a micro-batch under accumulation; the proximal step is none of
these.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from yolo_compress.config import required
from yolo_compress.pruning import prunable_batchnorms
from yolo_compress.training import StageTrainer

from ultralytics.utils.torch_utils import unwrap_model  # isort: skip


def soft_threshold(values: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return ``sign(x) max(|x| - threshold, 0)``: the proximal operator of ``threshold |x|``, any shape."""
    return values.sign() * (values.abs() - threshold).clamp(min=0)


def penalty_rate(strength: float, epoch: int, epochs: int) -> float:
    """Return the weight of the penalty in epoch ``epoch`` (from 0): ``s0 (1 - 0.9 e/E)``."""
    return strength * (1 - 0.9 * epoch / epochs)


class GammaPenalty:
    """Shrinks BatchNorm scales after each step of an optimizer, by learning rate times ``rate``.

    Attributes:
        rate: weight of the penalty, in units of the loss gradient.
    """

    def __init__(self, gammas: Iterable[nn.Parameter], rate: float) -> None:
        self._gammas = {id(gamma) for gamma in gammas}
        self.rate = rate

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Work after every step that ``optimizer`` takes: once a step, whatever came before it."""
        optimizer.register_step_post_hook(self._shrink)

    @torch.no_grad()
    def _shrink(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) in self._gammas:
                    parameter.copy_(soft_threshold(parameter, group["lr"] * self.rate))


class SparsityTrainer(StageTrainer):
    """Trains with a penalty on the scales of the channels that pruning can remove, and on nothing else."""

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the stock optimizer and hang the penalty on it."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        bare = unwrap_model(model)  # in a distributed training it is wrapped
        gammas = [bare.get_submodule(name).weight for name in prunable_batchnorms(bare)]
        self._penalty = GammaPenalty(gammas, required(self.job.recipe.sparsify).strength)
        self._penalty.attach(optimizer)
        return optimizer

    def on_train_epoch_start(self) -> None:
        """Follow the schedule."""
        super().on_train_epoch_start()
        self._penalty.rate = penalty_rate(
            required(self.job.recipe.sparsify).strength, self.epoch, self.epochs
        )
