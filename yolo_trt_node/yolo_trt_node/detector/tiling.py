"""Small objects at the camera's own resolution: tiles of an image, and one answer from their many.

An image is looked at as a whole, scaled down, and in overlapping tiles, each a *view* with its window in the
image. An object in an overlap is seen by several views, and one across a tile's edge is seen in part. The
merge rests on one observation: where the windows of two views meet, both see the same part of the same
object. So two boxes belong together when they agree on that common part, whatever each sees beyond it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector.letterbox import matched_shape

NO_TILES = "none"  # YAML, and so ROS, reads a bare "off" as false
AUTO = "auto"
MAX_TILES_A_SIDE = 16
MIN_OVERLAP, MAX_OVERLAP = 0.05, 0.5
# Larger tiles give the network more surroundings and cut fewer objects; smaller ones must save a tenth.
WORTH_SMALLER_TILES = 0.9

# A box that ends this near to an inner edge of its tile is taken for cut off there: half a cell of the finest
# grid of a YOLOv8 head, in network pixels.
EDGE_MARGIN = 4.0
# Boxes of two views agree when their common parts overlap by this (IoU). Lower than in one view's
# suppression: the views see at different scales, and each object of a view matches one of the other at most.
AGREEMENT_IOU = 0.5
# ... or when no edge differs by more than this, in network pixels of the coarser view: of a tiny object, a
# pixel's error there is a large part.
AGREEMENT_PIXELS = 1.5
# A box with this share of its area inside another one lies inside it.
INSIDE = 0.65


class Window(NamedTuple):
    """Part of an image, in pixels; ``right`` and ``bottom`` are exclusive."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True)
class ViewPlan:
    """How an image is looked at.

    Attributes:
        shape: the network's input (height, width) for every view.
        windows: the views' windows; the first is the whole image.
    """

    shape: tuple[int, int]
    windows: tuple[Window, ...]

    @property
    def pixels(self) -> int:
        """Network pixels to compute for an image."""
        return self.shape[0] * self.shape[1] * len(self.windows)


def parse_tiling(text: str) -> str | tuple[int, int]:
    """Read the option ``tiling``: ``none``, ``auto``, or ``ROWSxCOLUMNS`` as in ``2x3``.

    Returns:
        `NO_TILES`, `AUTO` or (rows, columns).

    Raises:
        ValueError: it is none of them.
    """
    if text in (NO_TILES, AUTO):
        return text
    rows, _, columns = text.partition("x")
    if rows.isdecimal() and columns.isdecimal():
        grid = int(rows), int(columns)
        if min(grid) >= 1 and max(grid) <= MAX_TILES_A_SIDE:
            return grid
    raise ValueError(
        f"tiling is {text!r}; use none, auto, or ROWSxCOLUMNS such as 2x3, each from 1 to {MAX_TILES_A_SIDE}"
    )


def tile_windows(
    image_height: int, image_width: int, tile_height: int, tile_width: int, overlap: float
) -> list[Window]:
    """Cover an image with the fewest tiles of a size, evenly spread, row by row.

    Every pixel is covered, no tile leaves the image, and neighbours share at least ``overlap`` of a tile's
    side. Where the image's and the tile's side are even, so are the windows' coordinates: YUV frames can be
    cut only there.

    Args:
        image_height: the image's height in pixels.
        image_width: its width.
        tile_height: the tile's height in pixels; where the image is smaller, the tile is.
        tile_width: its width, likewise.
        overlap: share of a tile's side, `MIN_OVERLAP` to `MAX_OVERLAP`.
    """
    rows = _starts(image_height, tile_height, overlap)
    columns = _starts(image_width, tile_width, overlap)
    height, width = min(tile_height, image_height), min(tile_width, image_width)
    return [Window(left, top, left + width, top + height) for top in rows for left in columns]


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    if tile >= length:
        return [0]
    unit = 2 if length % 2 == 0 and tile % 2 == 0 else 1
    shared = -(-tile * overlap // unit)  # rounded up, in units
    step = max(1, int(tile // unit - shared))
    last = (length - tile) // unit
    count = -(-last // step) + 1
    return [index * last // (count - 1) * unit for index in range(count)]


def grid_tile(
    image_height: int, image_width: int, rows: int, columns: int, overlap: float
) -> tuple[int, int]:
    """Return the (height, width) of the tiles that cover an image in so many rows and columns."""

    def side(length: int, count: int) -> int:
        # Together they cover t * (count - (count - 1) * overlap); whole pixels may take a little more.
        tile = max(1, int(length / (count - (count - 1) * overlap)))
        while tile < length and (tile % 2 > length % 2 or len(_starts(length, tile, overlap)) > count):
            tile += 1
        return tile

    return side(image_height, rows), side(image_width, columns)


def plan_views(
    image_height: int,
    image_width: int,
    *,
    tiling: str,
    overlap: float,
    nominal: tuple[int, int],
    stride: int,
    fixed: tuple[int, int] | None,
) -> ViewPlan:
    """Decide how to look at images of a size.

    ``auto`` takes tiles at native resolution, as large as the nominal input; or as the input that matches the
    image's aspect, where that is clearly less work. An image that fits into one tile gets the plain view. All
    views, that of the whole image too, have one shape, so that they share batches and one compiled network.

    Args:
        image_height: the image's height in pixels.
        image_width: its width.
        tiling: as in `parse_tiling`.
        overlap: least share of a tile's side that its neighbour sees too.
        nominal: the model's nominal input (height, width).
        stride: the model's stride in pixels.
        fixed: the one input shape to use, or ``None`` where it follows the image's or tile's aspect.
    """
    whole = Window(0, 0, image_width, image_height)
    plain = ViewPlan(fixed or matched_shape(image_height, image_width, *nominal, stride), (whole,))
    grid = parse_tiling(tiling)
    if grid == NO_TILES:
        return plain

    def tiled(tile_height: int, tile_width: int) -> ViewPlan:
        windows = tile_windows(image_height, image_width, tile_height, tile_width, overlap)
        if len(windows) == 1:
            return plain
        left, top, right, bottom = windows[0]
        shape = fixed or matched_shape(bottom - top, right - left, *nominal, stride)
        return ViewPlan(shape, (whole, *windows))

    if isinstance(grid, tuple):
        return tiled(*grid_tile(image_height, image_width, *grid, overlap))
    large, small = tiled(*(fixed or nominal)), tiled(*plain.shape)
    return small if small.pixels < WORTH_SMALLER_TILES * large.pixels else large


class _Seen(NamedTuple):
    """The boxes of all views (N), and the views (V) that they are from.

    Attributes:
        boxes: N x 4 float32.
        scores: N float32.
        class_ids: N int32.
        view: N, position of each box's view.
        windows: V x 4 float32.
        scales: V float32, network pixels per image pixel.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    class_ids: NDArray[np.int32]
    view: NDArray[np.intp]
    windows: NDArray[np.float32]
    scales: NDArray[np.float32]


class _Pairs(NamedTuple):
    """Pairs of overlapping boxes of one class from different views: positions, and the area they share."""

    first: NDArray[np.intp]
    second: NDArray[np.intp]
    shared: NDArray[np.float32]


def merge_views(
    found: Sequence[Detections], windows: Sequence[Window], scales: Sequence[float], max_det: int
) -> Detections:
    """Make one answer of what the views of an image found: every object once, and whole.

    Boxes of one class from different views that agree where both views look are one object, at most one of
    each view. It gets the best scored of the boxes that end inside their view; where every view cuts it, the
    box around the parts. A cut box goes where another view could see the object whole and does not, or where
    it lies inside another object. So does the weaker of two boxes in one place, unless the view of the
    stronger has found both.

    Args:
        found: one for each view, in pixels of the image.
        windows: the views' windows; together they cover the image.
        scales: network pixels per image pixel of each view.
        max_det: at most so many boxes are returned, the best.

    Returns:
        Those of the image, scores in descending order.
    """
    seen = _Seen(
        boxes=np.concatenate([part.boxes for part in found]),
        scores=np.concatenate([part.scores for part in found]),
        class_ids=np.concatenate([part.class_ids for part in found]),
        view=np.repeat(np.arange(len(found)), [len(part) for part in found]),
        windows=np.array(windows, np.float32),
        scales=np.array(scales, np.float32),
    )
    scale = seen.scales[seen.view]
    whole = ~_cut(seen, seen.boxes, seen.view)
    pairs = _overlapping(seen)
    keeper = np.arange(len(seen.boxes))
    merged = seen.boxes.copy()
    for members in _clusters(seen, pairs):
        seen_whole = [index for index in members if whole[index]]
        best = max(seen_whole or members, key=lambda index: (seen.scores[index], scale[index]))
        keeper[members] = best
        if not seen_whole:
            merged[best, :2] = seen.boxes[members, :2].min(axis=0)
            merged[best, 2:] = seen.boxes[members, 2:].max(axis=0)
    kept = keeper == np.arange(len(keeper))
    kept &= whole | ~_denied(seen, merged)
    kept &= ~_outdone(seen, pairs, whole, keeper, merged)
    order = np.flatnonzero(kept)
    order = order[np.argsort(-seen.scores[order], kind="stable")][:max_det]
    return Detections(merged[order], seen.scores[order], seen.class_ids[order])


def _cut(seen: _Seen, boxes: NDArray[np.float32], view: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Tell which boxes reach an edge of a view behind which the image goes on."""
    image = np.concatenate((seen.windows[:, :2].min(axis=0), seen.windows[:, 2:].max(axis=0)))
    inner = (seen.windows != image)[view]
    inwards = np.array([1, 1, -1, -1], np.float32)
    room = (boxes - seen.windows[view]) * inwards
    return ((room < EDGE_MARGIN / seen.scales[view, None]) & inner).any(axis=1)


def _overlapping(seen: _Seen) -> _Pairs:
    members = [np.flatnonzero(seen.view == index) for index in range(len(seen.windows))]
    found = [_Pairs(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0, np.float32))]
    for one, other in itertools.combinations(range(len(seen.windows)), 2):
        low = np.maximum(seen.windows[one, :2], seen.windows[other, :2])
        high = np.minimum(seen.windows[one, 2:], seen.windows[other, 2:])
        # Only what reaches into the window that both see can overlap.
        first, second = (
            group[(seen.boxes[group, :2] < high).all(axis=1) & (seen.boxes[group, 2:] > low).all(axis=1)]
            for group in (members[one], members[other])
        )
        a, b = seen.boxes[first, None], seen.boxes[None, second]
        sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
        shared = sides.clip(min=0).prod(axis=-1)
        shared[seen.class_ids[first, None] != seen.class_ids[None, second]] = 0
        rows, columns = np.nonzero(shared)
        found.append(_Pairs(first[rows], second[columns], shared[rows, columns]))
    return _Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _agreement(seen: _Seen, pairs: _Pairs) -> NDArray[np.float32]:
    """Return the IoU of each pair inside the window that both views see; 0 where they do not agree."""
    views = seen.view[pairs.first], seen.view[pairs.second]
    low = np.maximum(seen.windows[views[0], :2], seen.windows[views[1], :2])
    high = np.minimum(seen.windows[views[0], 2:], seen.windows[views[1], 2:])

    def visible(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.concatenate((np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)), axis=1)

    a, b = visible(seen.boxes[pairs.first]), visible(seen.boxes[pairs.second])
    # What two boxes share lies inside both windows, so it is the same for their visible parts.
    iou = pairs.shared / (_areas(a) + _areas(b) - pairs.shared)
    tolerance = AGREEMENT_PIXELS / np.minimum(seen.scales[views[0]], seen.scales[views[1]])
    agree = (iou >= AGREEMENT_IOU) | (np.abs(a - b).max(axis=1, initial=0) <= tolerance)
    return np.where(agree, iou, 0)


def _clusters(seen: _Seen, pairs: _Pairs) -> list[list[int]]:
    """Join boxes that agree, best first, into clusters that hold at most one box of each view."""
    agreement = _agreement(seen, pairs)
    order = np.argsort(-agreement, kind="stable")
    order = order[agreement[order] > 0]
    view = seen.view.tolist()
    cluster: dict[int, list[int]] = {}
    for a, b in zip(pairs.first[order].tolist(), pairs.second[order].tolist(), strict=True):
        one, other = cluster.get(a, [a]), cluster.get(b, [b])
        if one is not other and {view[i] for i in one}.isdisjoint(view[i] for i in other):
            joined = one + other
            cluster.update(dict.fromkeys(joined, joined))
    return list({id(members): members for members in cluster.values()}.values())


def _denied(seen: _Seen, boxes: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which boxes lie uncut inside another view of no less resolution, which has not found them."""
    denied = np.zeros(len(boxes), np.bool_)
    for view, scale in enumerate(seen.scales):
        entitled = (seen.view != view) & (seen.scales[seen.view] <= scale)
        denied |= entitled & ~_cut(seen, boxes, np.full(len(boxes), view))
    return denied


def _outdone(
    seen: _Seen,
    pairs: _Pairs,
    whole: NDArray[np.bool_],
    keeper: NDArray[np.intp],
    merged: NDArray[np.float32],
) -> NDArray[np.bool_]:
    """Tell which objects give way to one that is seen whole and shares their place.

    What is cut in all views gives way to what it lies inside of. Of two that are seen whole, the weaker is a
    double, or a part taken for an object; unless it is larger than the view of the stronger, which then knows
    nothing of it. Nothing gives way where the view of the stronger has found both.
    """
    area, scores = _areas(merged), seen.scores
    found = []
    for a, b in ((pairs.first, pairs.second), (pairs.second, pairs.first)):
        rivals = (keeper[a] == a) & (keeper[b] == b) & whole[b]
        a, b, shared = a[rivals], b[rivals], pairs.shared[rivals]
        part = ~whole[a] & (shared >= INSIDE * area[a])
        weaker = (scores[a] < scores[b]) | ((scores[a] == scores[b]) & (a > b))
        double = whole[a] & weaker & (shared >= INSIDE * np.minimum(area[a], area[b]))
        lost = part | (double & ~_cut(seen, seen.boxes[a], seen.view[b]))
        found.append(np.stack((a[lost], b[lost]), axis=1))
    lost_to = np.concatenate(found)
    views: dict[int, set[int]] = {}
    for index, view in zip(keeper.tolist(), seen.view.tolist(), strict=True):
        views.setdefault(index, set()).add(view)
    gone = np.zeros(len(area), np.bool_)
    for loser, winner in lost_to[np.argsort(-scores[lost_to[:, 1]], kind="stable")].tolist():
        if not gone[winner] and seen.view[winner] not in views[loser]:
            gone[loser] = True
    return gone


def _areas(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
