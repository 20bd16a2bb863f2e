"""Detectors whose answers can be computed by hand, as real ONNX files.

The toy has YOLOv8's interface (raw head, stride 8) and three classes: red, green and blue. A cell of 8 x 8
network pixels that is filled with a class's colour scores 1 for it and yields one box of `BOX` network
pixels, centred on the cell. Everything else scores 0, so tests know each box exactly.

The rectangle detector has the same classes and finds upright rectangles of any size in their colours.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NAMES = ("red", "green", "blue")
CELL = 8
BOX = (16.0, 24.0)  # width, height in network pixels
LEAST = 3  # network pixels: the rectangle detector sees nothing smaller
BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}


def model_card(height: int, width: int, **changes) -> dict:
    """A complete model card as `yolo-compress export` writes it."""
    card = {
        "format_version": 1,
        "task": "detect",
        "names": list(NAMES),
        "input": {
            "height": height,
            "width": width,
            "channels": "RGB",
            "scale": 1 / 255,
            "letterbox_color": [114, 114, 114],
        },
        "head": "raw",
        "stride": 8,
        "score_threshold": 0.5,
        "iou_threshold": 0.7,
    }
    card.update(changes)
    return card


def write_toy_detector(
    path: Path,
    *,
    size: tuple[int, int] = (64, 64),
    static: bool = False,
    metadata: dict[str, str] | None = None,
    half: bool = False,
    contrast: float = -1.0,
    work: int = 0,
) -> Path:
    """Write the toy detector.

    Args:
        path: the ONNX file to write.
        size: nominal (height, width).
        static: fix batch, height and width in the graph.
        metadata: ``metadata_props``; by default our own model card.
        half: float16 tensors at the input.
        work: how many products of 512 x 512 matrices each inference wastes, to take its time.
        contrast: how much the other two colours count for a class; at 0 a yellow cell is both red and green.
    """
    height, width = size
    axes = [1, 3, height, width] if static else ["batch", 3, "height", "width"]
    # Weights of a 1x1 convolution over RGB: a class's channel counts for it, the others against it.
    weights = np.full((3, 3, 1, 1), contrast, np.float32)
    weights[range(3), range(3)] = 1.0

    def constant(name: str, value: object) -> TensorProto:
        return numpy_helper.from_array(np.asarray(value), name)

    first = [helper.make_node("Cast", ["images"], ["input"], to=TensorProto.FLOAT)]
    nodes = [
        *first,
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[CELL] * 2, strides=[CELL] * 2),
        helper.make_node("Conv", ["pooled", "weights"], ["contrast"]),
        helper.make_node("Clip", ["contrast", "zero", "one"], ["scores"]),
        # Positions by counting ones, so that the graph serves every height and width.
        helper.make_node("Slice", ["pooled", "from0", "to1", "channel_axis"], ["plane"]),
        helper.make_node("Mul", ["plane", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "one"], ["ones"]),
        helper.make_node("CumSum", ["ones", "axis3"], ["column"]),
        helper.make_node("CumSum", ["ones", "axis2"], ["row"]),
        helper.make_node("Sub", ["column", "half_cell"], ["column_centre"]),
        helper.make_node("Sub", ["row", "half_cell"], ["row_centre"]),
        helper.make_node("Mul", ["column_centre", "cell"], ["x"]),
        helper.make_node("Mul", ["row_centre", "cell"], ["y"]),
        helper.make_node("Mul", ["ones", "box_width"], ["w"]),
        helper.make_node("Mul", ["ones", "box_height"], ["h"]),
        helper.make_node("Concat", ["x", "y", "w", "h", "scores"], ["grid"], axis=1),
        helper.make_node("Reshape", ["grid", "flat"], ["output0" if not work else "answer"]),
    ]
    if work:
        # Of the pixels, so that nothing can be computed beforehand.
        nodes += [
            helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
            helper.make_node("Expand", ["mean", "matrix"], ["factor"]),
            helper.make_node("Expand", ["mean", "matrix"], ["product0"]),
        ]
        for index in range(work):
            nodes += [
                helper.make_node("MatMul", [f"product{index}", "factor"], [f"raw{index}"]),
                helper.make_node("Clip", [f"raw{index}", "zero", "one"], [f"product{index + 1}"]),
            ]
        nodes += [
            helper.make_node("ReduceMean", [f"product{work}"], ["wasted"], keepdims=0),
            helper.make_node("Mul", ["wasted", "zero"], ["nothing"]),
            helper.make_node("Add", ["answer", "nothing"], ["output0"]),
        ]
    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT16 if half else TensorProto.FLOAT, axes)],
        [
            helper.make_tensor_value_info(
                "output0",
                TensorProto.FLOAT,
                [1 if static else "batch", 7, (height // CELL) * (width // CELL) if static else "anchors"],
            )
        ],
        [
            constant("weights", weights),
            constant("zero", np.float32(0)),
            constant("one", np.float32(1)),
            constant("half_cell", np.float32(0.5)),
            constant("cell", np.float32(CELL)),
            constant("box_width", np.float32(BOX[0])),
            constant("box_height", np.float32(BOX[1])),
            constant("axis2", np.int64(2)),
            constant("axis3", np.int64(3)),
            constant("from0", np.array([0], np.int64)),
            constant("to1", np.array([1], np.int64)),
            constant("channel_axis", np.array([1], np.int64)),
            constant("flat", np.array([0, 7, -1], np.int64)),
            constant("matrix", np.array([512, 512], np.int64)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if metadata is None:
        metadata = {"model_card": json.dumps(model_card(height, width))}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def write_rectangle_detector(
    path: Path, *, side: int = 64, static_batch: int | None = None, stride: int = 8
) -> Path:
    """Write a detector of upright rectangles in a class's pure colour, from `LEAST` network pixels on.

    Each pixel is an anchor. The upper left corner of a rectangle scores the pixel's contrast (1 for the pure
    colour) and its box reaches as far as the colour does to the right and downwards. Blurred corners, as a
    scaled image has them, make boxes up to two network pixels too small.

    Args:
        path: the ONNX file to write.
        side: nominal height and width, and the largest that it serves.
        static_batch: fix batch, height and width in the graph.
        stride: as its card says.
    """
    axes = [static_batch, 3, side, side] if static_batch else ["batch", 3, "height", "width"]
    weights = np.full((3, 3, 1, 1), -1.0, np.float32)
    weights[range(3), range(3)] = 1.0
    constants = {
        "weights": weights,
        "half": np.float32(0.5),
        "one": np.float32(1),
        "zero": np.float32(0),
        "too_short": np.float32(LEAST - 1),
        "filled": np.float32(-1e4),
        "axis2": np.int64(2),
        "axis3": np.int64(3),
        "classes": np.array([1], np.int64),
        "flat": np.array([0, 7, -1], np.int64),
        # Negative padding cuts: the mask moved by a pixel.
        "from_left": np.array([0, 0, 0, 1, 0, 0, 0, -1], np.int64),
        "from_above": np.array([0, 0, 1, 0, 0, 0, -1, 0], np.int64),
        "from_upper_right": np.array([0, 0, 1, -1, 0, 0, -1, 1], np.int64),
    }
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "weights"], ["contrast"]),
        node("Greater", ["contrast", "half"], ["is_filled"]),
        node("Cast", ["is_filled"], ["mask"], to=TensorProto.FLOAT),
        node("Mul", ["mask", "zero"], ["zeros"]),
        node("Add", ["zeros", "one"], ["ones"]),
    ]
    empty = []
    for name in ("left", "above", "upper_right"):
        nodes += [
            node("Pad", ["mask", f"from_{name}", "zero"], [name]),
            node("Sub", ["one", name], [f"{name}_empty"]),
        ]
        empty.append(f"{name}_empty")
    nodes += [
        node("Mul", ["mask", empty[0]], ["edge"]),
        node("Mul", ["edge", empty[1]], ["angle"]),
        node("Mul", ["angle", empty[2]], ["corner"]),
    ]
    for name, axis, kernel, pads in (
        ("x", "axis3", [1, side], [0, 0, 0, side - 1]),
        ("y", "axis2", [side, 1], [0, 0, side - 1, 0]),
    ):
        nodes += [
            # The next empty pixel from here on, by a maximum over negated positions; the border is empty.
            node("CumSum", ["ones", axis], [f"{name}_next"]),
            node("Sub", [f"{name}_next", "one"], [name]),
            node("Neg", [name], [f"{name}_back"]),
            node("Where", ["is_filled", "filled", f"{name}_back"], [f"{name}_empty"]),
            node("MaxPool", [f"{name}_empty"], [f"{name}_nearest"], kernel_shape=kernel, pads=pads),
            node("Neg", [f"{name}_nearest"], [f"{name}_far"]),
            node("ReduceMax", [f"{name}_next"], [f"{name}_border"], axes=[2, 3], keepdims=1),
            node("Min", [f"{name}_far", f"{name}_border"], [f"{name}_end"]),
            node("Sub", [f"{name}_end", name], [f"{name}_length"]),
            node("Sub", [f"{name}_length", "too_short"], [f"{name}_surplus"]),
            node("Clip", [f"{name}_surplus", "zero", "one"], [f"{name}_enough"]),
            node("Mul", [f"{name}_length", "half"], [f"{name}_middle"]),
            node("Add", [f"{name}_middle", name], [f"{name}_centre"]),
        ]
        for value in ("centre", "length"):
            nodes += [
                node("Mul", [f"{name}_{value}", "corner"], [f"{name}_{value}_at_corner"]),
                node("ReduceSum", [f"{name}_{value}_at_corner", "classes"], [f"{name}_{value}_out"]),
            ]
    rows = ["x_centre_out", "y_centre_out", "x_length_out", "y_length_out", "scores"]
    nodes += [
        node("Mul", ["corner", "contrast"], ["corner_scores"]),
        node("Mul", ["corner_scores", "x_enough"], ["wide_scores"]),
        node("Mul", ["wide_scores", "y_enough"], ["scores"]),
        node("Concat", rows, ["grid"], axis=1),
        node("Reshape", ["grid", "flat"], ["output0"]),
    ]
    anchors = [static_batch, 7, side * side] if static_batch else ["batch", 7, "anchors"]
    graph = helper.make_graph(
        nodes,
        "rectangles",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, axes)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, anchors)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    card = model_card(side, side, stride=stride, score_threshold=0.25)
    helper.set_model_props(model, {"model_card": json.dumps(card)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def paint_cells(
    image: np.ndarray,
    cells: list[tuple[int, int, str]],
    network_pixel: float = 1.0,
    offset: tuple[int, int] = (0, 0),
) -> np.ndarray:
    """Fill network cells (row, column, class name) of an image H x W x 3 uint8 BGR with their class's colour.

    Args:
        image: painted in place and returned.
        cells: which cells of the network's grid.
        network_pixel: image pixels per network pixel.
        offset: rows and columns of padding in the network's input, in network pixels.
    """
    for row, column, name in cells:
        top, left = (
            round((index * CELL - pad) * network_pixel)
            for index, pad in zip((row, column), offset, strict=True)
        )
        side = round(CELL * network_pixel)
        image[top : top + side, left : left + side] = BGR[name]
    return image


def scene(
    height: int = 320,
    width: int = 640,
    cells: tuple[tuple[int, int, str], ...] = ((1, 3, "green"), (2, 6, "red")),
) -> np.ndarray:
    """A grey image, H x W x 3 uint8 BGR, ten times as large as the toy's input, with coloured cells."""
    return paint_cells(np.full((height, width, 3), 114, np.uint8), list(cells), network_pixel=10)


def expected_box(row: int, column: int) -> tuple[float, float, float, float]:
    """The toy's box for a cell, x1 y1 x2 y2 in network pixels."""
    x, y = (column + 0.5) * CELL, (row + 0.5) * CELL
    return x - BOX[0] / 2, y - BOX[1] / 2, x + BOX[0] / 2, y + BOX[1] / 2
