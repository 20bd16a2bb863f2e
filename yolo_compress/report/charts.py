"""The charts of the reports, drawn without a display."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from yolo_compress.measure.accuracy import RECALLS, Accuracy
from yolo_compress.report.page import class_css

GRAY, BLUE = "#d5dbdb", "#2471a3"
# How an arm came to its size, told apart by colour and shape.
KINDS = {"dense": ("#7b7d7d", "o"), "pruned": ("#2471a3", "D"), "student": ("#b9770e", "s")}
# What a history holds beside losses.
NO_LOSS = ("epoch", "lr", "seconds")


@dataclass(frozen=True)
class Point:
    """A model in the accuracy-against-cost plots: AP50 and its spread from 0 to 1, cost in GMACs and ms."""

    name: str
    kind: str
    gmacs: float
    ap50: float
    spread: float
    ms: float | None = None


def accuracy_cost(points: Sequence[Point], input_size: int) -> Figure:
    """Plot AP50 against multiply-accumulates; higher and further left is better."""
    costs = [(point, point.gmacs) for point in points]
    return _accuracy_over(costs, f"GMACs at {input_size} x {input_size}")


def accuracy_time(points: Sequence[Point]) -> Figure:
    """Plot AP50 against the time of an image, of the points that were timed."""
    return _accuracy_over(
        [(p, p.ms) for p in points if p.ms is not None], "ms from image to boxes, this machine"
    )


def _accuracy_over(costs: Sequence[tuple[Point, float]], label: str) -> Figure:
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.add_subplot()
    for kind, (color, marker) in KINDS.items():
        own = [(point, cost) for point, cost in costs if point.kind == kind]
        if own:
            axis.errorbar(
                [cost for _, cost in own],
                [100 * point.ap50 for point, _ in own],
                yerr=[100 * point.spread for point, _ in own],
                fmt=marker,
                color=color,
                capsize=3,
                label=kind,
            )
    # Arms of one cost lie above each other: their names stand in a column, as far apart as they need.
    ordered = sorted(costs, key=lambda entry: entry[0].ap50)
    axis.margins(y=0.12)
    low, high = axis.get_ylim()
    height = low
    for point, cost in ordered:
        height = max(100 * point.ap50, height + 0.055 * (high - low))
        axis.annotate(
            f"{point.name} {100 * point.ap50:.1f}",
            (cost, 100 * point.ap50),
            xytext=(1.03, height),
            textcoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": GRAY, "linewidth": 0.7, "shrinkB": 4},
        )
    axis.set_xlabel(label)
    axis.set_ylabel("AP50 / %")
    _tidy(axis)
    axis.legend(fontsize=8, frameon=False)
    return figure


def channels(layers: Mapping[str, tuple[int, int]]) -> Figure:
    """Plot each layer's channels before and after.

    Args:
        layers: name of each convolution in the model's order, and its channels before and after.
    """
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axis = figure.add_subplot()
    places = range(len(layers))
    axis.bar(places, [before for before, _ in layers.values()], color=GRAY, label="dense")
    axis.bar(places, [after for _, after in layers.values()], color=BLUE, width=0.5, label="kept")
    axis.set_yscale("log", base=2)
    axis.yaxis.set_major_formatter("{x:.0f}")
    axis.set_ylabel("channels")
    axis.set_xticks(places, list(layers), rotation=90, fontsize=6)
    axis.margins(x=0.005)
    _tidy(axis)
    axis.legend(fontsize=8, frameon=False, loc="upper left")
    return figure


def part_of(layer: str) -> str:
    """Say of a YOLOv8's convolution, by its name, where it works: backbone, neck or head, and at which level.

    The level Pn is that of a map 2^n times smaller than the image. Other architectures' layers have numbers.
    """
    number, *rest = layer.removeprefix("model.").split(".")
    index = int(number)
    backbone = ("P1", "P2", "P2", "P3", "P3", "P4", "P4", "P5", "P5", "P5")
    neck = {12: "P4 down", 15: "P3", 16: "P4", 18: "P4", 19: "P5", 21: "P5"}
    if index < len(backbone):
        return f"backbone {backbone[index]}"
    if index in neck:
        return f"neck {neck[index]}"
    if index == 22 and len(rest) > 1 and rest[1] in ("0", "1", "2"):
        return f"head P{3 + int(rest[1])}"
    return f"layer {index}"


def kept_channels(models: Mapping[str, Mapping[str, tuple[int, int]]]) -> Figure:
    """Plot which share of its channels each layer keeps, backbone, neck and head apart.

    Args:
        models: of each model its layers in their order, with the channels before and after.
    """
    figure = Figure(figsize=(11, 1.2 + 1.4 * len(models)), layout="constrained")
    axes = figure.subplots(len(models), 1, squeeze=False, sharex=True)[:, 0]
    parts: list[tuple[str, int]] = []
    for axis, (name, layers) in zip(axes, models.items(), strict=True):
        # What works at one place stands together, in the order of the first.
        groups: dict[str, list[float]] = {}
        for layer, (before, after) in layers.items():
            if ".dfl." in layer:  # fixed weights, no channels to choose from
                continue
            groups.setdefault(part_of(layer), []).append(100 * after / before)
        colors = {"backbone": BLUE, "neck": "#b9770e", "head": "#1e8449"}
        place, parts = 0, []
        for group, shares in groups.items():
            color = colors.get(group.partition(" ")[0], "#7b7d7d")
            axis.bar(range(place, place + len(shares)), shares, color=color, width=0.8)
            axis.axvline(place - 0.5, color=GRAY, linewidth=0.8)
            parts.append((group, place))
            place += len(shares)
        axis.set_ylim(0, 105)
        axis.set_ylabel("% kept", fontsize=8)
        axis.set_title(name, fontsize=9, loc="left")
        _tidy(axis)
    axes[-1].set_xticks([place for _, place in parts], [group for group, _ in parts], rotation=40, ha="right")
    axes[-1].tick_params(axis="x", labelsize=8)
    axes[-1].margins(x=0.005)
    return figure


def losses(histories: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Plot each stage's losses over its epochs.

    Args:
        histories: of each stage, one entry an epoch: ``epoch``, ``lr``, ``seconds`` and the losses by name.
    """
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, len(histories), squeeze=False)[0]
    for axis, (stage, history) in zip(axes, histories.items(), strict=True):
        epochs = [entry["epoch"] for entry in history]
        for name in history[0]:
            if name not in NO_LOSS:
                values = [entry[name] for entry in history]
                axis.plot(epochs, values, ".-", linewidth=1, label=name.removesuffix("_loss"))
        axis.set_title(stage, fontsize=10)
        axis.set_xlabel("epoch")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_ylim(bottom=0)
        _tidy(axis)
        axis.legend(fontsize=8, frameon=False)
    return figure


def precision_recall(models: Mapping[str, Accuracy]) -> Figure:
    """Plot each model's precision over recall at IoU 0.5, a line a class in the class's colour."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    axes = figure.subplots(1, len(models), squeeze=False, sharey=True)[0]
    for axis, (model, accuracy) in zip(axes, models.items(), strict=True):
        for index, entry in enumerate(accuracy.per_class):
            if entry.precision:
                axis.plot(RECALLS, entry.precision, color=class_css(index), linewidth=1.3, label=entry.name)
        axis.set_title(f"{model}, IoU 0.5", fontsize=10)
        axis.set_xlabel("recall")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        _tidy(axis)
    axes[0].set_ylabel("precision")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure as ``.svg`` and ``.png`` beside each other."""
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), dpi=130)


def _tidy(axis: Axes) -> None:
    axis.grid(alpha=0.3, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
