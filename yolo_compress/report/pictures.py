"""The same images side by side: what is there, and what each model sees."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from yolo_trt_node.detector import Detections
from yolo_trt_node.drawing import draw_detections

from yolo_compress.report.page import PHOTO_PX

Image = NDArray[np.uint8]


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    class_ids: NDArray[Any],
    scores: NDArray[Any] | None,
    names: Sequence[str],
) -> Image:
    """Draw N x 4 boxes (left, top, width, height in pixels) on a copy; ground truth has no scores."""
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    drawn = Detections(
        corners.astype(np.float32),
        (np.ones(len(boxes)) if scores is None else scores).astype(np.float32),
        class_ids.astype(np.int32),
    )
    return draw_detections(image, drawn, names, labels=False)


def sheet(rows: Sequence[Sequence[Image]], titles: Sequence[Sequence[str]]) -> Image:
    """Put images side by side under their titles, scaled to equal columns; return H x `PHOTO_PX` x 3 BGR.

    Args:
        rows: images of each row, as many in each.
        titles: of each image.
    """
    columns = len(rows[0])
    panels = [[_scaled(image, PHOTO_PX // columns) for image in row] for row in rows]
    heights = [row[0].shape[0] for row in panels]
    figure = Figure(
        figsize=(PHOTO_PX / 100, (sum(heights) + 30 * len(rows)) / 100), dpi=100, layout="constrained"
    )
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    for row, row_titles, axis_row in zip(panels, titles, axes, strict=True):
        for panel, title, axis in zip(row, row_titles, axis_row, strict=True):
            axis.imshow(panel[..., ::-1])
            axis.set_title(title, fontsize=11)
            axis.axis("off")
    return drawn(figure)


def drawn(figure: Figure) -> Image:
    """Return a figure as H x W x 3 uint8 BGR."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)


def _scaled(image: Image, width: int) -> Image:
    height = round(image.shape[0] * width / image.shape[1])
    return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
