"""Tiles and their merge, as mathematics: the views are simulated, so that every answer is known."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from yolo_trt_node.boxes import Detections
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.detector.tiling import (
    Window,
    grid_tile,
    merge_views,
    parse_tiling,
    plan_views,
    tile_windows,
)

NOMINAL = 256
LEAST_SEEN = 3.0  # network pixels: what is thinner in a view, the simulated network does not see there
JITTER = 0.5  # network pixels by which it errs at each edge

quick = settings(max_examples=100, deadline=None)
sides = st.integers(1, 900)
overlaps = st.floats(0.05, 0.5)
tilings = st.sampled_from(["auto", "2x2", "2x3", "1x3", "3x3"])


# --- The grid -----------------------------------------------------------------------------------------------


@given(height=sides, width=sides, tile=st.tuples(st.integers(8, 300), st.integers(8, 300)), overlap=overlaps)
@quick
def test_tiles_cover_every_pixel_and_never_leave_the_image(height, width, tile, overlap):
    seen = np.zeros((height, width), bool)
    for left, top, right, bottom in tile_windows(height, width, *tile, overlap):
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert (bottom - top, right - left) == (min(tile[0], height), min(tile[1], width))
        seen[top:bottom, left:right] = True
    assert seen.all()


@given(length=st.integers(1, 9000), tile=st.integers(8, 700), overlap=overlaps)
@quick
def test_neighbours_overlap_by_what_was_asked_for_and_no_tile_could_be_spared(length, tile, overlap):
    windows = tile_windows(10, length, 10, tile, overlap)
    shared = [a.right - b.left for a, b in itertools.pairwise(windows)]
    assert all(pixels >= tile * overlap for pixels in shared)
    if len(windows) > 1:
        # One tile fewer, spread as far as whole pixels (two for even sides) allow, would overlap by less.
        least = tile * overlap + 2
        assert (len(windows) - 1) * tile - (len(windows) - 2) * least < length


@given(height=sides, width=sides, tile=st.integers(4, 300), overlap=overlaps)
@quick
def test_even_images_are_cut_at_even_pixels(height, width, tile, overlap):
    for window in tile_windows(2 * height, 2 * width, 2 * tile, 2 * tile, overlap):
        assert not any(value % 2 for value in window)


@given(height=sides, width=sides, rows=st.integers(1, 6), columns=st.integers(1, 6), overlap=overlaps)
@quick
def test_a_grid_has_the_rows_and_columns_asked_for(height, width, rows, columns, overlap):
    assume(height > 40 * rows and width > 40 * columns)
    windows = tile_windows(height, width, *grid_tile(height, width, rows, columns, overlap), overlap)
    assert len({w.top for w in windows}) == rows
    assert len({w.left for w in windows}) == columns


def plan(height, width, tiling="auto", overlap=0.2, fixed=None, nominal=NOMINAL):
    return plan_views(
        height,
        width,
        tiling=tiling,
        overlap=overlap,
        nominal=(nominal, nominal),
        stride=32,
        fixed=fixed,
    )


@pytest.mark.parametrize("size", [(256, 256), (100, 200), (1, 1), (144, 256)])
@pytest.mark.parametrize("tiling", ["auto", "none", "1x1"])
def test_an_image_that_fits_into_a_tile_is_seen_once_as_without_tiles(size, tiling):
    assert plan(*size, tiling) == plan(*size, "none")
    assert plan(*size, tiling).windows == (Window(0, 0, size[1], size[0]),)


@given(height=sides, width=sides, tiling=tilings, overlap=overlaps)
@quick
def test_the_whole_image_is_the_first_view_and_auto_keeps_native_resolution(height, width, tiling, overlap):
    views = plan(height, width, tiling, overlap)
    assert views.windows[0] == (0, 0, width, height)
    assert all(side % 32 == 0 and side <= NOMINAL for side in views.shape)
    if tiling == "auto":
        for left, top, right, bottom in views.windows[1:]:
            assert Letterbox.fit(bottom - top, right - left, *views.shape).scale == 1


def test_auto_takes_smaller_tiles_only_where_they_save_work():
    assert plan(1080, 1920, nominal=640).shape == (640, 640)
    assert len(plan(1080, 1920, nominal=640).windows) == 1 + 2 * 4
    assert plan(765, 1360, nominal=640).shape == (384, 640)
    assert plan(1080, 1920, nominal=640, fixed=(384, 640)).shape == (384, 640)


@pytest.mark.parametrize("text", ["", "on", "2", "0x2", "2x0", "17x1", "2x2x2", "-1x2", "2,2", "AUTO"])
def test_a_tiling_that_is_none_is_refused_with_the_choices(text):
    with pytest.raises(ValueError, match=r"use none, auto, or ROWSxCOLUMNS such as 2x3, each from 1 to 16"):
        parse_tiling(text)


# --- The merge ----------------------------------------------------------------------------------------------


@st.composite
def scenes(draw):
    """An image's size, how it is looked at, and objects that do not overlap: boxes N x 4 and classes N."""
    height, width = draw(st.tuples(st.integers(100, 900), st.integers(100, 900)))
    views = plan(height, width, draw(tilings), draw(st.floats(0.1, 0.4)))
    fraction = st.floats(0, 1)
    size = st.one_of(st.floats(4, 40), st.floats(40, 900))
    boxes, classes = [], []
    entries = st.tuples(fraction, fraction, size, size, st.integers(0, 1))
    for x, y, w, h, class_id in draw(st.lists(entries, max_size=12)):
        w, h = min(w, width), min(h, height)
        left, top = x * (width - w), y * (height - h)
        box = (left, top, left + w, top + h)
        if all(box[2] <= b[0] or b[2] <= box[0] or box[3] <= b[1] or b[3] <= box[1] for b in boxes):
            boxes.append(box)
            classes.append(class_id)
    return views, np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int32)


def scale_of(window, shape):
    return Letterbox.fit(window.bottom - window.top, window.right - window.left, *shape).scale


def look(views, boxes, classes, seed, missed=0.0, blind=()):
    """What an able network finds in each view: all that it can see, a little beside the truth."""
    rng = np.random.default_rng(seed)
    found, scales = [], []
    for index, window in enumerate(views.windows):
        frame = np.array(window, np.float32)
        scale = scale_of(window, views.shape)
        seen = np.concatenate(
            (np.maximum(boxes[:, :2], frame[:2]), np.minimum(boxes[:, 2:], frame[2:])), axis=1
        )
        visible = ((seen[:, 2:] - seen[:, :2]) * scale >= LEAST_SEEN).all(axis=1)
        visible &= rng.random(len(boxes)) >= (1.0 if index in blind else missed)
        seen = seen[visible] + rng.uniform(-JITTER, JITTER, (visible.sum(), 4)) / scale
        seen = np.concatenate(
            (np.maximum(seen[:, :2], frame[:2]), np.minimum(seen[:, 2:], frame[2:])), axis=1
        )
        scores = rng.uniform(0.3, 1.0, len(seen)).astype(np.float32)
        found.append(Detections(seen.astype(np.float32), scores, classes[visible]))
        scales.append(scale)
    return found, scales


def whose(merged, boxes, classes):
    """For each box merged, the object that it overlaps most, of its class."""
    owners = []
    for box, class_id in zip(merged.boxes, merged.class_ids, strict=True):
        sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
        shared = sides.clip(0).prod(axis=1) * (classes == class_id)
        owners.append(int(shared.argmax()))
    return owners


def thickness(boxes):
    return (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)


@given(scene=scenes(), seed=st.integers(0, 99))
@settings(max_examples=250, deadline=None)
def test_every_object_is_found_once_and_whole_wherever_it_is_and_whatever_its_size(scene, seed):
    views, boxes, classes = scene
    found, scales = look(views, boxes, classes, seed)
    merged = merge_views(found, views.windows, scales, 300)
    owners = whose(merged, boxes, classes)
    assert sorted(owners) == np.flatnonzero(thickness(boxes) * max(scales) >= LEAST_SEEN).tolist()
    np.testing.assert_allclose(merged.boxes, boxes[owners], atol=2 * JITTER / min(scales))


@given(scene=scenes(), seed=st.integers(0, 99))
@settings(max_examples=150, deadline=None)
def test_tiles_alone_put_together_what_they_cut(scene, seed):
    views, boxes, classes = scene
    assume(len(views.windows) > 1)
    found, scales = look(views, boxes, classes, seed, blind=(0,))
    merged = merge_views(found, views.windows, scales, 300)
    owners = whose(merged, boxes, classes)
    assert sorted(owners) == np.flatnonzero(thickness(boxes) * max(scales) >= LEAST_SEEN).tolist()


@given(scene=scenes(), seed=st.integers(0, 99), missed=st.floats(0.1, 0.7))
@settings(max_examples=150, deadline=None)
def test_views_that_miss_objects_never_make_another_one_count_twice(scene, seed, missed):
    views, boxes, classes = scene
    tile = views.windows[-1]
    shortest = 0.1 * min(tile.right - tile.left, tile.bottom - tile.top)
    small = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0) <= shortest
    boxes, classes = boxes[small], classes[small]
    found, scales = look(views, boxes, classes, seed, missed=missed)
    owners = whose(merge_views(found, views.windows, scales, 300), boxes, classes)
    assert len(owners) == len(set(owners))
    assert {classes[i] for i in owners} <= {c for part in found for c in part.class_ids}


@given(scene=scenes(), seed=st.integers(0, 99))
@quick
def test_the_order_of_the_views_does_not_matter(scene, seed):
    views, boxes, classes = scene
    found, scales = look(views, boxes, classes, seed)
    one = merge_views(found, views.windows, scales, 300)
    other = merge_views(found[::-1], views.windows[::-1], scales[::-1], 300)
    np.testing.assert_array_equal(one.boxes, other.boxes)
    np.testing.assert_array_equal(one.scores, other.scores)


def boxes_of(*rows):
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int32))


LEFT, RIGHT, WHOLE = Window(0, 0, 100, 100), Window(80, 0, 180, 100), Window(0, 0, 180, 100)


@pytest.mark.parametrize(
    ("left", "right", "whole", "expected"),
    [
        # one car in the overlap, three times seen: the best scored stays
        ([(84, 9, 94, 19, 0.6, 0)], [(84, 10, 94, 20, 0.9, 0)], [(83, 8, 95, 19, 0.7, 0)], [0.9]),
        # a tiny one: two pixels of the image are one of the coarse view
        ([(30, 30, 34, 34, 0.6, 0)], [], [(32, 32, 36, 36, 0.9, 0)], [0.9]),
        # cut by the left tile, whole in the right one: whole wins over the better score
        ([(85, 9, 100, 19, 0.9, 0)], [(85, 9, 110, 19, 0.5, 0)], [], [0.5]),
        # a sliver of it, too thin to agree
        ([(97, 9, 100, 14, 0.9, 0)], [(95, 9, 115, 19, 0.5, 0)], [], [0.5]),
        # longer than a tile: two parts and the whole
        ([(10, 9, 100, 29, 0.9, 0)], [(80, 9, 170, 29, 0.9, 0)], [(11, 9, 169, 29, 0.5, 0)], [0.5]),
        # ... and a part that ends inside its tile by a mistake of the network
        ([(10, 9, 94, 29, 0.4, 0)], [(80, 9, 170, 29, 0.9, 0)], [(11, 9, 169, 29, 0.5, 0)], [0.5]),
        # of two classes: two objects
        ([(84, 9, 94, 19, 0.6, 0)], [(84, 9, 94, 19, 0.9, 1)], [], [0.9, 0.6]),
        # two people who overlap, in both tiles: each view tells them apart, so they stay two
        (
            [(85, 9, 93, 29, 0.6, 0), (87, 9, 95, 29, 0.5, 0)],
            [(85, 9, 93, 29, 0.7, 0), (87, 9, 95, 29, 0.4, 0)],
            [],
            [0.7, 0.5],
        ),
        # ... in whatever order they are listed
        (
            [(85, 9, 93, 29, 0.6, 0), (87, 9, 95, 29, 0.5, 0)],
            [(87, 9, 95, 29, 0.4, 0), (85, 9, 93, 29, 0.7, 0)],
            [],
            [0.7, 0.5],
        ),
        # ... the second seen only by the tile that sees the first one better
        ([(85, 9, 93, 29, 0.6, 0), (87, 9, 95, 29, 0.5, 0)], [(85, 9, 93, 29, 0.4, 0)], [], [0.6, 0.5]),
        # ... or only by the one that sees it worse: then it is one
        ([(85, 9, 93, 29, 0.6, 0), (87, 9, 95, 29, 0.5, 0)], [(85, 9, 93, 29, 0.7, 0)], [], [0.7]),
        # two cars that the coarse view takes for one
        ([(10, 9, 20, 19, 0.8, 0), (21, 9, 31, 19, 0.8, 0)], [], [(10, 9, 31, 19, 0.5, 0)], [0.8, 0.8]),
        # a car in a large box that its tile cannot judge
        ([(30, 9, 60, 29, 0.9, 0)], [], [(5, 5, 175, 35, 0.5, 0)], [0.9, 0.5]),
        # one end of a cut object inside another one does not make it a part of that
        (
            [(10, 9, 100, 29, 0.8, 0)],
            [(80, 9, 170, 29, 0.7, 0)],
            [(5, 0, 104, 60, 0.9, 0)],
            [0.9, 0.8],
        ),
        # cut by the image's edge only: that is all there is
        ([(0, 9, 6, 19, 0.6, 0)], [], [(0, 9, 7, 19, 0.5, 0)], [0.6]),
        # only the tile that cuts it has it: the other one, which sees more, says that there is none
        ([(90, 9, 100, 19, 0.6, 0)], [], [], []),
        # ... but of a larger one that is cut there it cannot say so
        ([(60, 9, 100, 19, 0.6, 0)], [], [], [0.6]),
        # what is left of a cut object inside the whole one, seen too badly to agree
        ([(60, 9, 100, 19, 0.9, 0)], [], [(20, 5, 160, 30, 0.5, 0)], [0.5]),
        ([], [], [], []),
    ],
)
def test_what_becomes_of_boxes_at_a_seam(left, right, whole, expected):
    found = [boxes_of(*whole), boxes_of(*left), boxes_of(*right)]
    merged = merge_views(found, [WHOLE, LEFT, RIGHT], [0.5, 1.0, 1.0], 300)
    assert merged.scores.tolist() == pytest.approx(expected)
    assert (merged.boxes.dtype, merged.scores.dtype, merged.class_ids.dtype) == (
        np.float32,
        np.float32,
        np.int32,
    )


def test_the_best_are_kept_where_there_are_too_many():
    row = [(x, 10, x + 5, 20, 0.3 + x / 100, 0) for x in range(0, 60, 6)]
    merged = merge_views([boxes_of(), boxes_of(*row), boxes_of()], [WHOLE, LEFT, RIGHT], [0.5, 1, 1], 3)
    assert merged.scores.tolist() == pytest.approx([0.84, 0.78, 0.72])
