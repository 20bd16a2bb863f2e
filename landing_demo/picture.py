"""A landing's track as a picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import matplotlib
import numpy as np

from landing_demo.flight import Track

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.patches import Circle

_COLORS = {"search": "#888888", "approach": "#1f77b4", "final": "#d62728"}
_SHOWN = 5


def draw_track(track: Track, title: str, path: Path) -> None:
    """Draw the track from above, the height over time, and some of the camera's pictures, into a PNG."""
    places, times = np.array(track.places), np.array(track.times)
    figure = pyplot.figure(figsize=(12, 7.5), layout="constrained")
    figure.suptitle(title)
    grid = figure.add_gridspec(2, _SHOWN, height_ratios=(3, 1.2))
    above, side = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
    for phase, color in _COLORS.items():
        mask = np.array([item == phase for item in track.phases])
        above.plot(places[mask, 1], places[mask, 0], ".", color=color, markersize=3, label=phase)
        side.plot(times[mask], -places[mask, 2], ".", color=color, markersize=3, label=phase)
    above.plot(places[0, 1], places[0, 0], "k^", label="start")
    above.plot(track.pad[1], track.pad[0], "m+", markersize=16, markeredgewidth=3, label="pad")
    above.add_patch(
        Circle((track.pad[1], track.pad[0]), 0.5, fill=False, color="m", linestyle="--", label="0.5 m")
    )
    above.set(xlabel="east, m", ylabel="north, m", aspect="equal", title="from above")
    above.grid(alpha=0.3)
    above.legend(fontsize=8)
    told = np.array(track.seen)
    side.plot(times[told], np.zeros(told.sum()), "|", color="#2ca02c", label="LANDING_TARGET")
    side.axhline(-track.pad[2], color="m", linestyle="--", label="pad")
    side.set(xlabel="s", ylabel="height, m", title="height")
    side.grid(alpha=0.3)
    side.legend(fontsize=8)
    chosen = np.linspace(0, len(track.pictures) - 1, _SHOWN).round().astype(int)
    for column, index in enumerate(chosen):
        second, box, picture = track.pictures[index]
        shown = picture.copy()
        if box is not None:
            x, y, width, height = box
            corners = [(round(x + k * width / 2), round(y + k * height / 2)) for k in (-1, 1)]
            cv2.rectangle(shown, corners[0], corners[1], (0, 255, 255), 2)
        axes = figure.add_subplot(grid[1, column])
        axes.imshow(shown[:, :, ::-1])
        axes.set_title(f"{second:.1f} s", fontsize=9)
        axes.axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)
    pyplot.close(figure)
