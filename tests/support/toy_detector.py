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

NAMES = ("red", "green", "blue")
CELL = 8
BOX = (16.0, 24.0)  # width, height in network pixels
LEAST = 3  # network pixels: the rectangle detector sees nothing smaller
BGR = {"red": (0, 0, 255), "green": (0, 255, 0), "blue": (255, 0, 0)}

# A 1x1 convolution over RGB: a class's channel counts for it, the others against it.
_HEAD = """
<ir_version: 8, opset_import: ["" : 17]>
{name} ({kind}[{batch}, 3, {height}, {width}] images) => (float[{batch}, 7, {anchors}] output0)
<float[3, 3, 1, 1] weights = {{1, {against}, {against}, {against}, 1, {against}, {against}, {against}, 1}},
 float zero = {{0}}, float half = {{0.5}}, float one = {{1}}, int64 axis2 = {{2}}, int64 axis3 = {{3}},
 int64[1] first = {{0}}, int64[1] channels = {{1}}, int64[3] flat = {{0, 7, -1}},
"""
# Positions by counting ones, so that the graph serves every height and width.
_TOY = """
 float cell = {{8}}, float box_width = {{16}}, float box_height = {{24}}, int64[2] matrix = {{512, 512}}>
{{
    input = Cast<to = 1> (images)
    pooled = AveragePool<kernel_shape = [8, 8], strides = [8, 8]> (input)
    contrast = Conv (pooled, weights)
    scores = Clip (contrast, zero, one)
    plane = Slice (pooled, first, channels, channels)
    zeros = Mul (plane, zero)
    ones = Add (zeros, one)
    column = CumSum (ones, axis3)
    row = CumSum (ones, axis2)
    column_center = Sub (column, half)
    row_center = Sub (row, half)
    x = Mul (column_center, cell)
    y = Mul (row_center, cell)
    w = Mul (ones, box_width)
    h = Mul (ones, box_height)
    grid = Concat<axis = 1> (x, y, w, h, scores)
    {work}
}}
"""
# Of the pixels, so that nothing can be computed beforehand.
_WORK = """
    answer = Reshape (grid, flat)
    mean = ReduceMean<keepdims = 0> (input)
    factor = Expand (mean, matrix)
    product0 = Expand (mean, matrix)
    {products}
    wasted = ReduceMean<keepdims = 0> (product{work})
    nothing = Mul (wasted, zero)
    output0 = Add (answer, nothing)
"""
# Each pixel is an anchor. Negative padding cuts: the mask moved by a pixel.
_RECTANGLES = """
 float too_short = {{2}}, float filled = {{-10000}},
 int64[8] from_left = {{0, 0, 0, 1, 0, 0, 0, -1}}, int64[8] from_above = {{0, 0, 1, 0, 0, 0, -1, 0}},
 int64[8] from_upper_right = {{0, 0, 1, -1, 0, 0, -1, 1}}>
{{
    contrast = Conv (images, weights)
    is_filled = Greater (contrast, half)
    mask = Cast<to = 1> (is_filled)
    zeros = Mul (mask, zero)
    ones = Add (zeros, one)
    left = Pad (mask, from_left, zero)
    left_empty = Sub (one, left)
    above = Pad (mask, from_above, zero)
    above_empty = Sub (one, above)
    upper_right = Pad (mask, from_upper_right, zero)
    upper_right_empty = Sub (one, upper_right)
    edge = Mul (mask, left_empty)
    angle = Mul (edge, above_empty)
    corner = Mul (angle, upper_right_empty)
    {x}
    {y}
    corner_scores = Mul (corner, contrast)
    wide_scores = Mul (corner_scores, x_enough)
    scores = Mul (wide_scores, y_enough)
    grid = Concat<axis = 1> (x_center_out, y_center_out, x_length_out, y_length_out, scores)
    output0 = Reshape (grid, flat)
}}
"""
# The next empty pixel from here on, by a maximum over negated positions; the border is empty.
_AXIS = """
    {x}_next = CumSum (ones, {axis})
    {x} = Sub ({x}_next, one)
    {x}_back = Neg ({x})
    {x}_empty = Where (is_filled, filled, {x}_back)
    {x}_nearest = MaxPool<kernel_shape = {kernel}, pads = {pads}> ({x}_empty)
    {x}_far = Neg ({x}_nearest)
    {x}_border = ReduceMax<axes = [2, 3], keepdims = 1> ({x}_next)
    {x}_end = Min ({x}_far, {x}_border)
    {x}_length = Sub ({x}_end, {x})
    {x}_surplus = Sub ({x}_length, too_short)
    {x}_enough = Clip ({x}_surplus, zero, one)
    {x}_middle = Mul ({x}_length, half)
    {x}_center = Add ({x}_middle, {x})
    {x}_center_at_corner = Mul ({x}_center, corner)
    {x}_center_out = ReduceSum ({x}_center_at_corner, channels)
    {x}_length_at_corner = Mul ({x}_length, corner)
    {x}_length_out = ReduceSum ({x}_length_at_corner, channels)
"""


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


def _write(path: Path, text: str, metadata: dict[str, str]) -> Path:
    model = onnx.parser.parse_model(text)
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


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
    axes: dict[str, object] = {"batch": "batch", "height": "height", "width": "width", "anchors": "anchors"}
    if static:
        anchors = (height // CELL) * (width // CELL)
        axes = {"batch": 1, "height": height, "width": width, "anchors": anchors}
    products = "".join(
        f"raw{index} = MatMul (product{index}, factor)\nproduct{index + 1} = Clip (raw{index}, zero, one)\n"
        for index in range(work)
    )
    end = _WORK.format(products=products, work=work) if work else "output0 = Reshape (grid, flat)"
    head = _HEAD.format(name="toy", kind="float16" if half else "float", against=contrast, **axes)
    own = {"model_card": json.dumps(model_card(height, width))}
    return _write(path, head + _TOY.format(work=end), own if metadata is None else metadata)


def write_rectangle_detector(
    path: Path, *, side: int = 64, static_batch: int | None = None, stride: int = 8
) -> Path:
    """Write a detector of upright rectangles in a class's pure colour, from `LEAST` network pixels on.

    The upper left corner of a rectangle scores the pixel's contrast (1 for the pure colour) and its box
    reaches as far as the colour does to the right and downwards. Blurred corners, as a scaled image has them,
    make boxes up to two network pixels too small.

    Args:
        path: the ONNX file to write.
        side: nominal height and width, and the largest that it serves.
        static_batch: fix batch, height and width in the graph.
        stride: as its card says.
    """
    axes: dict[str, object] = {"batch": "batch", "height": "height", "width": "width", "anchors": "anchors"}
    if static_batch:
        axes = {"batch": static_batch, "height": side, "width": side, "anchors": side * side}
    head = _HEAD.format(name="rectangles", kind="float", against=-1.0, **axes)
    x = _AXIS.format(x="x", axis="axis3", kernel=[1, side], pads=[0, 0, 0, side - 1])
    y = _AXIS.format(x="y", axis="axis2", kernel=[side, 1], pads=[0, 0, side - 1, 0])
    card = model_card(side, side, stride=stride, score_threshold=0.25)
    return _write(path, head + _RECTANGLES.format(x=x, y=y), {"model_card": json.dumps(card)})


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
