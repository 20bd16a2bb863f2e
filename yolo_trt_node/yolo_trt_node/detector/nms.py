"""Greedy non-maximum suppression, from a handful of boxes to tens of thousands.

OpenCV's `NMSBoxes` compares every box with every box kept so far: the fastest for a few hundred, seconds for
tens of thousands. Dense aerial scenes and low score cuts have those, and there a box is compared only with
boxes in the cells of a grid that it could overlap enough. Both give the same answer.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.signedinteger]

# Up to here OpenCV is the faster one (or as fast), whatever the boxes.
_FEW = 256
# The strongest boxes left are settled together, so many at once and with so many comparisons at most: larger
# blocks compare more boxes in vain (a box that the first block drops is not looked at again), smaller ones
# pay more calls.
_BLOCK = 512
_COMPARISONS = 16_384
# Cell numbers are 16 bits wide: NumPy sorts those by radix, ten times as fast as wider ones.
_CELLS = 65_535


def class_aware_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: Ids,
    iou_threshold: float,
    max_det: int,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression inside each class; boxes of different classes never touch each other.

    Args:
        boxes: N x 4 float32, x1 y1 x2 y2, finite.
        scores: N float32, none below zero.
        class_ids: N integers, none below zero.
        iou_threshold: the weaker of two boxes of a class whose IoU is above this is dropped.
        max_det: at most so many indices are returned.

    Returns:
        Indices of the boxes kept, in descending order of score; of equal scores the first comes first.
    """
    if len(boxes) == 0:
        return np.empty(0, np.intp)
    if len(boxes) <= _FEW:
        return _opencv_nms(boxes, scores, class_ids, iou_threshold)[:max_det]
    return _grid_nms(boxes, scores, class_ids, iou_threshold, max_det)


def _opencv_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: Ids,
    iou_threshold: float,
) -> NDArray[np.intp]:
    # One call serves all classes when each class lies in a region of its own, further apart than any box
    # reaches. float64, since OpenCV's Rect2d keeps it and large offsets would cost float32 its fractions.
    rects = boxes.astype(np.float64)
    rects[:, 2:] -= rects[:, :2]
    reach = float(np.abs(boxes).max()) * 2 + 1
    rects[:, 0] += class_ids * reach
    kept = cv2.dnn.NMSBoxes(rects.tolist(), scores.tolist(), 0.0, iou_threshold)
    # OpenCV 4.5 returns N x 1, later versions N; an empty result is an empty tuple.
    return np.asarray(kept, np.intp).reshape(-1)


def _grid_nms(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    class_ids: Ids,
    iou_threshold: float,
    max_det: int,
) -> NDArray[np.intp]:
    """`class_aware_nms` for many boxes; from here on a box's index is its rank by score."""
    order = _descending(scores)
    x1, y1, x2, y2 = np.ascontiguousarray(boxes.T)[:, order]
    area = (x2 - x1) * (y2 - y1)
    # The classes present, numbered without gaps: each has a grid of its own.
    ids = class_ids[order]
    layer = (np.cumsum(np.bincount(ids) > 0) - 1)[ids]
    layers = int(layer.max()) + 1
    most = math.isqrt(_CELLS // layers)
    across, down = _Axis(x1, x2, iou_threshold, most), _Axis(y1, y2, iou_threshold, most)
    cell = ((layer * down.cells + down.cell) * across.cells + across.cell).astype(np.uint16)
    by_cell = np.argsort(cell, kind="stable")

    left = np.ones(len(boxes), np.bool_)
    kept: list[NDArray[np.intp]] = []
    found = 0
    while found < max_det and len(by_cell):
        start = np.zeros(layers * down.cells * across.cells + 1, np.intp)
        np.cumsum(np.bincount(cell[by_cell], minlength=len(start) - 1), out=start[1:])

        # Where the overlapping boxes of each box of the block can lie: one run of `by_cell` a row of cells.
        block = np.flatnonzero(left)[:_BLOCK]
        first_column, last_column = across.reach(block)
        owner, row = _runs(*down.reach(block))
        row_start = (layer[block[owner]] * down.cells + row) * across.cells
        begin, end = start[row_start + first_column[owner]], start[row_start + last_column[owner]]
        comparisons = np.cumsum(np.maximum(end - begin, 0))
        if comparisons[-1] > _COMPARISONS:
            # Always one box, however many neighbours it has.
            size = max(1, int(owner[np.searchsorted(comparisons, _COMPARISONS)]))
            runs = int(np.searchsorted(owner, size))
            block, owner, begin, end = block[:size], owner[:runs], begin[:runs], end[:runs]

        run, place = _runs(begin, end)
        i, j = block[owner][run], by_cell[place]
        shared = np.minimum(x2[i], x2[j]) - np.maximum(x1[i], x1[j])
        shared *= np.maximum(np.minimum(y2[i], y2[j]) - np.maximum(y1[i], y1[j]), 0)
        overlapping = np.flatnonzero((shared > iou_threshold * (area[i] + area[j] - shared)) & (i < j))
        i, j = i[overlapping], j[overlapping]

        inside = j <= block[-1]
        keep = _greedy(block, i[inside], j[inside], len(boxes))
        kept.append(block[keep[block]])
        found += len(kept[-1])
        left[block] = False
        left[j[keep[i]]] = False
        by_cell = by_cell[left[by_cell]]
    return order[np.concatenate(kept)[:max_det]]


def _greedy(
    block: NDArray[np.intp], strong: NDArray[np.intp], weak: NDArray[np.intp], size: int
) -> NDArray[np.bool_]:
    """Return which boxes of a block stay, given all pairs (strong, weak) in it that overlap too much.

    Instead of one box after the other, all boxes that no undecided stronger one overlaps are settled at once;
    chains of overlaps are short, so a few rounds do.
    """
    keep = np.zeros(size, np.bool_)
    undecided = np.zeros(size, np.bool_)
    undecided[block] = True
    while True:
        free = undecided.copy()
        free[weak] = False
        keep |= free
        undecided ^= free
        undecided[weak[keep[strong]]] = False
        pending = undecided[strong] & undecided[weak]
        strong, weak = strong[pending], weak[pending]
        if not len(strong):
            return keep | undecided


class _Axis:
    """One axis of the grid: the cell where each box begins, and the cells where its rivals can begin."""

    def __init__(
        self, low: NDArray[np.float32], high: NDArray[np.float32], iou_threshold: float, most: int
    ) -> None:
        """Lay at most ``most`` cells, about as long as a box, over boxes from ``low`` to ``high``."""
        self._size = high - low
        self._low = low - low.min()
        extent = float(self._low.max())
        narrow = min(1.0, (1 - iou_threshold) * (1 + iou_threshold) / max(iou_threshold, 1e-6))
        self._step = max(narrow * float(self._size.mean()), extent / most * 1.001, 1e-6)
        self._iou = iou_threshold
        self._longest = float(self._size.max())
        self.cells = min(most, int(extent / self._step) + 1)
        self.cell = np.minimum((self._low / self._step).astype(np.intp), self.cells - 1)

    def reach(self, boxes: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the first cell and the one after the last in which an overlapping box can begin.

        An IoU above t takes an overlap above t times the length of either box. So the other one begins before
        the last t of this one; and, being shorter than 1/t of this one, not further ahead of it than 1 - t of
        that.
        """
        size, low = self._size[boxes], self._low[boxes]
        ahead = np.minimum((1 - self._iou) / max(self._iou, 1e-6) * size, self._longest)
        # A little wider than the formula, for rounding.
        first = np.maximum((low - ahead) / self._step - 0.01, 0).astype(np.intp)
        last = np.minimum((low + (1 - self._iou) * size) / self._step + 0.01, self.cells - 1).astype(np.intp)
        return first, last + 1


def _runs(begin: NDArray[np.intp], end: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Spell out ranges: for each number in each range begin..end, the range's index and the number."""
    lengths = np.maximum(end - begin, 0)
    offsets = np.cumsum(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    return owner, np.arange(len(owner)) + (begin - offsets + lengths)[owner]


def _descending(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Sort stably from high to low; scores are not negative, so their bits are in the order of their values.

    Two radix sorts of 16 bits, nine times as fast as NumPy's one stable sort of floats.
    """
    bits = ~np.ascontiguousarray(scores).view(np.uint32)
    by_low = np.argsort(bits.astype(np.uint16), kind="stable")
    high = (bits >> np.uint32(16)).astype(np.uint16)
    return by_low[np.argsort(high[by_low], kind="stable")]
