"""Whether what a network answers can be the answer of a detector of the layout that its card names.

A file can be read, run and still be another model than it says: logits in place of scores, boxes as shares of
the image, rows in another order. What such a network answers is nothing to steer by, so it is refused: whole
predictions are looked at when the model is loaded and on its first frames, its scores on every frame.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector.card import ModelCard

FRAMES = 10
"""As many predictions of a model are looked at whole."""

# Scores of a sigmoid lie within 0 to 1; int8 and bf16 may round a little beyond.
_MARGIN = 0.05
_NOT_ALMOST_ZERO = 1e-3
# Network pixels: boxes that all lie in a corner of this size are shares of the image.
_CORNER = 1.5


def absurdity(prediction: NDArray[np.float32], card: ModelCard, shape: tuple[int, int]) -> str:
    """Say what is wrong with a prediction of one image.

    Args:
        prediction: as `decode_raw` or `decode_end2end` take it, after the card's head.
        card: what the model says of itself.
        shape: the network's input height and width in pixels.

    Returns:
        In words what no detector answers; empty where it may be one's.
    """
    if prediction.ndim != 2:
        return f"its prediction of an image has {prediction.ndim} dimensions, not 2"
    values = prediction.size
    finite = int(np.count_nonzero(np.isfinite(prediction)))
    if finite < values:
        return (
            f"{values - finite} of {values} values are NaN or infinite: its weights or its precision are bad"
        )
    return (_raw if card.head == "raw" else _end2end)(prediction, card, shape)


def check_scores(scores: NDArray[np.float32]) -> str:
    """Say what is wrong with the scores of boxes that were found; empty where nothing is.

    Args:
        scores: N float32.
    """
    if len(scores) and not float(scores.max()) <= 1.0 + _MARGIN:
        return f"a box scores {float(scores.max()):.4g}, and scores lie within 0 to 1"
    return ""


def _raw(prediction: NDArray[np.float32], card: ModelCard, shape: tuple[int, int]) -> str:
    rows, anchors = prediction.shape
    classes = len(card.names)
    fewest = (shape[0] // card.stride) * (shape[1] // card.stride)
    if rows != 4 + classes or anchors < fewest:
        return (
            f"it answers {rows} x {anchors} values, and {classes} classes at {shape[0]}x{shape[1]} make "
            f"{4 + classes} x at least {fewest}"
        )
    if complaint := _range(prediction[4:]):
        return complaint
    found = prediction[:4, prediction[4:].max(axis=0) > _NOT_ALMOST_ZERO]
    if found.size and float(found[2:].min(axis=0).max()) <= 0:
        return "none of the boxes that score has a width and a height"
    # Every anchor has a box of its own place, whatever it scores.
    if 0 < float(prediction[:4].max()) <= _CORNER:
        return "all its boxes lie within 0 to 1: they are shares of the image, not pixels"
    return ""


def _end2end(prediction: NDArray[np.float32], card: ModelCard, shape: tuple[int, int]) -> str:
    if prediction.shape[1] != 6:
        return f"its rows have {prediction.shape[1]} values, not 6"
    if complaint := _range(prediction[:, 4]):
        return complaint
    # Rows that score nothing are padding, and may hold anything.
    found = prediction[prediction[:, 4] > _NOT_ALMOST_ZERO]
    if not len(found):
        return ""
    ids = found[:, 5]
    strange = ids[(ids != np.floor(ids)) | (ids < 0) | (ids >= len(card.names))]
    if len(strange):
        return f"a row has the class {float(strange[0]):.4g}, and the model names {len(card.names)}"
    boxes = found[:, :4]
    if np.count_nonzero((boxes[:, 2:] <= boxes[:, :2]).any(axis=1)) > len(boxes) / 2:
        return "most of its boxes end before they begin: they are not x1 y1 x2 y2"
    if float(np.abs(boxes).max()) <= _CORNER:
        return "all its boxes lie within 0 to 1: they are shares of the image, not pixels"
    return ""


def _range(scores: NDArray[np.float32]) -> str:
    lowest, highest = float(scores.min(initial=0.0)), float(scores.max(initial=0.0))
    if lowest < -_MARGIN or highest > 1.0 + _MARGIN:
        return f"its scores go from {lowest:.4g} to {highest:.4g}, and scores lie within 0 to 1"
    return ""
