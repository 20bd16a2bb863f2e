"""What a model says of itself is read, checked, and refused with a reason."""

import json

import pytest
from support.toy_detector import model_card
from yolo_trt_node.detector.card import ModelError, TensorSpec, read_card

IMAGE = TensorSpec("images", "float32", (None, 3, None, None))
RAW = TensorSpec("output0", "float32", (None, 7, None))


def own(**changes) -> dict[str, str]:
    return {"model_card": json.dumps(model_card(64, 128, **changes))}


def test_own_card_is_read_whole():
    card = read_card(own(), [IMAGE], [RAW])
    assert (card.height, card.width, card.stride, card.head) == (64, 128, 8, "raw")
    assert card.names == ("red", "green", "blue")
    assert (card.fixed_batch, card.fixed_height, card.fixed_width) == (None, None, None)
    assert card.details["format_version"] == 1


def test_own_card_wins_over_ultralytics_keys():
    card = read_card({**own(), "names": "{0: 'other'}", "stride": "32"}, [IMAGE], [RAW])
    assert card.names[0] == "red"
    assert card.stride == 8


def test_fixed_shapes_of_the_graph_win_over_the_nominal_size():
    fixed = TensorSpec("images", "float32", (1, 3, 32, 64))
    card = read_card(own(), [fixed], [RAW])
    assert (card.height, card.width) == (32, 64)
    assert (card.fixed_batch, card.fixed_height, card.fixed_width) == (1, 32, 64)


def test_an_end2end_head_is_recognised_by_its_rows_of_six():
    rows = TensorSpec("output0", "float32", (1, 300, 6))
    metadata = {"names": "{0: 'a', 1: 'b'}", "stride": "32", "imgsz": "[640, 640]"}
    assert read_card(metadata, [IMAGE], [rows]).head == "end2end"


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([IMAGE, IMAGE], [RAW], "one input, this model has 2"),
        ([TensorSpec("x", "float32", (1, 10))], [RAW], "no image batch"),
        ([TensorSpec("x", "float32", (1, 1, 64, 64))], [RAW], "no image batch"),
        ([TensorSpec("x", "tensor(uint8)", (1, 3, 64, 64))], [RAW], "supported are float32 and float16"),
        ([IMAGE], [TensorSpec("y", "float32", (1, 1000))], "no YOLOv8-style detector"),
        ([IMAGE], [RAW, RAW], "no YOLOv8-style detector"),
        ([TensorSpec("x", "float32", (1, 3, 60, 64))], [RAW], "no multiple of its stride 8"),
    ],
)
def test_graphs_that_are_no_detector_are_refused(inputs, outputs, message):
    with pytest.raises(ModelError, match=message):
        read_card(own(), inputs, outputs)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99, this node reads up to 1; update"),
        ({"task": "segment"}, "task 'segment'"),
        ({"head": "anchors"}, "head layout 'anchors'"),
        ({"names": None}, "damaged"),
        ({"input": {"height": 64}}, "damaged"),
        ({"names": ["a"]}, "3 classes, but the model names 1"),
    ],
)
def test_cards_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        read_card(own(**changes), [IMAGE], [RAW])


def test_a_card_that_is_no_json_is_refused():
    with pytest.raises(ModelError, match="damaged"):
        read_card({"model_card": "{"}, [IMAGE], [RAW])


def test_an_end2end_model_without_names_is_refused():
    with pytest.raises(ModelError, match="names no classes"):
        read_card({}, [IMAGE], [TensorSpec("output0", "float32", (1, 300, 6))])
