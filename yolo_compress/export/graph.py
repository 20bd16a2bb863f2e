"""Changes to an exported detector's ONNX graph: fixed sizes, fp16, int8, and the suppression inside.

All start from Ultralytics' raw fp32 export. Its graph has two parts. The body (backbone, neck, and the
convolutions of Detect) is what costs time and may be computed with less precision. The tail (Detect's
arithmetic on anchors, from the last convolutions on) makes pixels of them: it stays fp32, since fp16 has no
more than half a pixel of precision beyond 512 pixels.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.tools.update_model_dims import update_inputs_outputs_dims
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

OUTPUT = "output0"
RAW = "raw"
# Resize takes its scales in fp32 whatever it resizes.
_FP32_INPUTS = {"Resize": (1, 2)}


def tail_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Return the names of the nodes behind Detect's last convolutions, see the module's docstring.

    Raises:
        ValueError: the nodes do not have the names that Ultralytics' exporter gives them.
    """
    inside = [node.name for node in model.graph.node if node.name.startswith("/model.")]
    if len(inside) < len(model.graph.node):
        raise ValueError("the graph has nodes that are none of an Ultralytics model's")
    last = max(int(name.split("/")[1].removeprefix("model.")) for name in inside)
    detect = f"/model.{last}/"
    # cv2 and cv3 are Detect's two branches of convolutions.
    return frozenset(
        name
        for name in inside
        if name.startswith(detect) and not name.removeprefix(detect).startswith(("cv2.", "cv3."))
    )


def fix_sizes(
    model: onnx.ModelProto, anchors: int | None, *, batch: int | None, size: int | None
) -> onnx.ModelProto:
    """Return the model with a fixed batch, a fixed height and width, or both; None leaves them free.

    Args:
        model: with the free dimensions batch, height and width.
        anchors: number of anchors at ``size``; None where the size stays free.
        batch: images at once.
        size: height and width in pixels.
    """
    (image,), (output,) = model.graph.input, model.graph.output
    rows = output.type.tensor_type.shape.dim[1].dim_value
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    return update_inputs_outputs_dims(
        fixed,
        {image.name: [batch or "batch", 3, size or "height", size or "width"]},
        {output.name: [batch or "batch", rows, anchors or "anchors"]},
    )


def to_half(model: onnx.ModelProto, keep: Iterable[str]) -> onnx.ModelProto:
    """Return the model with fp16 input, weights and arithmetic; the nodes ``keep`` and the output stay fp32.

    (ONNX Runtime's own converter leaves graphs like these unsorted and with doubled names.)

    Args:
        model: in fp32, its nodes in topological order.
        keep: names of nodes that take nothing but what the others give them.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph, kept = half.graph, set(keep)
    body = [node for node in graph.node if node.name not in kept]
    floats = {item.name: item for item in graph.initializer if item.data_type == TensorProto.FLOAT}
    fp16: dict[str, TensorProto] = {}
    for node in body:
        for index, name in enumerate(node.input):
            if name in floats and index not in _FP32_INPUTS.get(node.op_type, ()):
                if name not in fp16:
                    values = numpy_helper.to_array(floats[name]).astype(np.float16)
                    fp16[name] = numpy_helper.from_array(values, f"{name}_fp16")
                node.input[index] = fp16[name].name
    made = {name for node in body for name in node.output} | {graph.input[0].name}
    nodes, casts = [], set()
    for node in graph.node:
        # What has no values of its own is asked of the fp16 tensor itself.
        if node.name in kept and node.op_type != "Shape":
            for index, name in enumerate(node.input):
                if name in made:
                    if name not in casts:
                        nodes.append(
                            helper.make_node(
                                "Cast", [name], [f"{name}_fp32"], f"{name}_cast", to=TensorProto.FLOAT
                            )
                        )
                        casts.add(name)
                    node.input[index] = f"{name}_fp32"
        nodes.append(node)
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    _replace_nodes(graph, nodes)
    graph.initializer.extend(fp16.values())
    used = {name for node in nodes for name in node.input}
    weights = [item for item in graph.initializer if item.name in used]
    del graph.initializer[:]
    graph.initializer.extend(weights)
    return half


class _Images(CalibrationDataReader):
    """Feeds images one by one, in the range that was set last."""

    def __init__(self, name: str, count: int, image: Callable[[int], NDArray[np.float32]]) -> None:
        self._name, self._count, self._image = name, count, image
        self._rest = iter(range(count))

    def __len__(self) -> int:
        return self._count

    def set_range(self, start_index: int, end_index: int) -> None:
        self._rest = iter(range(start_index, end_index))

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        index = next(self._rest, None)
        return None if index is None else {self._name: self._image(index)}


def quantize(
    model: onnx.ModelProto, keep: Iterable[str], count: int, image: Callable[[int], NDArray[np.float32]]
) -> onnx.ModelProto:
    """Return the model with int8 convolutions: QuantizeLinear and DequantizeLinear before each.

    As TensorRT asks for: symmetric, weights with a scale for each output channel, biases and outputs of
    convolutions not quantised. The range of an activation is its 99.999th percentile: the largest value cost
    a VisDrone detector several times as much accuracy. The last convolutions before the tail stay
    fp32 too, since scores and distances have no redundancy left.

    Args:
        model: in fp32.
        keep: names of the tail's nodes.
        count: number of images to calibrate on.
        image: gives the n-th one, as many x 3 x height x width float32 as the model takes at once; they must
            be like what the network will see in flight.
    """
    tail = set(keep)
    feeds_tail = {name for node in model.graph.node if node.name in tail for name in node.input}
    last = {
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and feeds_tail.intersection(node.output)
    }
    with tempfile.TemporaryDirectory() as folder, _quietly():
        quantized = Path(folder) / "int8.onnx"
        quantize_static(
            model,
            quantized,
            _Images(model.graph.input[0].name, count, image),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=sorted(tail | last),
            calibrate_method=CalibrationMethod.Percentile,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": ["Conv"],
                # One image at a time: otherwise all activations of all images are in memory together.
                "CalibStridedMinMax": 1,
            },
        )
        return onnx.load(quantized)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keep ONNX Runtime's quantiser from printing, and from advice on graphs that are not simplified."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)


def append_suppression(
    model: onnx.ModelProto, *, max_det: int, iou_threshold: float, score_floor: float
) -> onnx.ModelProto:
    """Return the raw model with decoding and class-aware suppression behind it (``end2end``).

    Its output is batch x max_det x 6: x1, y1, x2, y2 in network pixels, score, class, the best first; rows
    without a box score 0. An anchor answers with its best class alone, as the node's own decoding does.

    Args:
        model: with the output batch x (4 + nc) x anchors in fp32.
        max_det: rows an image.
        iou_threshold: of two boxes of a class that overlap more, the weaker is dropped.
        score_floor: what scores less or equal is not looked at. The node cuts at its own threshold; a higher
            floor saves time, and hides what lies below from everybody.
    """
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    shape = graph.output[0].type.tensor_type.shape
    batch, classes = shape.dim[0], shape.dim[1].dim_value - 4
    for node in graph.node:
        for index, name in enumerate(node.output):
            if name == graph.output[0].name:
                node.output[index] = RAW

    def constant(name: str, value: object, dtype: type) -> str:
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), f"nms/{name}"))
        return f"nms/{name}"

    def add(op: str, inputs: list[str], *outputs: str, **attributes: object) -> str:
        graph.node.append(
            helper.make_node(
                op, inputs, [f"nms/{name}" for name in outputs], f"/nms/{outputs[0]}", **attributes
            )
        )
        return f"nms/{outputs[0]}"

    zero, four, one, end = (constant(f"{n}", [n], np.int64) for n in (0, 4, 1, 2**31 - 1))
    two = constant("2", [2], np.int64)
    # There must be max_det anchors to take, however small the input.
    padding = constant("padding", [0, 0, 0, 0, 0, max_det], np.int64)
    padded = add("Pad", [RAW, padding, constant("nothing", 0, np.float32)], "padded")
    boxes = add("Transpose", [add("Slice", [padded, zero, four, one], "columns")], "boxes", perm=[0, 2, 1])
    scores = add("Slice", [padded, four, end, one], "scores")
    best_class = add("ArgMax", [scores], "best_class", axis=1, keepdims=1)
    ids = constant("ids", np.arange(classes).reshape(1, -1, 1), np.int64)
    own = add("Equal", [best_class, ids], "own")
    own_scores = add("Where", [own, scores, constant("no_score", 0, np.float32)], "own_scores")
    selected = add(
        "NonMaxSuppression",
        [
            boxes,
            own_scores,
            constant("most", [max_det], np.int64),
            constant("iou_threshold", [iou_threshold], np.float32),
            constant("score_floor", [score_floor], np.float32),
        ],
        "selected",
        center_point_box=1,
    )
    none = add(
        "ConstantOfShape",
        [add("Shape", [own_scores], "shape")],
        "none",
        value=helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0]),
    )
    survivors = add(
        "ScatterND", [none, selected, add("GatherND", [own_scores, selected], "survivors")], "kept"
    )
    by_anchor = add("ReduceMax", [survivors], "by_anchor", axes=[1], keepdims=0)
    add("TopK", [by_anchor, constant("rows", [max_det], np.int64)], "score", "anchor", axis=1)
    anchor = add("Unsqueeze", ["nms/anchor", two], "anchor_column")
    four_times = add("Concat", [anchor] * 4, "anchor_columns", axis=2)
    chosen = add("GatherElements", [boxes, four_times], "chosen", axis=1)
    center = add("Slice", [chosen, zero, two, two], "center")
    half = add(
        "Mul", [add("Slice", [chosen, two, four, two], "size"), constant("half", 0.5, np.float32)], "reach"
    )
    class_id = add(
        "GatherElements", [add("Squeeze", [best_class, one], "class_of"), "nms/anchor"], "class_id", axis=1
    )
    columns = [
        add("Sub", [center, half], "low"),
        add("Add", [center, half], "high"),
        add("Unsqueeze", ["nms/score", two], "score_column"),
        add("Unsqueeze", [add("Cast", [class_id], "class_float", to=TensorProto.FLOAT), two], "class_column"),
    ]
    graph.node.append(helper.make_node("Concat", columns, [OUTPUT], "/nms/rows", axis=2))
    images: str | int = batch.dim_param or batch.dim_value
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [images, max_det, 6]))
    return result


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    nodes = [*nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    # Types of tensors between nodes, which have changed; readers infer them again.
    del graph.value_info[:]
