"""The demo's pictures: what was seen, and when."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.detector import Detections
from yolo_trt_node.drawing import draw_detections

from yolo_compress.demo.flight import Image, RecordedFlight
from yolo_compress.demo.replay import FlownModel
from yolo_compress.evaluation import read_image

matplotlib.use("Agg")
from matplotlib import pyplot  # after the choice of a backend: there may be no display

COLOURS = ("#c0392b", "#2471a3", "#1e8449")
SHEET_ROWS = 4
# Width of the sheet in pixels, and so of its panels: enough to see a box around a small car.
SHEET_PX = 1920


def contact_sheet(
    flight: RecordedFlight,
    flown: Sequence[FlownModel],
    names: Sequence[str],
    path: Path,
    frames: Sequence[int],
) -> None:
    """Draw the same frames side by side: ground truth, then what each model saw; a row a frame."""
    images = flight.images(frames)
    columns = ["ground truth", *(model.name for model in flown)]
    rows = []
    for index in frames:
        truth = flight.truths[index]
        panels = [_draw(images[index], truth.boxes, truth.class_ids, None, names)]
        for model in flown:
            seen = model.found[index]
            panels.append(_draw(images[index], seen.boxes, seen.class_ids, seen.scores, names))
        rows.append([_panel(panel, SHEET_PX // len(columns)) for panel in panels])
    heights = [row[0].shape[0] for row in rows]
    figure, axes = pyplot.subplots(
        len(rows),
        len(columns),
        figsize=(SHEET_PX / 100, (sum(heights) + 30 * len(rows)) / 100),
        dpi=100,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for row, index, axis_row in zip(rows, frames, axes, strict=True):
        for panel, title, axis in zip(row, columns, axis_row, strict=True):
            axis.imshow(panel[..., ::-1])
            axis.set_title(f"{title}, frame {index}", fontsize=11)
            axis.axis("off")
    figure.savefig(path)
    pyplot.close(figure)


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
    figure, axis = pyplot.subplots(figsize=(11, 3.6), dpi=110, layout="constrained")
    for model, colour in zip(flown, COLOURS, strict=False):
        indices = sorted(model.ages_s)
        axis.plot(
            seconds[indices],
            [1e3 * model.ages_s[i] for i in indices],
            ".-",
            color=colour,
            linewidth=0.8,
            markersize=4,
            label=f"{model.name}: median {model.age_ms(0.5):.0f} ms, p95 {model.age_ms(0.95):.0f} ms, "
            f"{model.dropped} of {model.frames} frames unanswered",
        )
        missing = [i for i in range(len(flight)) if i not in model.ages_s]
        axis.plot(seconds[missing], np.full(len(missing), -3.0), "|", color=colour, markersize=10)
    axis.set_xlabel("time of flight / s")
    axis.set_ylabel("frame age / ms")
    axis.set_title("Age of each frame when its detections arrive (ticks below zero: frames not answered)")
    axis.grid(alpha=0.3)
    axis.legend(loc="upper right", fontsize=9)
    figure.savefig(path)
    pyplot.close(figure)


def small_jpeg(path: Path, width: int = 1920) -> bytes:
    """Return a PNG picture as JPEG of at most the given width, for embedding."""
    picture = read_image(path)
    if picture.shape[1] > width:
        size = (width, round(picture.shape[0] * width / picture.shape[1]))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    return bytes(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1])


def _draw(
    image: Image,
    boxes: NDArray[np.float64],
    class_ids: NDArray[np.int64],
    scores: NDArray[np.float64] | None,
    names: Sequence[str],
) -> Image:
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    drawn = Detections(
        corners.astype(np.float32),
        (np.ones(len(boxes)) if scores is None else scores).astype(np.float32),
        class_ids.astype(np.int32),
    )
    return draw_detections(image, drawn, names, labels=False)


def _panel(image: Image, width: int) -> Image:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
