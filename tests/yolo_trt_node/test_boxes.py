"""Boxes that know their sizes and centers, and can be chosen from."""

import dataclasses

import numpy as np
import pytest
from yolo_trt_node.boxes import NO_ID, Detections


def found(track_ids=None) -> Detections:
    return Detections(
        np.array([[1, 2, 4, 8], [0.5, 0.25, 7, 9], [3, 3, 5, 6]], np.float32),
        np.array([0.9, 0.5, 0.25], np.float32),
        np.array([2, 10, 345], np.int32),
        timing={"inference": 0.5},
        track_ids=track_ids,
    )


@pytest.mark.parametrize(
    ("wanted", "left"),
    [
        (np.array([True, False, True]), [2, 345]),
        (np.array([2, 0]), [345, 2]),
        (slice(1, None), [10, 345]),
        (np.zeros(3, np.bool_), []),
    ],
)
def test_every_part_of_a_box_is_chosen_with_it(wanted, left):
    chosen = found(np.array([5, NO_ID, 7]))[wanted]
    assert chosen.class_ids.tolist() == left
    assert len(chosen) == len(left) == len(chosen.scores) == len(chosen.boxes)
    assert chosen.timing == {"inference": 0.5}
    texts = dict(zip([2, 10, 345], ["5", "", "7"], strict=True))
    assert chosen.track_texts() == [texts[class_id] for class_id in left]
    assert found()[wanted].track_ids is None


def test_sizes_and_centers_are_those_of_the_corners():
    np.testing.assert_array_equal(found().centers(), [[2.5, 5], [3.75, 4.625], [4, 4.5]])
    np.testing.assert_array_equal(found().sizes(), [[3, 6], [6.5, 8.75], [2, 3]])
    np.testing.assert_array_equal(found().xywh()[1], [0.5, 0.25, 6.5, 8.75])
    same = Detections.from_xywh(found().xywh(), found().scores, found().class_ids)
    np.testing.assert_array_equal(same.boxes, found().boxes)
    assert (same.boxes.dtype, same.scores.dtype, same.class_ids.dtype) == (np.float32, np.float32, np.int32)


def test_nothing_found_has_every_shape_and_no_box():
    none = Detections.empty()
    assert len(none) == 0
    assert none.boxes.shape == none.xywh().shape == (0, 4)
    assert none.centers().shape == none.sizes().shape == (0, 2)
    assert none.track_texts() == []


def test_ids_are_texts_as_messages_carry_them():
    assert found(np.array([3, NO_ID, 12])).track_texts() == ["3", "", "12"]
    assert found().track_texts() == ["", "", ""]


def test_classes_are_numbers_or_names():
    assert found().class_texts() == ["2", "10", "345"]
    named = dataclasses.replace(found(), labels=tuple(f"class {i}" for i in range(20)))
    assert named.class_texts() == ["class 2", "class 10", "345"]
    assert named[1:].class_texts() == ["class 10", "345"]
