"""From the network's raw prediction to boxes: score cut, decoding, suppression."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

# More candidates than this come only from a score cut near zero (evaluation); the best ones are kept.
MAX_CANDIDATES = 30_000

Boxes = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]


def decode_raw(
    prediction: NDArray[np.float32],
    *,
    classes: NDArray[np.bool_],
    score_threshold: float,
    iou_threshold: float,
    max_det: int,
) -> Boxes:
    """Decode a ``raw`` head's prediction of one image.

    Args:
        prediction: (4 + nc) x A float32; the first four rows are centre x, centre y, width, height in network
            pixels, the others the class scores in [0, 1].
        classes: nc booleans, the classes wanted. An anchor whose best class is not wanted is another object
            and goes as a whole; its second class does not count.
        score_threshold: anchors whose best class scores less or equal are dropped.
        iou_threshold: IoU above which the weaker of two boxes of one class is dropped.
        max_det: at most so many boxes are returned, the best.

    Returns:
        Boxes N x 4 float32 (x1 y1 x2 y2 in network pixels), scores N float32 in descending order, class ids
        N int32. Anchors that are not finite numbers are dropped.
    """
    class_scores = prediction[4:]
    best = class_scores.max(axis=0)
    anchors = np.flatnonzero(best > score_threshold)
    class_ids = class_scores[:, anchors].argmax(axis=0).astype(np.int32)
    usable = classes[class_ids] & np.isfinite(prediction[:, anchors]).all(axis=0)
    if not usable.all():
        anchors, class_ids = anchors[usable], class_ids[usable]
    scores = best[anchors]
    if len(anchors) > MAX_CANDIDATES:
        strongest = np.argpartition(scores, -MAX_CANDIDATES)[-MAX_CANDIDATES:]
        anchors, class_ids, scores = anchors[strongest], class_ids[strongest], scores[strongest]
    centre_x, centre_y, width, height = prediction[:4, anchors]
    boxes = np.stack(
        (centre_x - width / 2, centre_y - height / 2, centre_x + width / 2, centre_y + height / 2), axis=1
    )
    kept = class_aware_nms(boxes, scores, class_ids, iou_threshold, max_det)
    return boxes[kept], scores[kept], class_ids[kept]


def decode_end2end(
    prediction: NDArray[np.float32],
    *,
    classes: NDArray[np.bool_],
    score_threshold: float,
    max_det: int,
) -> Boxes:
    """Decode an ``end2end`` head's prediction of one image: the model has suppressed doubles already.

    Args:
        prediction: M x 6 float32 rows of x1, y1, x2, y2 (network pixels), score, class id.
        classes: nc booleans, the classes wanted; rows of a class beyond nc are dropped.
        score_threshold: rows that score less or equal are dropped.
        max_det: at most so many boxes are returned, the best.

    Returns:
        As `decode_raw`.
    """
    rows = prediction[(prediction[:, 4] > score_threshold) & np.isfinite(prediction).all(axis=1)]
    rows = rows[(rows[:, 5] >= 0) & (rows[:, 5] < len(classes))]
    rows = rows[classes[rows[:, 5].astype(np.int32)]]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:max_det]
    return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32)


def class_aware_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: NDArray[np.int32],
    iou_threshold: float,
    max_det: int,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression inside each class; boxes of different classes never touch each other.

    Args:
        boxes: N x 4 float32, x1 y1 x2 y2.
        scores: N float32.
        class_ids: N int32.
        iou_threshold: the weaker of two boxes of a class whose IoU is above this is dropped.
        max_det: at most so many indices are returned.

    Returns:
        Indices of the boxes kept, in descending order of score.
    """
    if len(boxes) == 0:
        return np.empty(0, np.intp)
    # One call serves all classes when each class lies in a region of its own, further apart than any box
    # reaches. float64, since OpenCV's Rect2d keeps it and large offsets would cost float32 its fractions.
    rects = boxes.astype(np.float64)
    rects[:, 2:] -= rects[:, :2]
    reach = float(np.abs(boxes).max()) * 2 + 1
    rects[:, 0] += class_ids * reach
    kept = cv2.dnn.NMSBoxes(rects.tolist(), scores.tolist(), 0.0, iou_threshold)
    # OpenCV 4.5 returns N x 1, later versions N; an empty result is an empty tuple.
    return np.asarray(kept, np.intp).reshape(-1)[:max_det]
