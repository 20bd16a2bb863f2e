"""What an ONNX file says of itself, read without any runtime.

A Jetson that runs TensorRT has neither ONNX Runtime nor the ``onnx`` package, and TensorRT's parser drops the
metadata. The few fields needed are read straight from the protocol buffer (field numbers: ``onnx.proto3``);
the weights are skipped over, not loaded.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from yolo_trt_node.detector.card import ModelError, TensorSpec

_ELEMENT_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    16: "bfloat16",
}
_QUANTISED = ("QuantizeLinear", "DequantizeLinear")

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Value = int | memoryview


@dataclass(frozen=True)
class OnnxHeader:
    """An ONNX file without its weights.

    Attributes:
        metadata: its ``metadata_props``.
        inputs: the graph's inputs, initialisers left out.
        outputs: the graph's outputs.
        quantised: it holds quantised operators (Q/DQ), so that a runtime computes in int8.
        weight_type: element type of most of its floating-point weights, ``float32`` or ``float16``.
        external: names of the files beside it that hold weights.
        suppresses: the suppression is inside the graph, as ONNX's operator NonMaxSuppression.
    """

    metadata: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantised: bool
    weight_type: str
    external: tuple[str, ...]
    suppresses: bool

    @property
    def precision(self) -> str:
        """The precision that the file itself asks for: ``fp32``, ``fp16`` or ``int8``."""
        if self.quantised:
            return "int8"
        return "fp16" if self.weight_type == "float16" else "fp32"


def read_header(path: Path) -> OnnxHeader:
    """Read everything but the weights of an ONNX file.

    Raises:
        ModelError: the file is no ONNX model, or is cut short.
    """
    size = path.stat().st_size
    try:
        if size == 0:
            raise ValueError("the file is empty")
        with path.open("rb") as file:
            # Not closed by hand: views into it live as long as an exception's traceback does.
            return _read_model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (ValueError, IndexError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ModelError(
            f"cannot read {path} ({size} bytes): {error}. The file is damaged, cut short or no ONNX model: "
            "copy or export it again"
        ) from error


def _read_model(message: memoryview) -> OnnxHeader:
    metadata: dict[str, str] = {}
    graph: memoryview | None = None
    for number, value in _fields(message):
        if number == 7:
            graph = _message(value)
        elif number == 14:
            entry = {field: _text(content) for field, content in _fields(_message(value))}
            metadata[entry.get(1, "")] = entry.get(2, "")
    if graph is None:
        raise ValueError("it holds no graph")
    inputs, outputs = [], []
    initialisers: set[str] = set()
    external: set[str] = set()
    operators: set[str] = set()
    bytes_of_type: dict[int, int] = {}
    for number, value in _fields(graph):
        if number == 1:
            operators.update(_text(content) for field, content in _fields(_message(value)) if field == 4)
        elif number == 5:
            name, kind, place = _initialiser(_message(value))
            initialisers.add(name)
            bytes_of_type[kind] = bytes_of_type.get(kind, 0) + len(_message(value))
            if place is not None:
                external.add(place)
        elif number == 11:
            inputs.append(_value_info(_message(value)))
        elif number == 12:
            outputs.append(_value_info(_message(value)))
    # fp16 weights take half the bytes of the same weights in fp32.
    half = 2 * bytes_of_type.get(10, 0) > bytes_of_type.get(1, 0)
    return OnnxHeader(
        metadata,
        tuple(spec for spec in inputs if spec.name not in initialisers),
        tuple(outputs),
        bool(operators.intersection(_QUANTISED)),
        "float16" if half else "float32",
        tuple(sorted(external)),
        "NonMaxSuppression" in operators,
    )


def _initialiser(message: memoryview) -> tuple[str, int, str | None]:
    """Return a weight's name, element type and the file that holds it (``None``: this one)."""
    name, kind, place = "", 0, None
    for number, value in _fields(message):
        if number == 8:
            name = _text(value)
        elif number == 2:
            kind = _number(value)
        elif number == 13:
            entry = {field: _text(content) for field, content in _fields(_message(value))}
            if entry.get(1) == "location":
                place = entry.get(2)
    return name, kind, place


def _value_info(message: memoryview) -> TensorSpec:
    name, dtype, shape = "", "nothing", []
    for number, value in _fields(message):
        if number == 1:
            name = _text(value)
        elif number == 2:
            tensors = [_message(content) for field, content in _fields(_message(value)) if field == 1]
            for field, content in (pair for tensor in tensors for pair in _fields(tensor)):
                if field == 1:
                    dtype = _ELEMENT_TYPES.get(_number(content), f"type {_number(content)}")
                elif field == 2:
                    dimensions = [_message(entry) for _, entry in _fields(_message(content))]
                    shape = [dict(_fields(dimension)).get(1) for dimension in dimensions]
    return TensorSpec(name, dtype, tuple(None if d is None else _number(d) for d in shape))


def _fields(message: memoryview) -> Iterator[tuple[int, _Value]]:
    """Yield the fields of a protocol buffer message: number and value."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        value: _Value
        if wire == _VARINT:
            value, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            width = 4 if wire == _FIXED32 else 8
            value = int.from_bytes(message[at : at + width], "little")
            at += width
        elif wire == _BYTES:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise ValueError(f"a field of {length} bytes does not fit into the {len(message) - at} left")
            value = message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire} is none of a model's")
        yield number, value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if byte < 0x80:
            return value, at
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _message(value: _Value) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message belongs")
    return value


def _number(value: _Value) -> int:
    if not isinstance(value, int):
        raise ValueError("a message where a number belongs")
    return value


def _text(value: _Value) -> str:
    # Operator and tensor fields of other types share the numbers read; only texts matter here.
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
