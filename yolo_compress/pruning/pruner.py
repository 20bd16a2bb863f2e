"""Structured channel pruning of Ultralytics detectors to a stated budget.

A model is opened (`surgery`), its channels are ranked (`importance`), the budget is shared out (`budget`, on
request by a measured `sensitivity`), and what is left is folded back into stock Ultralytics modules.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from yolo_compress.checkpoints import save_model
from yolo_compress.config.techniques import Prune
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
from yolo_compress.export.export import export_onnx
from yolo_compress.measure.board import measure_on_board
from yolo_compress.measure.latency import measure_latency
from yolo_compress.pruning import budget
from yolo_compress.pruning.budget import CostModel, Plans, count_macs, count_params
from yolo_compress.pruning.importance import importances, keep_largest
from yolo_compress.pruning.sensitivity import calibration_batch, measure_sensitivity, taylor
from yolo_compress.pruning.surgery import Surgery

from ultralytics.nn.tasks import DetectionModel  # isort: skip
from ultralytics.utils.torch_utils import select_device  # isort: skip

__all__ = ["Bench", "Pruned", "count_macs", "count_params", "prune", "prune_uniformly"]

# Images a latency round, and how often a latency search may measure: each measurement costs an export.
TIMED_IMAGES = 4
LATENCY_MEASUREMENTS = 10
# How far, as a share of the target, silent channels may lie off it and still be those meant for it: the
# rounding leaves a percent or two, and two timings of one model differ by more.
CLOSE, LATENCY_SPREAD = 0.05, 0.25
# Where nothing is counted at an input size, any will do.
_ANY_SIZE = 64


# The channels of each group that stay.
Kept = tuple[torch.Tensor, ...]
# Called with what is being measured, steps done, steps in all.
PruneProgress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Bench:
    """What pruning measures on: needed for `latency` targets and `sensitivity`.

    Attributes:
        data: an Ultralytics data set description.
        split: whose images latency is measured on.
        device: for the sensitivity, as Ultralytics names it.
        threads: CPU threads of the latency measurement.
        rounds: of the latency measurement.
    """

    data: Path
    split: str = "val"
    device: str = "cpu"
    threads: int = 2
    rounds: int = 10


@dataclass(frozen=True)
class Pruned:
    """A pruned model and how it came about.

    Attributes:
        model: the pruned network, stock Ultralytics modules only, parameters in fp32.
        kind: what the target was about: params, macs, latency or channels.
        target: share of the dense model's that was asked for.
        reached: share that is left.
        channels: for each convolution its name, and its output channels before and after.
        kept: for each of `surgery.Surgery`'s groups the channels that stay, int64 in ascending order.
        faded: whether the model had named the channels that went, by silence.
    """

    model: DetectionModel
    kind: str
    target: float
    reached: float
    channels: tuple[tuple[str, int, int], ...]
    kept: Kept = ()
    faded: bool = False

    @property
    def within_tolerance(self) -> bool:
        """Whether the target is met to within 2 % of itself."""
        return abs(self.reached - self.target) <= budget.BUDGET_TOLERANCE * self.target

    def record(self) -> dict[str, Any]:
        """Return the entries for the stage's record: plain values."""
        return {
            "pruning": {"kind": self.kind, "target": self.target, "reached": self.reached},
            "channels": [
                {"layer": layer, "before": before, "after": after} for layer, before, after in self.channels
            ],
        }

    def summary(self) -> str:
        """Say in a sentence what was asked for and what came out."""
        kept = sum(after for _, _, after in self.channels) / sum(before for _, before, _ in self.channels)
        text = f"{self.reached:.1%} of the {self.kind} left (asked for {self.target:.1%}), {kept:.1%} of all "
        text += "channels"
        if self.faded:
            text += ", those that the fading had silenced: nothing changes"
        if not self.within_tolerance:
            text += (
                "; the next step that the rounding, min_width and max_ratio allow would be further off"
                if self.kind != "latency"
                else f"; no candidate of {LATENCY_MEASUREMENTS} measured came closer"
            )
        return text


def prune(
    model: DetectionModel,
    settings: Prune,
    input_size: int,
    *,
    seed: int = 0,
    bench: Bench | None = None,
    progress: PruneProgress | None = None,
) -> Pruned:
    """Prune a detector to a target.

    Args:
        model: a YOLOv8, YOLOv5u or YOLO11 detector with any number of classes; it is left as it is.
        settings: the recipe's section.
        input_size: side of the square input in pixels at which costs are counted and measured.
        seed: of the importance ``random``.
        bench: what to measure on, where the settings ask for a measurement.
        progress: called with (what is being measured, steps done, steps in all).

    Raises:
        UserError: the model's architecture is not supported, or the target cannot be reached; the message
            names the least that can.
        ValueError: a measurement is asked for without a bench.
    """
    timed_here = settings.target.latency is not None and not settings.board
    if bench is None and (settings.sensitivity or settings.importance == "taylor" or timed_here):
        raise ValueError("a latency target, sensitivity and taylor need a bench to measure on")
    surgery = Surgery(model)
    if (found := _take_silent(model, surgery, settings, input_size, bench)) is not None:
        return found
    if settings.importance == "taylor":
        batch = _batch(settings.calibration_images, input_size, required_bench(bench), surgery)
        scores = taylor(surgery, batch, lambda done, total: _tell(progress, "gradients", done, total))
    else:
        scores = importances(surgery, settings.importance, seed)
    for values, silence in zip(scores, silent_channels(surgery), strict=True):
        values[silence] = 0.0
    least = budget.floors(surgery.widths, settings.round_to, settings.min_width, settings.max_ratio)
    costs = CostModel(surgery, input_size)
    kind, target = settings.target.kind, settings.target.share

    def choose(plan: Plans) -> Kept:
        count = {member: kept for unit, kept in zip(surgery.units, plan, strict=True) for member in unit}
        return tuple(keep_largest(values, count[i]) for i, values in enumerate(scores))

    def cut(plan: Plans) -> DetectionModel:
        return _cut(model, choose(plan))

    if kind == "channels":
        plan = budget.uniform_plan(surgery.widths, least, 1 - target, settings.round_to)
        pruned = cut(plan)
        reached = float(plan.sum() / sum(surgery.widths))
        return Pruned(pruned, kind, target, reached, _channels(model, pruned), choose(plan))

    ranked = _ranked(surgery, scores)
    if settings.scope == "uniform":
        path = budget.uniform_path(surgery.widths, least, settings.round_to)
    elif not settings.sensitivity:
        path = budget.ranked_path(ranked, least, settings.round_to)
    else:
        assert bench is not None
        losses = _sensitivity(surgery, scores, settings.calibration_images, input_size, bench, progress)
        # Where time is the target, multiply-accumulates stand for it: timing every step would take hours.
        cost = costs.params if kind == "params" else costs.macs
        path = budget.sensitivity_path(surgery.widths, least, settings.round_to, losses, cost)

    def gain(unit: int, kept: int) -> float:
        return float(ranked[unit][kept : kept + settings.round_to].mean())

    if kind == "latency":
        path = budget.single_steps(path, settings.round_to, gain)
        plan, pruned, reached = _meet_latency(model, path, cut, settings, input_size, bench, progress)
    else:
        plan, pruned, reached = _meet_count(model, path, cut, costs, gain, settings, input_size)
    return Pruned(pruned, kind, target, reached, _channels(model, pruned), choose(plan))


def silent_channels(surgery: Surgery) -> list[torch.Tensor]:
    """Return which channels send nothing, W bool for each group: all their scales and shifts are exactly 0.

    SiLU(0) is 0, and what reads a 0 adds nothing: they can go without any change.
    """
    silence = []
    for group in surgery.groups:
        norms = group.of("norm")
        quiet = torch.full((group.width,), bool(norms))
        for part in norms:
            norm = surgery.model.get_submodule(part.layer)
            zero = ((norm.weight == 0) & (norm.bias == 0)).cpu()
            quiet[part.channels[~zero[part.positions]]] = False
        silence.append(quiet)
    return silence


def _take_silent(
    model: DetectionModel, surgery: Surgery, settings: Prune, input_size: int, bench: Bench | None
) -> Pruned | None:
    """Remove the channels that a fading has silenced, if these are what the target asks for."""
    kept = tuple((~quiet).nonzero().flatten() for quiet in silent_channels(surgery))
    counts = [len(stays) for stays in kept]
    tied = all(len({counts[member] for member in unit}) == 1 for unit in surgery.units)
    if sum(counts) == sum(group.width for group in surgery.groups) or min(counts) == 0 or not tied:
        return None
    pruned = _cut(model, kept)
    kind, target = settings.target.kind, settings.target.share
    if kind == "latency":
        reached = _latency_share(model, pruned, settings, input_size, bench)
    elif kind == "channels":
        reached = sum(counts[unit[0]] for unit in surgery.units) / sum(surgery.widths)
    elif kind == "params":
        reached = count_params(pruned) / count_params(model)
    else:
        reached = count_macs(pruned, input_size) / count_macs(model, input_size)
    found = Pruned(pruned, kind, target, reached, _channels(model, pruned), kept, faded=True)
    allowed = LATENCY_SPREAD if kind == "latency" else CLOSE
    return found if abs(reached - target) <= allowed * target else None


def _cut(model: DetectionModel, kept: Kept) -> DetectionModel:
    opened = Surgery(model)
    opened.remove(kept)
    return opened.folded()


def required_bench(bench: Bench | None) -> Bench:
    """Return the bench that a measurement needs.

    Raises:
        ValueError: there is none.
    """
    if bench is None:
        raise ValueError("this needs a bench to measure on")
    return bench


def _tell(progress: PruneProgress | None, what: str, done: int, total: int) -> None:
    if progress:
        progress(what, done, total)


def prune_uniformly(model: DetectionModel, ratio: float, round_to: int = 8) -> DetectionModel:
    """Take the same share of channels from every layer, as the paper does: the smallest BatchNorm scales.

    Args:
        model: as for `prune`.
        ratio: share of channels to remove, between 0 and 1.
        round_to: what stays in a layer is a multiple of this (rounded down), and at least this.
    """
    settings = Prune.model_validate(
        {
            "target": {"channels": 1 - ratio},
            "importance": "gamma",
            "round_to": round_to,
            "min_width": round_to,
            "max_ratio": 1 - 1e-9,
        }
    )
    return prune(model, settings, _ANY_SIZE).model


def _ranked(surgery: Surgery, scores: Sequence[torch.Tensor]) -> list[NDArray[np.float64]]:
    """Return the importances of each unit in descending order; for tied groups their mean at each rank."""
    return [
        torch.stack([scores[member].sort(descending=True).values for member in unit]).mean(0).double().numpy()
        for unit in surgery.units
    ]


def _channels(before: nn.Module, after: nn.Module) -> tuple[tuple[str, int, int], ...]:
    return tuple(
        (name, module.out_channels, after.get_submodule(name).out_channels)
        for name, module in before.named_modules()
        if isinstance(module, nn.Conv2d)
    )


def _sensitivity(
    surgery: Surgery,
    scores: Sequence[torch.Tensor],
    images: int,
    input_size: int,
    bench: Bench,
    progress: PruneProgress | None,
) -> NDArray[np.float64]:
    batch = _batch(images, input_size, bench, surgery)
    return measure_sensitivity(
        surgery, scores, batch, lambda done, total: _tell(progress, "sensitivity", done, total)
    )


def _batch(images: int, input_size: int, bench: Bench, surgery: Surgery) -> dict[str, Any]:
    """Return images to measure on, and bring the opened model to their device."""
    device = select_device(bench.device, verbose=False)
    surgery.model.to(device)
    return {
        key: value.to(device) if isinstance(value, torch.Tensor) else value
        for key, value in calibration_batch(bench.data, images, input_size).items()
    }


def _meet_count(
    model: DetectionModel,
    path: Plans,
    cut: Callable[[Plans], DetectionModel],
    costs: CostModel,
    gain: Callable[[int, int], float],
    settings: Prune,
    input_size: int,
) -> tuple[Plans, DetectionModel, float]:
    """Meet a share of the parameters or multiply-accumulates; return plan, model and the share it has."""
    target = settings.target.share
    cost = costs.params if settings.target.kind == "params" else costs.macs
    dense = float(cost(path[:1])[0])
    shares = cost(path) / dense
    position = budget.first_within(lambda index: float(shares[index]), len(path), target)
    if position == len(path):
        raise _unreachable(settings, float(shares[-1]))
    plan = path[position]
    if position > 0:
        plan = budget.fill_up(plan, path[position - 1], target * dense, settings.round_to, cost, gain)
    pruned = cut(plan)
    if settings.target.kind == "params":
        return plan, pruned, count_params(pruned) / count_params(model)
    return plan, pruned, count_macs(pruned, input_size) / count_macs(model, input_size)


def _meet_latency(
    model: DetectionModel,
    path: Plans,
    cut: Callable[[Plans], DetectionModel],
    settings: Prune,
    input_size: int,
    bench: Bench | None,
    progress: PruneProgress | None,
) -> tuple[Plans, DetectionModel, float]:
    """Meet a share of the measured latency; return plan, model and the share that was measured."""
    target = settings.target.share
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        dense = _exported(model, folder / "dense", input_size)
        measured: dict[int, tuple[DetectionModel, float]] = {}

        def share(position: int) -> float:
            _tell(progress, "latency", len(measured), LATENCY_MEASUREMENTS)
            candidate = cut(path[position])
            exported = _exported(candidate, folder / "candidate", input_size)
            measured[position] = candidate, _timed(dense, exported, settings, bench)
            return measured[position][1]

        # The smallest first: where even that is too slow, nothing else need be measured.
        last = len(path) - 1
        if share(last) > target:
            raise _unreachable(settings, measured[last][1])
        low, high = 0, last
        while low < high and len(measured) < LATENCY_MEASUREMENTS:
            middle = (low + high) // 2
            reached = share(middle)
            if reached > target:
                low = middle + 1
            else:
                high = middle
                if reached >= (1 - budget.BUDGET_TOLERANCE) * target:
                    break
    best = max((p for p, (_, found) in measured.items() if found <= target), key=lambda p: measured[p][1])
    return path[best], *measured[best]


def _latency_share(
    model: DetectionModel, candidate: DetectionModel, settings: Prune, input_size: int, bench: Bench | None
) -> float:
    with tempfile.TemporaryDirectory() as name:
        dense, pruned = (
            _exported(network, Path(name) / stem, input_size)
            for network, stem in ((model, "dense"), (candidate, "candidate"))
        )
        return _timed(dense, pruned, settings, bench)


def _exported(model: DetectionModel, stem: Path, input_size: int) -> Path:
    checkpoint, onnx = stem.with_suffix(".pt"), stem.with_suffix(".onnx")
    save_model(model, checkpoint)
    export_onnx(checkpoint, onnx, input_size)
    return onnx


def _timed(dense: Path, candidate: Path, settings: Prune, bench: Bench | None) -> float:
    """Return the candidate's share of the dense model's time from image to boxes."""
    if settings.board:
        return measure_on_board([dense, candidate], settings.board, backend=settings.backend)[1].ratio
    bench = required_bench(bench)
    images = read_split(bench.data, bench.split).images[:TIMED_IMAGES]
    latencies = measure_latency(
        [dense, candidate], images, rounds=bench.rounds, threads=bench.threads, backend=settings.backend
    )
    return latencies[1].ratio


def _unreachable(settings: Prune, least: float) -> UserError:
    kind, target = settings.target.kind, settings.target.share
    return UserError(
        f"prune.target.{kind}: {target:g} of the {kind} cannot be reached with round_to {settings.round_to}, "
        f"min_width {settings.min_width} and max_ratio {settings.max_ratio:g}; the least is {least:.3f}. "
        f"Raise prune.target.{kind}, lower prune.round_to or prune.min_width, or raise prune.max_ratio"
    )
