"""ONNX files as strangers may send them, and what is to become of each: one table, `KINDS`.

Each maker writes into a folder and returns the model's path. The expectation is a pattern that the one
`ModelError` matches. Where ``runs`` is set only a runtime can tell, so a child process is needed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from support.toy_detector import model_card, write_toy_detector

SIDE = 64


@dataclass(frozen=True)
class Kind:
    """A kind of hostile file.

    Attributes:
        make: writes it into a folder.
        expected: pattern of the error's text.
        runs: only a runtime notices.
    """

    make: Callable[[Path], Path]
    expected: str
    runs: bool = False


def write(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    metadata: dict[str, str] | None = None,
    image: tuple = (1, 3, SIDE, SIDE),
    output: tuple = (1, 7, 84),
    dtype: int = TensorProto.FLOAT,
) -> Path:
    """Write a graph from ``images`` to ``output0`` with the card of a detector of three classes."""
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("images", dtype, image)],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    card = {"model_card": json.dumps(model_card(SIDE, SIDE, stride=32))}
    for key, value in (card if metadata is None else metadata).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    path = folder / "m.onnx"
    onnx.save(model, path)
    return path


def answering(prediction: np.ndarray, folder: Path, **changes) -> Path:
    """A graph that answers the same to every image."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    weights = {"rows": prediction[None].astype(np.float32), "zero": np.float32(0)}
    return write(folder, nodes, weights, output=(1, *prediction.shape), **changes)


def sound() -> np.ndarray:
    answer = np.zeros((7, 84), np.float32)
    answer[:4] = np.array([[32], [32], [8], [6]])
    return answer


def with_card(**changes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        card = json.dumps(model_card(SIDE, SIDE, **{"stride": 32, **changes}))
        return answering(sound(), folder, metadata={"model_card": card})

    return make


def with_metadata(**metadata: str) -> Callable[[Path], Path]:
    return lambda folder: answering(sound(), folder, metadata=metadata)


def with_input(*shape: int, dtype: int = TensorProto.FLOAT) -> Callable[[Path], Path]:
    return lambda folder: answering(sound(), folder, image=shape, dtype=dtype)


def with_bytes(content: bytes) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        path = folder / "m.onnx"
        path.write_bytes(content)
        return path

    return make


def cut(folder: Path) -> Path:
    path = write_toy_detector(folder / "m.onnx")
    path.write_bytes(path.read_bytes()[:-400])
    return path


def sparse(folder: Path) -> Path:
    path = folder / "m.onnx"
    path.touch()
    os.truncate(path, 3 << 30)
    return path


def external(location: str, before: Callable[[Path], object] = lambda folder: None, *, deep: bool = False):
    """A graph whose weights lie in another file; with ``deep`` in a constant inside a branch."""

    def make(folder: Path) -> Path:
        before(folder)
        tensor = TensorProto(name="rows", data_type=TensorProto.FLOAT, dims=[1, 7, 84])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", location), ("offset", "0"), ("length", str(4 * 7 * 84))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        path = answering(sound(), folder)
        model = onnx.load(path)
        if deep:
            constant = helper.make_node("Constant", [], ["taken"], value=tensor)
            taken = helper.make_tensor_value_info("taken", TensorProto.FLOAT, [1, 7, 84])
            branch = helper.make_graph([constant], "branch", [], [taken])
            model.graph.node.append(
                helper.make_node("If", ["condition"], ["x"], then_branch=branch, else_branch=branch)
            )
        else:
            del model.graph.initializer[0]
            model.graph.initializer.append(tensor)
        path.write_bytes(model.SerializeToString())
        return path

    return make


def nested(folder: Path) -> Path:
    """Graphs in attributes of nodes in graphs, deeper than the onnx package itself writes."""

    def field(number: int, content: bytes) -> bytes:
        length, size = len(content), b""
        while length > 0x7F:
            size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + content

    graph = b""
    for _ in range(200):
        graph = field(1, field(5, field(6, graph)))
    path = folder / "m.onnx"
    path.write_bytes(field(7, graph))
    return path


def many_fields(folder: Path) -> Path:
    # Unknown fields of two bytes each: a varint under number 9.
    path = folder / "m.onnx"
    path.write_bytes(b"\x48\x00" * 1_000_001)
    return path


def endless(folder: Path) -> Path:
    """A loop whose condition never fails."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Cos", ["carried_in"], ["carried_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("count", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_in", TensorProto.FLOAT, [1, 7, 84]),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("carried_out", TensorProto.FLOAT, [1, 7, 84]),
        ],
    )
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Add", ["rows", "mean"], ["start"]),
        helper.make_node("Loop", ["", "true", "start"], ["output0"], body=body),
    ]
    return write(folder, nodes, {"rows": sound()[None], "true": np.array(True)})


def hungry(folder: Path) -> Path:
    """A few bytes that ask for 12 GB."""
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
        helper.make_node("Expand", ["mean", "shape"], ["huge"]),
        helper.make_node("Exp", ["huge"], ["filled"]),
        helper.make_node("ReduceMax", ["filled"], ["one"], keepdims=0),
        helper.make_node("Mul", ["one", "zero"], ["nothing"]),
        helper.make_node("Add", ["rows", "nothing"], ["output0"]),
    ]
    weights = {
        "shape": np.array([3000, 1000, 1000], np.int64),
        "rows": sound()[None],
        "zero": np.float32(0),
    }
    return write(folder, nodes, weights)


def unknown_operator(folder: Path) -> Path:
    return write(folder, [helper.make_node("RunShellCommand", ["images"], ["output0"])])


def contradictory(folder: Path) -> Path:
    """The shapes in the graph do not fit together."""
    return write(folder, [helper.make_node("MatMul", ["images", "w"], ["output0"])], {"w": np.ones((3, 5))})


def damaged_answer(place, value: float) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        answer = sound()
        answer[place] = value
        return answering(answer, folder)

    return make


KINDS: dict[str, Kind] = {
    "empty": Kind(with_bytes(b""), "file is empty"),
    "text": Kind(with_bytes(b"<html>404</html>"), "cannot read"),
    "git lfs pointer": Kind(with_bytes(b"version https://git-lfs.github.com/spec/v1\noid x"), "cannot read"),
    "cut": Kind(cut, "cannot read"),
    "3 GiB": Kind(sparse, "greater than the 2 GiB"),
    "a million fields": Kind(many_fields, "more than 1000000 fields"),
    "graphs in graphs": Kind(nested, "nested more than 32 deep"),
    "negative size": Kind(with_input(1, 3, -64, 64), "below zero"),
    "huge input": Kind(with_input(1, 3, 1 << 20, 64), "more than 16384 a side"),
    "huge batch": Kind(with_input(1 << 40, 3, 64, 64), "256 images"),
    "4 Gpx": Kind(with_input(1, 3, 16384, 16384), "64 Mpx in all"),
    "no extent": Kind(with_input(1, 3, 0, 64), "is empty"),
    "rank 40": Kind(with_input(*[1] * 40), "40 dimensions"),
    "uint8 input": Kind(with_input(1, 3, 64, 64, dtype=TensorProto.UINT8), "takes uint8"),
    "card no json": Kind(with_metadata(model_card="{"), "damaged"),
    "card deep": Kind(with_metadata(model_card="[" * 200_000), "damaged"),
    "card a list": Kind(with_metadata(model_card="[]"), "damaged"),
    "card of 5 MB": Kind(with_metadata(model_card=" " * 5_000_000), "metadata has more than"),
    "card infinite": Kind(with_card(stride=1e999), "damaged"),
    "card stride 0": Kind(with_card(stride=0), "stride 0"),
    "card stride -8": Kind(with_card(stride=-8), "stride -8"),
    "card scores NaN": Kind(with_card(score_threshold=float("nan")), "score_threshold nan"),
    "card iou 1e30": Kind(with_card(iou_threshold=1e30), "iou_threshold"),
    "card many classes": Kind(with_card(names=["x"] * 50_000), "50000 classes"),
    "card long name": Kind(with_card(names=["x" * 100_000, "b", "c"]), "100000 characters"),
    "card other classes": Kind(with_card(names=["a", "b"]), "makes 3 classes, but the model names 2"),
    "card other task": Kind(with_card(task="segment"), "task 'segment'"),
    "names code": Kind(with_metadata(names="__import__('os').getpid()"), "metadata cannot be read"),
    "names deep": Kind(with_metadata(names="[" * 200_000), "metadata cannot be read"),
    "names a set": Kind(with_metadata(names="{'a', 'b'}"), "metadata cannot be read"),
    "weights /dev/zero": Kind(external("/dev/zero"), "outside its own folder"),
    "weights /etc/passwd": Kind(external("../../../../../../etc/passwd"), "outside its own folder"),
    "weights deep": Kind(external("/etc/passwd", deep=True), "outside its own folder"),
    "weights a pipe": Kind(external("w", lambda folder: os.mkfifo(folder / "w")), "no regular file"),
    "weights a folder": Kind(external("w", lambda folder: (folder / "w").mkdir()), "no regular file"),
    "weights a link out": Kind(
        external("w", lambda folder: (folder / "w").symlink_to("/etc/passwd")), "outside its own folder"
    ),
    "weights a link loop": Kind(
        external("w", lambda folder: (folder / "w").symlink_to("w")), "cannot be read|is missing"
    ),
    "weights missing": Kind(external("w"), "is missing"),
    "weights null byte": Kind(external("w\0x"), "cannot be read"),
    "unknown operator": Kind(unknown_operator, "cannot read|RunShellCommand", runs=True),
    "contradictory": Kind(contradictory, "cannot read|does not run", runs=True),
    "NaN answer": Kind(damaged_answer((5, 5), float("nan")), "NaN or infinite", runs=True),
    "infinite box": Kind(damaged_answer((0, 5), float("inf")), "NaN or infinite", runs=True),
    "logits": Kind(damaged_answer((4, 5), -7.0), "scores lie within 0 to 1", runs=True),
    "shares": Kind(lambda folder: answering(sound() / 64, folder), "shares of the image", runs=True),
}

WITHOUT_END: dict[str, Kind] = {
    "never ends": Kind(endless, "took more than the .* s that load_timeout_s allows", runs=True),
    "wants 12 GB": Kind(hungry, "of memory that load_memory_mb allows", runs=True),
}
"""Only to be loaded under limits."""
