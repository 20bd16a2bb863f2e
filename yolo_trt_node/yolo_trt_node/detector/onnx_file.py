"""What an ONNX file says of itself, read without any runtime.

A Jetson that runs TensorRT has neither ONNX Runtime nor the ``onnx`` package, and TensorRT's parser drops the
metadata. The few fields needed are read straight from the protocol buffer (field numbers: ``onnx.proto3``);
the weights are skipped over, not loaded.

The file may be a stranger's: what it claims is bounded, and weights beside it are taken only from regular
files in its own folder, before any runtime follows their names.
"""

from __future__ import annotations

import hashlib
import mmap
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
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
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear")

# Beyond every detector there is; a file of tiny fields, or of graphs in graphs, would keep Python busy for
# ever.
MAX_BYTES = 1 << 31
MAX_EXTERNAL_BYTES = 1 << 33
_MAX_FIELDS = 1_000_000
_MAX_METADATA = 4 << 20
_MAX_NESTING = 32
_MAX_RANK = 16
_CHUNK = 1 << 20

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_Value = int | memoryview


@dataclass(frozen=True)
class OnnxHeader:
    """An ONNX file without its weights.

    Attributes:
        metadata: its ``metadata_props``.
        inputs: the graph's inputs, initialisers left out.
        outputs: the graph's outputs.
        quantized: it holds quantised operators (Q/DQ), so that a runtime computes in int8.
        weight_type: element type of most of its floating-point weights, ``float32`` or ``float16``.
        external: names of the files beside it that hold weights.
        suppresses: the suppression is inside the graph, as ONNX's operator NonMaxSuppression.
        free: of the first input the names of its free dimensions, by position; empty for the others.
    """

    metadata: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    quantized: bool
    weight_type: str
    external: tuple[str, ...]
    suppresses: bool
    free: tuple[str, ...] = ()

    @property
    def precision(self) -> str:
        """The precision that the file itself asks for: ``fp32``, ``fp16`` or ``int8``."""
        if self.quantized:
            return "int8"
        return "fp16" if self.weight_type == "float16" else "fp32"


def read_header(path: Path) -> OnnxHeader:
    """Read everything but the weights of an ONNX file.

    Raises:
        ModelError: the file is no ONNX model, is cut short, or keeps weights where none may be.
    """
    size = 0
    try:
        size = path.stat().st_size
        if size == 0:
            raise ValueError("the file is empty")
        if size > MAX_BYTES:
            raise ValueError(f"it is greater than the {MAX_BYTES >> 30} GiB that an ONNX file can have")
        with path.open("rb") as file:
            # Not closed by hand: views into it live as long as an exception's traceback does.
            header = _Reader().model(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, OSError) as error:
        raise ModelError(
            f"cannot read {path} ({size} bytes): {error}. The file is damaged, cut short or no ONNX model: "
            "copy or export it again"
        ) from error
    _check_external(path, header.external)
    return header


def read_fields(message: bytes) -> list[tuple[int, int | memoryview]]:
    """Return the fields of a protocol buffer message, as number and value.

    Raises:
        ValueError: it is none.
    """
    return list(_Reader()._fields(memoryview(message)))


def fingerprint(path: Path, header: OnnxHeader) -> str:
    """Return the SHA-256 of a model: of the file, and of the files that hold its weights.

    Raises:
        ModelError: one cannot be read.
    """
    digest = hashlib.sha256()
    for file in (path, *_check_external(path, header.external)):
        try:
            with file.open("rb") as content:
                while chunk := content.read(_CHUNK):
                    digest.update(chunk)
        except OSError as error:
            raise ModelError(f"{path}: {file} cannot be read: {error}") from error
    return digest.hexdigest()


def _check_external(path: Path, names: tuple[str, ...]) -> list[Path]:
    """Return the files that hold weights; refuse what is none of the model's folder (a device never ends)."""
    files, size = [], 0
    try:
        folder = path.parent.resolve()
        for name in names:
            file = folder / name
            inside = not Path(name).is_absolute() and file.resolve().is_relative_to(folder)
            if not inside:
                raise ModelError(
                    f"{path} keeps weights in {name[:200]!r}, outside its own folder, and is refused: "
                    "weights must lie beside the model"
                )
            facts = file.stat()
            if not stat.S_ISREG(facts.st_mode):
                raise ModelError(f"{path} keeps weights in {name[:200]!r}, which is no regular file")
            files.append(file)
            size += facts.st_size
    except FileNotFoundError as error:
        raise ModelError(
            f"{path} keeps weights in {name[:200]!r}, which is missing: copy it beside the model"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a null byte, a name too long
        raise ModelError(f"{path} keeps weights in {name[:200]!r}, which cannot be read: {error}") from error
    if size > MAX_EXTERNAL_BYTES:
        raise ModelError(f"{path} keeps {size >> 30} GiB of weights beside it; a detector has far less")
    return files


@dataclass
class _Reader:
    """Reads one file; notes what its graphs hold, at any depth."""

    fields: int = 0
    external: set[str] = field(default_factory=set)
    operators: set[str] = field(default_factory=set)
    free: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def model(self, message: memoryview) -> OnnxHeader:
        metadata: dict[str, str] = {}
        graph: memoryview | None = None
        texts = 0
        for number, value in self._fields(message):
            if number == 7:
                graph = _message(value)
            elif number == 14:
                entry = self._texts(_message(value))
                metadata[entry.get(1, "")] = entry.get(2, "")
                texts += len(_message(value))
                if texts > _MAX_METADATA:
                    raise ValueError(f"its metadata has more than {_MAX_METADATA >> 20} MiB")
            elif number == 25:
                for part, content in self._fields(_message(value)):
                    if part == 7:
                        self._node(_message(content), 1)
        if graph is None:
            raise ValueError("it holds no graph")
        inputs, outputs = [], []
        initializers: set[str] = set()
        bytes_of_type: dict[int, int] = {}
        for number, value in self._fields(graph):
            if number == 1:
                self._node(_message(value), 1)
            elif number == 5:
                name, kind = self._tensor(_message(value))
                initializers.add(name)
                bytes_of_type[kind] = bytes_of_type.get(kind, 0) + len(_message(value))
            elif number == 11:
                inputs.append(self._value_info(_message(value)))
            elif number == 12:
                outputs.append(self._value_info(_message(value)))
            elif number == 15:
                self._sparse(_message(value))
        # fp16 weights take half the bytes of the same weights in fp32.
        half = 2 * bytes_of_type.get(10, 0) > bytes_of_type.get(1, 0)
        return OnnxHeader(
            metadata,
            tuple(spec for spec in inputs if spec.name not in initializers),
            tuple(outputs),
            bool(self.operators.intersection(_QUANTIZED)),
            "float16" if half else "float32",
            tuple(sorted(self.external)),
            "NonMaxSuppression" in self.operators,
            next((self.free[spec.name] for spec in inputs if spec.name not in initializers), ()),
        )

    def _graph(self, message: memoryview, depth: int) -> None:
        """Look through a graph inside a node (the body of a loop, the branches of a condition)."""
        if depth > _MAX_NESTING:
            raise ValueError(f"its graphs are nested more than {_MAX_NESTING} deep")
        for number, value in self._fields(message):
            if number == 1:
                self._node(_message(value), depth + 1)
            elif number == 5:
                self._tensor(_message(value))
            elif number == 15:
                self._sparse(_message(value))

    def _node(self, message: memoryview, depth: int) -> None:
        for number, value in self._fields(message):
            if number == 4:
                self.operators.add(_text(value))
            elif number == 5:
                for part, content in self._fields(_message(value)):
                    if part in (5, 10):
                        self._tensor(_message(content))
                    elif part in (6, 11):
                        self._graph(_message(content), depth)
                    elif part in (22, 23):
                        self._sparse(_message(content))

    def _sparse(self, message: memoryview) -> None:
        for number, value in self._fields(message):
            if number in (1, 2):
                self._tensor(_message(value))

    def _tensor(self, message: memoryview) -> tuple[str, int]:
        """Return a weight's name and element type; note the file that holds it, where it is not this one."""
        name, kind = "", 0
        for number, value in self._fields(message):
            if number == 8:
                name = _text(value)
            elif number == 2:
                kind = _number(value)
            elif number == 13:
                entry = self._texts(_message(value))
                if entry.get(1) == "location":
                    self.external.add(entry.get(2, ""))
        return name, kind

    def _value_info(self, message: memoryview) -> TensorSpec:
        name, dtype, shape = "", "nothing", []
        free: list[str] = []
        for number, value in self._fields(message):
            if number == 1:
                name = _text(value)
            elif number == 2:
                tensors = [
                    _message(content) for field, content in self._fields(_message(value)) if field == 1
                ]
                for part, content in (pair for tensor in tensors for pair in self._fields(tensor)):
                    if part == 1:
                        dtype = _ELEMENT_TYPES.get(_number(content), f"type {_number(content)}")
                    elif part == 2:
                        dimensions = [_message(entry) for _, entry in self._fields(_message(content))]
                        if len(dimensions) > _MAX_RANK:
                            raise ValueError(f"{name[:80]} has {len(dimensions)} dimensions")
                        parts = [dict(self._fields(dimension)) for dimension in dimensions]
                        shape = [entry.get(1) for entry in parts]
                        free = [_text(entry.get(2, 0)) for entry in parts]
        sizes = tuple(None if d is None else _number(d) for d in shape)
        if any(size is not None and size >= 1 << 62 for size in sizes):
            raise ValueError(f"{name[:80]} has a dimension below zero")
        self.free[name] = tuple(free)
        return TensorSpec(name, dtype, sizes)

    def _texts(self, message: memoryview) -> dict[int, str]:
        return {number: _text(value) for number, value in self._fields(message)}

    def _fields(self, message: memoryview) -> Iterator[tuple[int, _Value]]:
        """Yield the fields of a protocol buffer message: number and value."""
        at = 0
        while at < len(message):
            self.fields += 1
            if self.fields > _MAX_FIELDS:
                raise ValueError(f"it has more than {_MAX_FIELDS} fields")
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
                    raise ValueError(
                        f"a field of {length} bytes does not fit into the {len(message) - at} left"
                    )
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
