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
    """A model in the accuracy-against-cost plot: AP50 and its spread from 0 to 1, cost in GMACs."""

    name: str
    kind: str
    gmacs: float
    ap50: float
    spread: float


def accuracy_cost(points: Sequence[Point], input_size: int) -> Figure:
    """Plot AP50 against multiply-accumulates; higher and further left is better."""
    figure = Figure(figsize=(8, 4.8), layout="constrained")
    axis = figure.add_subplot()
    for kind, (color, marker) in KINDS.items():
        own = [point for point in points if point.kind == kind]
        if own:
            axis.errorbar(
                [point.gmacs for point in own],
                [100 * point.ap50 for point in own],
                yerr=[100 * point.spread for point in own],
                fmt=marker,
                color=color,
                capsize=3,
                label=kind,
            )
    # Arms of one cost lie above each other: their names stand in a column, as far apart as they need.
    ordered = sorted(points, key=lambda point: point.ap50)
    axis.margins(y=0.12)
    low, high = axis.get_ylim()
    height = low
    for point in ordered:
        height = max(100 * point.ap50, height + 0.055 * (high - low))
        axis.annotate(
            f"{point.name} {100 * point.ap50:.1f}",
            (point.gmacs, 100 * point.ap50),
            xytext=(1.03, height),
            textcoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": GRAY, "linewidth": 0.7, "shrinkB": 4},
        )
    axis.set_xlabel(f"GMACs at {input_size} x {input_size}")
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
