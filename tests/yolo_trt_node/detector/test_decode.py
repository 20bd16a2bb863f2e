"""Decoding and suppression."""

import numpy as np
import pytest
from yolo_trt_node.detector import decode

ALL = np.ones(3, np.bool_)


def decode_raw(*arguments, **options):
    return parts(decode.decode_raw(*arguments, **options))


def decode_end2end(*arguments, **options):
    return parts(decode.decode_end2end(*arguments, **options))


def parts(found):
    return found.boxes, found.scores, found.class_ids


def column(x, y, w, h, *scores):
    return [x, y, w, h, *scores]


def raw(*columns):
    return np.array(columns, np.float32).T.copy()


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


def test_boxes_without_extent_are_dropped():
    prediction = raw(
        column(5, 5, 0, 4, 0.9, 0, 0), column(5, 5, 4, -1, 0.9, 0, 0), column(50, 50, 4, 4, 0, 0, 0.6)
    )
    _, _, ids = decode_raw(prediction, classes=ALL, score_threshold=0.1, iou_threshold=0.5, max_det=9)
    assert ids.tolist() == [2]


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


def test_with_multi_label_every_class_that_scores_enough_counts():
    prediction = raw(column(50, 40, 20, 10, 0.9, 0.8, 0.05), column(10, 10, 4, 4, 0, 0.3, 0.6))
    options = {"score_threshold": 0.1, "iou_threshold": 0.5, "max_det": 9, "multi_label": True}
    boxes, scores, ids = decode_raw(prediction, classes=ALL, **options)
    np.testing.assert_allclose(scores, [0.9, 0.8, 0.6, 0.3])
    assert ids.tolist() == [0, 1, 2, 1]
    np.testing.assert_array_equal(boxes[0], boxes[1])
    # Here a class stands for itself: what another class scores on the same anchor is nothing to it.
    _, _, ids = decode_raw(prediction, classes=np.array([False, True, False]), **options)
    assert ids.tolist() == [1, 1]


def test_a_model_of_one_class_and_one_without_any_anchor():
    one = np.ones(1, np.bool_)
    options = {"classes": one, "score_threshold": 0.1, "iou_threshold": 0.5, "max_det": 9}
    for multi_label in (False, True):
        boxes, _, ids = decode_raw(raw(column(5, 5, 2, 2, 0.5)), multi_label=multi_label, **options)
        assert ids.tolist() == [0]
        boxes, scores, ids = decode_raw(np.empty((5, 0), np.float32), multi_label=multi_label, **options)
        assert boxes.shape == (0, 4)
        assert (boxes.dtype, scores.dtype, ids.dtype) == (np.float32, np.float32, np.int32)


def test_of_more_candidates_than_can_be_handled_the_best_stay(monkeypatch):
    monkeypatch.setattr(decode, "MAX_CANDIDATES", 5)
    columns = [column(30 * i, 20, 10, 10, 0.1 + 0.01 * i, 0, 0) for i in range(50)]
    # Boxes of a class that is not wanted take nobody's place.
    columns += [column(30 * i, 90, 10, 10, 0, 0.9, 0) for i in range(50)]
    _, scores, _ = decode_raw(
        raw(*columns),
        classes=np.array([True, False, True]),
        score_threshold=0.05,
        iou_threshold=0.5,
        max_det=100,
    )
    np.testing.assert_allclose(scores, [0.59, 0.58, 0.57, 0.56, 0.55])


@pytest.mark.parametrize("multi_label", [False, True])
def test_each_class_is_cut_by_its_own_threshold_before_the_best_are_taken(multi_label):
    prediction = raw(
        column(50, 40, 20, 10, 0.55, 0, 0),
        column(150, 40, 20, 10, 0, 0.3, 0),
        column(250, 40, 20, 10, 0, 0, 0.5),
    )
    thresholds = np.array([0.6, 0.2, 0.5], np.float32)
    _, scores, ids = decode_raw(
        prediction,
        classes=ALL,
        score_threshold=thresholds,
        iou_threshold=0.5,
        max_det=1,
        multi_label=multi_label,
    )
    assert (ids.tolist(), scores.tolist()) == ([1], [pytest.approx(0.3)])
    rows = np.array([[0, 0, 9, 9, 0.55, 0], [0, 0, 9, 9, 0.3, 1], [0, 0, 9, 9, 0.5, 2]], np.float32)
    _, _, ids = decode_end2end(rows, classes=ALL, score_threshold=thresholds, max_det=1)
    assert ids.tolist() == [1]


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
