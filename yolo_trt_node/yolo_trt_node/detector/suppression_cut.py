"""Cuts the suppression out of a model, for a backend that is better off without it.

TensorRT-RTX cannot build ONNX's NonMaxSuppression, and TensorRT makes an output of it whose size depends on
the image. What comes before is the raw head (4 + classes values an anchor), which the node suppresses by
itself. The tensor is found in the graph: the last that boxes and scores are both made of, and nothing else.

No ``onnx`` package is needed, which a Jetson does not have: the file's messages are copied as they are.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from yolo_trt_node.detector.card import CARD_KEY, ModelError, TensorSpec
from yolo_trt_node.detector.onnx_file import OnnxHeader, read_fields

# Operators that only move what the raw head holds: what they are given is as good, and nearer to it.
_MOVERS = ("Pad", "Transpose", "Identity")
_ELEMENT_TYPES = {"float32": 1, "float16": 10}
_ADVICE = "export it with head raw (`yolo-compress export --head raw`, or Ultralytics' nms=False)"


class _Node:
    def __init__(self, message: bytes) -> None:
        parts = read_fields(message)
        self.inputs = [_text(value) for number, value in parts if number == 1]
        self.outputs = [_text(value) for number, value in parts if number == 2]
        self.operator = next((_text(value) for number, value in parts if number == 4), "")


def cut_suppression(path: Path, header: OnnxHeader) -> tuple[bytes, OnnxHeader]:
    """Return an ONNX file without its suppression, and what that file says of itself.

    Args:
        path: a file whose graph has a NonMaxSuppression.
        header: what it says of itself.

    Raises:
        ModelError: the raw head cannot be found in it.
    """
    try:
        if header.external:
            raise ValueError("its weights are in another file")
        return _cut(path.read_bytes(), header)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ModelError(
            f"{path}: its suppression cannot be taken out of the graph ({error}); {_ADVICE}"
        ) from error


def _cut(content: bytes, header: OnnxHeader) -> tuple[bytes, OnnxHeader]:
    model = read_fields(content)
    (graph,) = (read_fields(bytes(value)) for number, value in model if number == 7 and _is_message(value))
    nodes = [_Node(bytes(value)) for number, value in graph if number == 1 and _is_message(value)]
    made_by = {name: place for place, node in enumerate(nodes) for name in node.outputs if name}
    image = header.inputs[0]
    raw = _raw_head(nodes, made_by, image.name)

    kept: set[int] = set()
    waiting = [raw]
    while waiting:
        place = made_by.get(waiting.pop())
        if place is not None and place not in kept:
            kept.add(place)
            waiting += nodes[place].inputs
    if any(nodes[place].operator in ("If", "Loop", "Scan") for place in kept):
        raise ValueError("it has loops or conditions before its head")
    needed = {name for place in kept for name in nodes[place].inputs}

    output = TensorSpec(raw, "float32", (image.shape[0], None, None))
    parts, place = [], -1
    for number, value in graph:
        if number == 1:
            place += 1
            wanted = place in kept
        elif number == 5:
            wanted = any(field == 8 and _text(name) in needed for field, name in read_fields(bytes(value)))
        else:
            # The graph's outputs are another, and the types of tensors that are gone are told no more.
            wanted = number not in (12, 13)
        if wanted:
            parts.append(_field(number, value))
    parts.append(_field(12, _value_info(output)))
    cut = b"".join(
        _field(number, b"".join(parts)) if number == 7 else _field(number, value) for number, value in model
    )
    return cut, replace(header, metadata=_raw_metadata(header.metadata), outputs=(output,), suppresses=False)


def _raw_head(nodes: list[_Node], made_by: dict[str, int], image: str) -> str:
    """Return the name of the tensor that the boxes and the scores of every suppression are made of."""
    # The immediate dominator of each node that the image reaches, and its depth; the image has depth 0.
    above: dict[int, int] = {}
    depth = {-1: 0}

    def meet(a: int, b: int) -> int:
        while a != b:
            if depth[a] < depth[b]:
                a, b = b, a
            a = above[a]
        return a

    def source(name: str) -> int | None:
        place = -1 if name == image else made_by.get(name)
        return place if place in depth else None

    for place, node in enumerate(nodes):
        sources = [found for found in map(source, node.inputs) if found is not None]
        if sources:
            found = sources[0]
            for other in sources[1:]:
                found = meet(found, other)
            above[place], depth[place] = found, depth[found] + 1
    suppressions = [node for node in nodes if node.operator == "NonMaxSuppression"]
    if not suppressions:
        raise ValueError("it lies inside a loop or a condition")
    ends = [source(name) for node in suppressions for name in node.inputs[:2]]
    common = ends[0]
    for end in ends:
        if end is None or common is None:
            raise ValueError("its boxes or scores do not come from the image")
        common = meet(common, end)
    while common is not None and common >= 0:
        node = nodes[common]
        if len(node.outputs) == 1 and node.operator not in _MOVERS:
            return node.outputs[0]
        # Of several outputs, or only moved: what it was made of.
        common = above[common]
    raise ValueError("nothing in it is a raw head")


def _raw_metadata(metadata: dict[str, str]) -> dict[str, str]:
    """Return the metadata of a model whose suppression is gone."""
    found = {key: value for key, value in metadata.items() if key not in ("args", "nms")}
    if CARD_KEY in found:
        found[CARD_KEY] = json.dumps({**json.loads(found[CARD_KEY]), "head": "raw"})
    else:
        found["end2end"] = "False"
    return found


def _value_info(spec: TensorSpec) -> bytes:
    """Write name, type and shape; a free dimension has no value."""
    dimensions = b"".join(_field(1, _field(1, size) if size is not None else b"") for size in spec.shape)
    tensor = _field(1, _ELEMENT_TYPES[spec.dtype]) + _field(2, dimensions)
    return _field(1, spec.name.encode()) + _field(2, _field(1, tensor))


def _field(number: int, value: int | bytes | memoryview) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + bytes(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(value: int | memoryview) -> str:
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _is_message(value: int | memoryview) -> bool:
    return isinstance(value, memoryview)
