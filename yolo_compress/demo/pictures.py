"""The demo's pictures: what was seen, and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from matplotlib.figure import Figure

from yolo_compress.demo.flight import RecordedFlight
from yolo_compress.demo.replay import FlownModel
from yolo_compress.report.pictures import draw_boxes, sheet

COLORS = ("#c0392b", "#2471a3", "#1e8449")
SHEET_ROWS = 4


def contact_sheet(
    flight: RecordedFlight,
    flown: Sequence[FlownModel],
    names: Sequence[str],
    path: Path,
    frames: Sequence[int],
) -> None:
    """Draw the same frames side by side: ground truth, then what each model saw; a row a frame."""
    images = flight.images(frames)
    rows, titles = [], []
    for index in frames:
        truth = flight.truths[index]
        panels = [draw_boxes(images[index], truth.boxes, truth.class_ids, None, names)]
        for model in flown:
            seen = model.found[index]
            panels.append(draw_boxes(images[index], seen.boxes, seen.class_ids, seen.scores, names))
        rows.append(panels)
        titles.append([f"{title}, frame {index}" for title in ("ground truth", *(m.name for m in flown))])
    cv2.imwrite(str(path), sheet(rows, titles))


def choose_frames(flight: RecordedFlight, flown: Sequence[FlownModel], count: int = SHEET_ROWS) -> list[int]:
    """Choose frames that every model answered, evenly over the flight."""
    answered = sorted(set(range(len(flight))).intersection(*(model.found for model in flown)))
    if not answered:
        return []
    places = np.linspace(0, len(answered) - 1, min(count, len(answered)) * 2 + 1)[1::2]
    return [answered[round(float(place))] for place in places]


def age_timeline(flight: RecordedFlight, flown: Sequence[FlownModel], path: Path) -> None:
    """Plot each answered frame's age at the arrival of its detections; unanswered frames as ticks below."""
    seconds = (np.array(flight.stamps_ns) - flight.stamps_ns[0]) / 1e9
    figure = Figure(figsize=(11, 3.6), dpi=110, layout="constrained")
    axis = figure.add_subplot()
    for model, color in zip(flown, COLORS, strict=False):
        indices = sorted(model.ages_s)
        axis.plot(
            seconds[indices],
            [1e3 * model.ages_s[i] for i in indices],
            ".-",
            color=color,
            linewidth=0.8,
            markersize=4,
            label=f"{model.name}: median {model.age_ms(0.5):.0f} ms, p95 {model.age_ms(0.95):.0f} ms, "
            f"{model.dropped} of {model.frames} frames unanswered",
        )
        missing = [i for i in range(len(flight)) if i not in model.ages_s]
        axis.plot(seconds[missing], np.full(len(missing), -3.0), "|", color=color, markersize=10)
    axis.set_xlabel("time of flight / s")
    axis.set_ylabel("frame age / ms")
    axis.set_title("Age of each frame when its detections arrive (ticks below zero: frames not answered)")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right", fontsize=9)
    figure.savefig(path)
