"""How much a group of coupled channels matters: one number a channel, from weights or from gradients."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from yolo_compress.pruning.surgery import Group, Role, Surgery

Importance = Literal["lamp", "lamp_gamma", "taylor", "gamma", "gamma_group", "l1", "l2", "random"]


def mean_scale(gammas: torch.Tensor) -> torch.Tensor:
    """Return the mean of |gamma| over coupled layers: network slimming (Liu et al., 2017, arXiv 1708.06519).

    Args:
        gammas: L x W, row per layer, column per channel. Not normalised by anything: a layer whose scales
            are all small counts as unimportant.

    Returns:
        W importances.
    """
    return gammas.abs().mean(0)


def group_norm(gammas: torch.Tensor) -> torch.Tensor:
    """Return the root mean square of gamma over coupled layers: the group norm, per layer.

    This is what the penalty of sparsity training shrinks: ``sqrt(L) ||gamma||_2`` is the group lasso's term
    (Yuan and Lin, 2006), and divided by L it compares groups of different size. For a channel that is coupled
    to no other layer it is |gamma|.

    Args:
        gammas: L x W.

    Returns:
        W importances.
    """
    return gammas.square().mean(0).sqrt()


def outliving_share(values: torch.Tensor) -> torch.Tensor:
    """Return each channel's share of the squares of those that outlive it: LAMP (Lee et al., 2021).

    ``w_i^2 / sum_j w_j^2`` over the channels of the same group with ``w_j >= w_i`` (arXiv 2010.07611, there
    for single weights). The largest channel of each group has 1, so one ranking over all groups empties
    none, and a layer of small weights does not go before one of large.

    Args:
        values: W importances of one group, at least 0.

    Returns:
        W scores, in the order of ``values``: above 0 to 1, or 0 where all are.
    """
    ordered, places = values.double().sort()
    squares = ordered.square()
    outliving = squares.flip(0).cumsum(0).flip(0)[torch.searchsorted(ordered, ordered)]  # equals together
    scores = torch.empty_like(squares)
    scores[places] = squares / outliving.clamp(min=torch.finfo(squares.dtype).tiny)
    return scores.float()


@torch.no_grad()
def importances(surgery: Surgery, kind: Importance, seed: int = 0) -> list[torch.Tensor]:
    """Return the importance of every channel of every group.

    Args:
        surgery: the opened model.
        kind: ``gamma`` and ``gamma_group`` as `mean_scale` and `group_norm`; ``l1`` and ``l2``: mean absolute
            value and root mean square of the weights of the filters that compute the channel (Li et al.,
            2017, arXiv 1608.08710, per weight so that layers compare), averaged over coupled layers;
            ``lamp`` and ``lamp_gamma``: `outliving_share` of ``l2`` and ``gamma_group``; ``random``: a
            control. ``taylor`` needs images, see `sensitivity.taylor`.
        seed: of ``random``.

    Returns:
        One fp32 tensor of W values on the CPU for each group.
    """
    generator = torch.Generator().manual_seed(seed)
    return [_importance(surgery.model, group, kind, generator) for group in surgery.groups]


def _importance(model: nn.Module, group: Group, kind: Importance, generator: torch.Generator) -> torch.Tensor:
    if kind == "taylor":
        raise ValueError("taylor needs images: see sensitivity.taylor")
    if kind in ("lamp", "lamp_gamma"):
        plain: Importance = "l2" if kind == "lamp" else "gamma_group"
        return outliving_share(_importance(model, group, plain, generator))
    if kind == "random":
        return torch.rand(group.width, generator=generator)
    if kind in ("gamma", "gamma_group"):
        gammas = torch.stack(_weights(model, group, "norm"))
        return mean_scale(gammas) if kind == "gamma" else group_norm(gammas)
    filters = [weight.flatten(1) for weight in _weights(model, group, "out")]
    norms = [w.abs().mean(1) if kind == "l1" else w.square().mean(1).sqrt() for w in filters]
    return torch.stack(norms).mean(0)


def _weights(model: nn.Module, group: Group, role: Role) -> list[torch.Tensor]:
    """Return the weights of a group's layers, their rows in the order of the group's channels."""
    return [
        model.get_submodule(part.layer).weight[part.positions[part.channels.argsort()]].float().cpu()
        for part in group.of(role)
    ]


def keep_largest(values: torch.Tensor, count: int) -> torch.Tensor:
    """Return the positions of the ``count`` largest of W values, in ascending order; of equals the first."""
    return values.argsort(descending=True, stable=True)[:count].sort().values
