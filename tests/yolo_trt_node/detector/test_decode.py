"""Decoding and suppression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yolo_trt_node.detector.decode import class_aware_nms, decode_end2end, decode_raw

ALL = np.ones(3, np.bool_)


def column(x, y, w, h, *scores):
    return [x, y, w, h, *scores]


def raw(*columns):
    return np.array(columns, np.float32).T.copy()


def iou(a, b):
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:], b[2:])
    inner = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inner / (sum(areas) - inner)


def test_centre_and_size_become_corners():
    boxes, scores, ids = decode_raw(
        raw(column(50, 40, 20, 10, 0, 0.9, 0)), classes=ALL, score_threshold=0.5, iou_threshold=0.7, max_det=9
    )
    np.testing.assert_array_equal(boxes, [[40, 35, 60, 45]])
    assert scores == pytest.approx([0.9])
    assert ids.tolist() == [1]


def test_equal_boxes_of_two_classes_both_stay_and_of_one_class_the_better_stays():
    prediction = raw(
        column(50, 40, 20, 10, 0.9, 0, 0),
        column(50, 40, 20, 10, 0, 0.8, 0),
        column(51, 40, 20, 10, 0.7, 0, 0),
    )
    _, scores, ids = decode_raw(prediction, classes=ALL, score_threshold=0.1, iou_threshold=0.5, max_det=9)
    assert ids.tolist() == [0, 1]
    np.testing.assert_allclose(scores, [0.9, 0.8])


def test_results_are_sorted_and_limited():
    columns = [column(30 * i, 20, 10, 10, 0.1 + 0.01 * i, 0, 0) for i in range(50)]
    _, scores, _ = decode_raw(raw(*columns), classes=ALL, score_threshold=0.05, iou_threshold=0.5, max_det=7)
    assert len(scores) == 7
    assert (np.diff(scores) <= 0).all()
    assert scores[0] == pytest.approx(0.1 + 0.49)


def test_an_anchor_of_an_unwanted_class_does_not_become_its_second_class():
    wanted = np.array([False, True, False])
    found = decode_raw(
        raw(column(50, 40, 20, 10, 0.9, 0.8, 0)),
        classes=wanted,
        score_threshold=0.1,
        iou_threshold=0.5,
        max_det=9,
    )
    assert len(found[1]) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_predictions_that_are_no_numbers_are_dropped(bad):
    prediction = raw(
        column(bad, 40, 20, 10, 0.9, 0, 0), column(50, 40, 20, 10, bad, 0, 0), column(9, 9, 4, 4, 0, 0, 0.6)
    )
    boxes, _, ids = decode_raw(
        prediction,
        classes=ALL,
        score_threshold=0.1,
        iou_threshold=0.5,
        max_det=9,
    )
    assert ids.tolist() == [2]
    assert np.isfinite(boxes).all()


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 90), st.integers(0, 90), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2)
        ),
        max_size=40,
    ),
    st.floats(0.05, 0.95),
    st.integers(0, 2**32 - 1),
)
def test_nms_keeps_no_overlap_within_a_class_and_drops_nothing_without_cause(rows, threshold, seed):
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h, _ in rows], np.float32).reshape(-1, 4)
    ids = np.array([row[4] for row in rows], np.int32)
    scores = np.random.default_rng(seed).permutation(len(rows)).astype(np.float32) + 1
    kept = class_aware_nms(boxes, scores, ids, threshold, 1000)
    assert (np.diff(scores[kept]) < 0).all()
    for i in range(len(rows)):
        rivals = [k for k in kept if k != i and ids[k] == ids[i] and scores[k] > scores[i]]
        overlap = max((iou(boxes[i], boxes[k]) for k in rivals), default=0.0)
        if i in kept:
            assert overlap <= threshold + 1e-5
        else:
            assert overlap >= threshold - 1e-5


def test_end2end_rows_are_cut_sorted_and_limited():
    rows = np.array(
        [
            [0, 0, 5, 5, 0.3, 1],
            [1, 1, 6, 6, 0.9, 0],
            [2, 2, 7, 7, 0.6, 2],
            [3, 3, 8, 8, 0.05, 0],
            [0, 0, 1, 1, 0.9, 7],
        ],
        np.float32,
    )
    boxes, scores, ids = decode_end2end(rows, classes=ALL, score_threshold=0.1, max_det=2)
    assert ids.tolist() == [0, 2]
    np.testing.assert_allclose(scores, [0.9, 0.6])
    np.testing.assert_array_equal(boxes[0], [1, 1, 6, 6])
