"""What a model says of itself is read, checked, and refused with a reason."""

import json

import pytest
from support.toy_detector import model_card
from yolo_trt_node.detector.card import ModelError, TensorSpec, read_card

IMAGE = TensorSpec("images", "float32", (None, 3, None, None))
RAW = TensorSpec("output0", "float32", (None, 7, None))


def own(**changes) -> dict[str, str]:
    return {"model_card": json.dumps(model_card(64, 128, **changes))}


def card_input(**changes) -> dict:
    return {**model_card(64, 128)["input"], **changes}


def test_own_card_is_read_whole():
    card = read_card(own(), [IMAGE], [RAW])
    assert (card.height, card.width, card.stride, card.head) == (64, 128, 8, "raw")
    assert card.names == ("red", "green", "blue")
    assert (card.fixed_batch, card.fixed_height, card.fixed_width) == (None, None, None)
    assert card.details["format_version"] == 1


def test_the_padding_of_an_earlier_export_is_read():
    entry = card_input(letterbox_color=[1, 2, 3])
    entry["letterbox_colour"] = entry.pop("letterbox_color")
    assert read_card(own(input=entry), [IMAGE], [RAW]).letterbox_color == (1, 2, 3)


def test_own_card_wins_over_ultralytics_keys():
    card = read_card({**own(), "names": "{0: 'other'}", "stride": "32"}, [IMAGE], [RAW])
    assert card.names[0] == "red"
    assert card.stride == 8


def test_fixed_shapes_of_the_graph_win_over_the_nominal_size():
    fixed = TensorSpec("images", "float32", (1, 3, 32, 64))
    card = read_card(own(), [fixed], [RAW])
    assert (card.height, card.width) == (32, 64)
    assert (card.fixed_batch, card.fixed_height, card.fixed_width) == (1, 32, 64)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([IMAGE, IMAGE], [RAW], "one input, this model has 2"),
        ([TensorSpec("x", "float32", (1, 10))], [RAW], "no image batch"),
        ([TensorSpec("x", "float32", (1, 1, 64, 64))], [RAW], "no image batch"),
        ([TensorSpec("x", "tensor(uint8)", (1, 3, 64, 64))], [RAW], "supported are float32 and float16"),
        ([IMAGE], [TensorSpec("y", "float32", (1, 1000))], "no YOLOv8-style detector"),
        ([IMAGE], [RAW, RAW], "no YOLOv8-style detector"),
        ([IMAGE], [TensorSpec("y", "bf16", (1, 7, 84))], "gives bf16; supported are float32 and float16"),
        ([TensorSpec("x", "float32", (1, 3, 60, 64))], [RAW], "no multiple of its stride 8"),
        ([TensorSpec("x", "float32", (1, 3, 32768, 64))], [RAW], "more than 16384 a side"),
        ([TensorSpec("x", "float32", (1, 3, 16384, 16384))], [RAW], "64 Mpx in all"),
        ([TensorSpec("x", "float32", (64, 3, 2048, 2048))], [RAW], "64 Mpx in all"),
        ([TensorSpec("x", "float32", (10**6, 3, 8, 8))], [RAW], "256 images"),
        ([TensorSpec("x", "float32", (1, 3, 0, 64))], [RAW], "is empty"),
        ([IMAGE], [TensorSpec("y", "float32", (1, 7, 10**12))], "greater than any"),
        ([IMAGE], [], "found none"),
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
        ({"names": "abc"}, "damaged.*names is no list"),
        ({"names": ["x" * 5000, "b", "c"]}, "5000 characters"),
        ({"names": [f"c{i}" for i in range(20_000)]}, "names 20000 classes"),
        ({"stride": 10**9}, "stride 10{9}, which is not 1 to 1024"),
        ({"stride": 10**400}, "stride 10+, which"),
        ({"score_threshold": float("nan")}, "score_threshold nan"),
        ({"iou_threshold": 7}, "iou_threshold 7"),
        ({"input": card_input(scale=float("inf"))}, "scale inf, which"),
        ({"input": card_input(scale=0)}, "scale 0.0"),
        ({"input": card_input(height=float("inf"))}, "damaged"),
        ({"input": card_input(height=1 << 20)}, "height"),
        ({"input": card_input(letterbox_color=[0, 0, 256])}, "letterbox_color"),
        ({"origin": "x" * (2 << 20)}, "damaged.*characters"),
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


def test_a_card_nested_too_deep_is_damaged():
    with pytest.raises(ModelError, match="damaged"):
        read_card({"model_card": "[" * 100_000}, [IMAGE], [RAW])
