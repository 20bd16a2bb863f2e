"""From the network's raw prediction to boxes: score cut, decoding, suppression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector.nms import class_aware_nms

# More candidates than this come only from a score cut near zero (evaluation); the best ones are kept.
MAX_CANDIDATES = 30_000


def decode_raw(
    prediction: NDArray[np.float32],
    *,
    classes: NDArray[np.bool_],
    score_threshold: float | NDArray[np.float32],
    iou_threshold: float,
    max_det: int,
    multi_label: bool = False,
) -> Detections:
    """Decode a ``raw`` head's prediction of one image.

    Args:
        prediction: (4 + nc) x A float32; the first four rows are centre x, centre y, width, height in network
            pixels, the others the class scores in [0, 1].
        classes: nc booleans, the classes wanted. An anchor whose best class is not wanted is another object
            and goes as a whole; its second class does not count (but see ``multi_label``).
        score_threshold: boxes that score less or equal are dropped; one for all, or nc, one for each class.
        iou_threshold: IoU above which the weaker of two boxes of one class is dropped.
        max_det: at most so many boxes are returned, the best.
        multi_label: an anchor gives one box for each of its classes that scores enough, not for its best one
            alone. It is how accuracy is measured; in flight it reports one object under several names.

    Returns:
        Boxes in network pixels, scores in descending order. Anchors whose box or score is no finite
        number, or whose box has no extent, are dropped.
    """
    class_scores = prediction[4:]
    thresholds = np.broadcast_to(np.asarray(score_threshold, np.float32), len(classes))
    lowest = thresholds.min(initial=1.0)
    if multi_label:
        ids, anchors = np.nonzero(class_scores > lowest)
        scores = class_scores[ids, anchors]
    else:
        best = class_scores.max(axis=0)
        anchors = np.flatnonzero(best > lowest)
        ids = class_scores[:, anchors].argmax(axis=0)
        scores = best[anchors]
    boxes = prediction[:4, anchors]
    center, size = boxes[:2], boxes[2:]
    # A sum is finite only if every number in it is.
    finite = np.isfinite(boxes.sum(axis=0) + scores)
    wanted = classes[ids] & (scores > thresholds[ids])
    usable = np.flatnonzero(finite & (size.min(axis=0) > 0) & wanted)
    if len(usable) > MAX_CANDIDATES:
        usable = usable[np.argpartition(scores[usable], -MAX_CANDIDATES)[-MAX_CANDIDATES:]]
    half = size / 2
    corners = np.concatenate((center - half, center + half))
    if len(usable) < len(scores):
        corners, scores, ids = corners[:, usable], scores[usable], ids[usable]
    kept = class_aware_nms(corners.T, scores, ids, iou_threshold, max_det)
    return Detections(np.ascontiguousarray(corners.T[kept]), scores[kept], ids[kept].astype(np.int32))


def decode_end2end(
    prediction: NDArray[np.float32],
    *,
    classes: NDArray[np.bool_],
    score_threshold: float | NDArray[np.float32],
    max_det: int,
) -> Detections:
    """Decode an ``end2end`` head's prediction of one image: the model has suppressed doubles already.

    Args:
        prediction: M x 6 float32 rows of x1, y1, x2, y2 (network pixels), score, class id; rows whose box has
            no extent are dropped.
        classes: nc booleans, the classes wanted; rows of a class beyond nc are dropped.
        score_threshold: rows that score less or equal are dropped; one for all, or nc, one for each class.
        max_det: at most so many boxes are returned, the best.

    Returns:
        As `decode_raw`.
    """
    thresholds = np.broadcast_to(np.asarray(score_threshold, np.float32), len(classes))
    rows = prediction[(prediction[:, 4] > thresholds.min(initial=1.0)) & np.isfinite(prediction).all(axis=1)]
    rows = rows[(rows[:, 2:4] > rows[:, :2]).all(axis=1)]
    rows = rows[(rows[:, 5] >= 0) & (rows[:, 5] < len(classes))]
    ids = rows[:, 5].astype(np.int32)
    rows = rows[classes[ids] & (rows[:, 4] > thresholds[ids])]
    rows = rows[np.argsort(-rows[:, 4], kind="stable")][:max_det]
    return Detections(rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int32))
