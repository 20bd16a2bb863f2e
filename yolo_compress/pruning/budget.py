"""How many channels each part of a network keeps: the ways to shrink it, what each costs, and the search.

Pure arithmetic on plans. A plan is one number a unit (see `surgery.Surgery.units`): the channels that it
keeps. A path is a P x U array of plans, from the whole network downwards, none larger than the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import nn

from yolo_compress.pruning.surgery import Surgery

Plans = NDArray[np.int64]
Costs = NDArray[np.float64]

# A target counts as met when what is left is at most it, and at least this share of it.
BUDGET_TOLERANCE = 0.02


def floors(widths: Sequence[int], round_to: int, min_width: int, max_ratio: float) -> Plans:
    """Return the least channels that each unit keeps.

    A multiple of ``round_to`` (rounded up), at least ``min_width``, at least the share ``1 - max_ratio`` of
    the width, and never more than the width.
    """
    given = np.asarray(widths)
    least = np.maximum(given * (1 - max_ratio) - 1e-9, max(min_width, 1))
    return np.minimum(np.ceil(least / round_to).astype(np.int64) * round_to, given)


def uniform_plan(widths: Sequence[int], least: Plans, ratio: float, round_to: int) -> Plans:
    """Return the plan that takes the share ``ratio`` of every unit; what stays is rounded down."""
    given = np.asarray(widths)
    kept = np.floor(given * (1 - ratio) / round_to + 1e-9).astype(np.int64) * round_to
    return given if ratio == 0 else np.maximum(kept, least)


def uniform_path(widths: Sequence[int], least: Plans, round_to: int) -> Plans:
    """Return every plan that `uniform_plan` can give."""
    ratios = {1 - kept / width for width in widths for kept in range(round_to, width + 1, round_to)}
    # One step less than a whole number is reached just above its ratio.
    ratios |= {min(1.0, ratio + 1e-6) for ratio in ratios} | {1.0}
    return _distinct(
        [uniform_plan(widths, least, ratio, round_to) for ratio in sorted({0.0, *ratios})],
    )


def ranked_path(importances: Sequence[NDArray[np.float64]], least: Plans, round_to: int) -> Plans:
    """Return the plans of a global ranking: one threshold for the whole network, from low to high.

    Args:
        importances: for each unit the importances of its channels, in descending order. For tied groups:
            their mean at each rank.
        least: what each unit keeps in any case.
        round_to: what lies above the threshold is rounded down to a multiple of this.
    """
    widths = np.array([len(values) for values in importances])
    thresholds = np.unique(np.concatenate(importances))
    kept = np.stack(
        [len(values) - np.searchsorted(values[::-1], thresholds, side="right") for values in importances],
        axis=1,
    )
    kept = np.maximum(kept // round_to * round_to, least)
    return _distinct([widths, *kept])


def convex_minorant(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the largest convex curve below points at equal distances: F losses to F losses.

    Spending a budget step by step is optimal for convex costs only; on the minorant a dear step that makes
    the next ones cheap is taken for what all of them cost together.
    """
    count = len(losses)
    slope = [
        max(
            min((losses[end] - losses[start]) / (end - start) for end in range(step + 1, count))
            for start in range(step + 1)
        )
        for step in range(count - 1)
    ]
    return losses[0] + np.concatenate([[0.0], np.cumsum(slope)])


def sensitivity_path(
    widths: Sequence[int],
    least: Plans,
    round_to: int,
    losses: NDArray[np.float64],
    cost: Callable[[Plans], Costs],
) -> Plans:
    """Return the plans that spend a budget where it hurts least, step by step.

    Each step takes one multiple of ``round_to`` from the unit that loses least for each saved unit of cost.

    Args:
        widths: channels of each unit.
        least: what each unit keeps in any case.
        round_to: step.
        losses: U x F, increase of the loss when the share f / (F - 1) of a unit's channels is removed. A
            decrease counts as no increase: on a few images it is luck.
        cost: of plans, P x U to P.
    """
    shares = np.linspace(0, 1, losses.shape[1])
    curves = [convex_minorant(np.maximum.accumulate(np.maximum(row, 0.0))) for row in losses]

    def loss(unit: int, kept: int) -> float:
        return float(np.interp(1 - kept / widths[unit], shares, curves[unit]))

    plan = np.asarray(widths).copy()
    plans = [plan.copy()]
    while True:
        next_kept = (plan - 1) // round_to * round_to
        open_units = np.flatnonzero(next_kept >= least)
        if not len(open_units):
            return np.stack(plans)
        trials = np.repeat(plan[None], len(open_units), axis=0)
        trials[np.arange(len(open_units)), open_units] = next_kept[open_units]
        saved = cost(plan[None])[0] - cost(trials)
        harm = np.array([loss(u, int(next_kept[u])) - loss(u, int(plan[u])) for u in open_units.tolist()])
        # Of steps that harm equally little (several at 0), the one that saves most.
        chosen = np.lexsort((-saved, harm / saved))[0]
        plan = trials[chosen]
        plans.append(plan.copy())


def _distinct(plans: Sequence[Plans]) -> Plans:
    stacked = np.stack(plans)
    changed = np.any(np.diff(stacked, axis=0) != 0, axis=1)
    return stacked[np.concatenate([[True], changed])]


def first_within(costs: Callable[[int], float], count: int, limit: float) -> int:
    """Return by bisection the first position of a path whose cost is at most ``limit``, or ``count``."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        if costs(middle) <= limit:
            high = middle
        else:
            low = middle + 1
    return low


def fill_up(
    plan: Plans,
    larger: Plans,
    limit: float,
    round_to: int,
    cost: Callable[[Plans], Costs],
    gain: Callable[[int, int], float],
) -> Plans:
    """Give single units a step more as long as the plan stays within ``limit``.

    Args:
        plan: a plan within the limit.
        larger: the next larger plan of the path, beyond the limit; no unit gets more than it has there.
        limit: highest cost.
        round_to: step.
        cost: of plans, P x U to P.
        gain: worth of the step that takes a unit (first argument) up from a number of channels (second); the
            worthiest that fits comes first.

    Returns:
        A plan within the limit, between the two.
    """
    plan = plan.copy()
    while True:
        steps = np.minimum((plan // round_to + 1) * round_to, larger)
        for unit in sorted(np.flatnonzero(plan < larger).tolist(), key=lambda u: -gain(u, int(plan[u]))):
            trial = plan.copy()
            trial[unit] = steps[unit]
            if cost(trial[None])[0] <= limit:
                plan = trial
                break
        else:
            return plan


def single_steps(path: Plans, round_to: int, gain: Callable[[int, int], float]) -> Plans:
    """Return a path with plans between those given: one step of one unit at a time, the least worthy first.

    Args:
        path: P x U.
        round_to: step.
        gain: as for `fill_up`.
    """
    plans = [path[0]]
    for smaller in path[1:]:
        while (plans[-1] > smaller).any():
            plan = plans[-1].copy()
            below = np.maximum((plan - 1) // round_to * round_to, smaller)
            unit = min(np.flatnonzero(plan > smaller).tolist(), key=lambda u: gain(u, int(below[u])))
            plan[unit] = below[unit]
            plans.append(plan)
    return np.stack(plans)


def count_params(model: nn.Module) -> int:
    """Return the number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def count_macs(model: nn.Module, input_size: int) -> int:
    """Return the multiply-accumulates for one square RGB image of ``input_size`` pixels, a multiple of 32.

    Counted as torch-pruning counts them (convolutions, and the normalisation and activation after them), so
    that the figures compare with the published ones: YOLOv8n with 10 classes has 4.08 G at 640.
    """
    macs, _ = tp.utils.count_ops_and_params(model, _example(model))
    return round(macs * _scale(input_size))


# Every operation is done once a position, so a small image tells what a large one costs.
_EXAMPLE_SIZE = 64


def _example(model: nn.Module) -> torch.Tensor:
    weight = next(model.parameters())
    return torch.zeros(1, 3, _EXAMPLE_SIZE, _EXAMPLE_SIZE, device=weight.device, dtype=weight.dtype)


def _scale(input_size: int) -> float:
    return (input_size / _EXAMPLE_SIZE) ** 2


@dataclass(frozen=True)
class _Layer:
    """A convolution or BatchNorm: what it costs follows from its widths."""

    params: float  # for each pair of an output and an input channel
    macs: float  # likewise
    bias_params: float  # for each output channel
    bias_macs: float  # likewise
    inputs: int
    outputs: int


class CostModel:
    """Parameters and multiply-accumulates of a network, by how many channels its units keep.

    Exact for parameters; multiply-accumulates of what is no convolution or BatchNorm (pooling, upsampling;
    below 0.1 % of a YOLOv8) count whole, so the pruned network never has more than this says.

    Args:
        surgery: the opened model, not yet operated on.
        input_size: side of the square input in pixels at which multiply-accumulates are counted.
    """

    def __init__(self, surgery: Surgery, input_size: int) -> None:
        layers = {
            name: module
            for name, module in surgery.model.named_modules()
            if isinstance(module, (nn.Conv2d, nn.BatchNorm2d))
        }
        areas = _output_areas(surgery.model, layers)
        rows = [_layer_costs(module, areas[name] * _scale(input_size)) for name, module in layers.items()]
        self._layers = {
            field: np.array([getattr(row, field) for row in rows], np.float64)
            for field in ("params", "macs", "bias_params", "bias_macs", "inputs", "outputs")
        }
        # Channels of each layer that go when a unit loses one channel in each of its groups.
        index = {name: position for position, name in enumerate(layers)}
        self._out_per_channel = np.zeros((len(layers), len(surgery.units)))
        self._in_per_channel = np.zeros((len(layers), len(surgery.units)))
        for position, unit in enumerate(surgery.units):
            for group in (surgery.groups[member] for member in unit):
                for part in group.parts:
                    side = self._in_per_channel if part.role == "in" else self._out_per_channel
                    side[index[part.layer], position] += len(part.positions) / group.width
        self._widths = np.array(surgery.widths)
        whole = self._widths[None]
        self.dense_params = count_params(surgery.model)
        self.dense_macs = count_macs(surgery.model, input_size)
        self._other_params = self._other_macs = 0.0
        self._other_params = self.dense_params - self.params(whole)[0]
        self._other_macs = self.dense_macs - self.macs(whole)[0]

    def params(self, plans: Plans) -> Costs:
        """Return the parameters of P plans."""
        return self._sum(plans, "params", "bias_params") + self._other_params

    def macs(self, plans: Plans) -> Costs:
        """Return the multiply-accumulates of P plans."""
        return self._sum(plans, "macs", "bias_macs") + self._other_macs

    def _sum(self, plans: Plans, product: str, linear: str) -> Costs:
        gone = self._widths - plans
        outputs = self._layers["outputs"] - gone @ self._out_per_channel.T
        inputs = self._layers["inputs"] - gone @ self._in_per_channel.T
        return outputs * inputs @ self._layers[product] + outputs @ self._layers[linear]


@torch.no_grad()
def _output_areas(model: nn.Module, layers: dict[str, nn.Module]) -> dict[str, int]:
    """Return the number of positions (height times width) of each layer's output for the example image."""
    areas: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _module, _inputs, output: areas.__setitem__(name, output.shape[2] * output.shape[3])

    hooks = [module.register_forward_hook(note(name)) for name, module in layers.items()]
    try:
        model(_example(model))
    finally:
        for hook in hooks:
            hook.remove()
    return areas


def _layer_costs(module: nn.Module, area: float) -> _Layer:
    if isinstance(module, nn.BatchNorm2d):
        # torch-pruning counts an affine normalisation as two operations a value.
        return _Layer(0, 0, 2, 2 * area, 1, module.num_features)
    kernel = module.kernel_size[0] * module.kernel_size[1]
    bias = int(module.bias is not None)
    if module.groups > 1:  # depthwise: each output channel sees one input channel
        return _Layer(0, 0, kernel + bias, (kernel + bias) * area, 1, module.out_channels)
    return _Layer(kernel, kernel * area, bias, bias * area, module.in_channels, module.out_channels)
