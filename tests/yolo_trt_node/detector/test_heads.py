"""The layout of a head is what its exporter says; what is another, or in doubt, is refused by name."""

import pytest
from yolo_trt_node.detector.card import ModelError, TensorSpec, read_card

IMAGE = TensorSpec("images", "float32", (1, 3, 640, 640))
FREE = TensorSpec("images", "float32", (None, 3, None, None))


def stock(classes: int, **changes: str) -> dict[str, str]:
    """What Ultralytics' exporter writes into a file."""
    return {
        "description": "Ultralytics YOLOv8n model trained on coco.yaml",
        "author": "Ultralytics",
        "stride": "32",
        "task": "detect",
        "names": str({i: f"c{i}" for i in range(classes)}),
        **changes,
    }


def head(metadata: dict[str, str], *shape: int | None, image: TensorSpec = IMAGE) -> str:
    return read_card(metadata, [image], [TensorSpec("output0", "float32", shape)]).head


@pytest.mark.parametrize(
    ("metadata", "shape"),
    [
        (stock(80), (1, 84, 8400)),
        (stock(80, head="Detect", end2end="False"), (1, 84, 8400)),
        (stock(2), (1, 6, 8400)),
        (stock(2), (1, None, None)),
        (stock(80), (1, 84, 34000)),  # with a P2 level
        (stock(1, args="{'nms': False}"), (1, 5, 8400)),
        (stock(1, args="{'nms': "), (1, 5, 8400)),
        (stock(80, description="Ultralytics YOLOv8n model trained on yolov10.yaml"), (1, 84, 8400)),
        (stock(80, description="Ultralytics YOLO26n model", end2end="False"), (1, 84, 8400)),
        ({}, (1, 84, 8400)),
        # Not a square: columns enough, and of the length of a row.
        (stock(396), (1, 400, 400)),
    ],
)
def test_columns_of_anchors_are_raw(metadata, shape):
    assert head(metadata, *shape) == "raw"


@pytest.mark.parametrize(
    "metadata",
    [
        stock(2, end2end="True"),
        stock(2, args="{'batch': 1, 'nms': True}"),
        stock(2, head="v10Detect"),
        stock(2, description="Ultralytics YOLOv10n model"),
        stock(2, description="Ultralytics yolov10n model trained on a.yaml"),
    ],
)
def test_rows_are_final_where_the_exporter_says_so(metadata):
    assert head(metadata, 1, 300, 6) == "end2end"
    assert head(metadata, None, None, 6) == "end2end"


@pytest.mark.parametrize(
    ("metadata", "shape", "words"),
    [
        # [1, 300, 6] and [1, 8400, 6] of all origins
        (stock(2), (1, 300, 6), "an RT-DETR.*transposed.*DeepStream.*end2end"),
        (stock(5), (1, 300, 6), "DeepStream.*end2end model that does not say so"),
        (stock(1), (1, 8400, 6), "YOLOv5.*YOLOX.*DeepStream"),
        ({"names": "['drone']"}, (1, 25200, 6), "YOLOv5"),
        ({"names": "{0: 'a', 1: 'b'}"}, (1, 8400, 6), "DeepStream"),
        # rows an anchor
        (stock(80), (1, 25200, 85), "YOLOv5.*objectness|YOLOv5.*rate an anchor besides"),
        (stock(80), (1, 8400, 84), "transposed"),
        ({}, (1, 25200, 85), "names no classes"),
        ({}, (1, 8400, 84), "transposed"),
        ({}, (1, 25200, 6), "names no classes"),
        ({}, (1, 300, 6), "names no classes|does not show"),
        # other heads
        (stock(2, description="Ultralytics rtdetr-l model"), (1, 300, 6), "RT-DETR"),
        (stock(296, description="Ultralytics RT-DETR-L model"), (1, 300, 300), "RT-DETR"),
        (stock(80, head="RTDETRDecoder"), (1, 300, 84), "RT-DETR"),
        (stock(296), (1, 300, 300), "RT-DETR|fewer anchors"),
        (stock(80, head="Segment"), (1, 116, 8400), "'Segment'"),
        (stock(80), (1, 116, 8400), "segmentation"),
        (stock(80), (1, 85, 8400), "-obb"),
        (stock(80), (1, 84, 300), "fewer anchors"),
        (stock(80), (1, 80, 8400), "makes 76 classes, but the model names 80"),
        (stock(2, end2end="True"), (1, 300, 38), "rows of 6 values"),
    ],
)
def test_other_layouts_are_refused_by_name(metadata, shape, words):
    with pytest.raises(ModelError, match=words) as refusal:
        head(metadata, *shape)
    assert "export" in str(refusal.value)


@pytest.mark.parametrize("task", ["segment", "pose", "obb", "classify"])
def test_other_tasks_are_refused_with_the_way_to_a_detector(task):
    with pytest.raises(ModelError, match=rf"task '{task}'.*yolo export"):
        head(stock(80, task=task), 1, 84, 8400)


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ([(1, 3, 80, 80, 85), (1, 3, 40, 40, 85), (1, 3, 20, 20, 85)], "grids of YOLOv5"),
        ([(1, 1), (1, 100, 4), (1, 100), (1, 100)], "EfficientNMS"),
        ([(1, 116, 8400), (1, 32, 160, 160)], "expected one output"),
        ([(100, 7)], "expected one output"),
    ],
)
def test_graphs_with_other_outputs_are_refused_by_name(shapes, words):
    outputs = [TensorSpec(f"o{i}", "float32", shape) for i, shape in enumerate(shapes)]
    with pytest.raises(ModelError, match=words):
        read_card(stock(80), [IMAGE], outputs)


@pytest.mark.parametrize("channels", [1, 4, 6])
def test_other_numbers_of_channels_are_refused(channels):
    with pytest.raises(ModelError, match="3 channels"):
        head(stock(80), 1, 84, 8400, image=TensorSpec("images", "float32", (1, channels, 640, 640)))


@pytest.mark.parametrize(
    ("names", "listed"),
    [
        ({str(i): f"name{i}" for i in range(12)}, [f"name{i}" for i in range(12)]),
        ({0: "a", 2: "b"}, ["a", "b"]),
        ({2: "b", 1: "a"}, ["a", "b"]),
        (["a", "b"], ["a", "b"]),
        ({0: "", 1: "a\nb"}, ["", "a\nb"]),
        ({0: "人", 1: "машина"}, ["人", "машина"]),
    ],
)
def test_names_stand_in_the_order_of_their_numbers(names, listed):
    output = TensorSpec("output0", "float32", (1, 4 + len(listed), None))
    card = read_card({"names": str(names)}, [FREE], [output])
    assert list(card.names) == listed


@pytest.mark.parametrize(
    "metadata",
    [
        {"names": "{'a': 'b'}"},
        {"names": "{0: 'a', '0': 'b'}"},
        {"names": "5"},
        {"names": "{0: "},
        {"names": "[" * 5000},
        {"names": "['a']", "stride": "1e400"},
        {"names": "['a']", "imgsz": "[1, 2, 3]"},
        {"names": "x" * (2 << 20)},
        {"names": "['a']", "stride": "(" * 300 + ")" * 300},
    ],
)
def test_metadata_of_other_types_is_one_error(metadata):
    with pytest.raises(ModelError, match="metadata cannot be read"):
        head(metadata, 1, 5, 8400)
