"""The header of an ONNX file, read without any runtime, against what the onnx package reads."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.onnx_file import read_header


@pytest.mark.parametrize(
    "changes", [{}, {"static": True}, {"half": True}, {"metadata": {"k": "v", "ä": "ö"}}]
)
def test_says_what_the_onnx_package_says(tmp_path, changes):
    path = write_toy_detector(tmp_path / "toy.onnx", **changes)
    model = onnx.load(path)

    header = read_header(path)

    assert header.metadata == {entry.key: entry.value for entry in model.metadata_props}
    for found, wanted in zip(
        (*header.inputs, *header.outputs), (*model.graph.input, *model.graph.output), strict=True
    ):
        tensor = wanted.type.tensor_type
        assert found.name == wanted.name
        assert found.shape == tuple(d.dim_value or None for d in tensor.shape.dim)
        assert found.dtype == str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    assert header.precision == "fp32"
    assert header.external == ()


def graph_of(weights: np.ndarray, *operators: str) -> onnx.ModelProto:
    names = ["x", *(f"t{i}" for i in range(len(operators)))]
    nodes = [
        helper.make_node(operator, [names[i], "w"], [names[i + 1]]) for i, operator in enumerate(operators)
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    weight = numpy_helper.from_array(weights, "w")
    # Old exporters list the weights among the inputs.
    listed = helper.make_tensor_value_info("w", TensorProto.FLOAT, list(weights.shape))
    graph = helper.make_graph(nodes, "g", [value, listed], [], [weight])
    return helper.make_model(graph)


@pytest.mark.parametrize(
    ("dtype", "operators", "precision"),
    [
        (np.float32, ["Add"], "fp32"),
        (np.float16, ["Add"], "fp16"),
        (np.float32, ["Add", "QuantizeLinear", "DequantizeLinear"], "int8"),
    ],
)
def test_precision_is_that_of_weights_and_operators(tmp_path, dtype, operators, precision):
    path = tmp_path / "m.onnx"
    onnx.save(graph_of(np.ones(100, dtype), *operators), path)

    header = read_header(path)

    assert header.precision == precision
    assert [spec.name for spec in header.inputs] == ["x"]


def test_weights_beside_the_file_are_named(tmp_path):
    onnx.save(
        graph_of(np.ones(1000, np.float32), "Add"),
        str(tmp_path / "m.onnx"),  # as text: old versions of onnx write beside a path of that type only
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )

    assert read_header(tmp_path / "m.onnx").external == ("weights.bin",)


def test_weights_are_skipped_not_read(tmp_path):
    path = tmp_path / "large.onnx"
    onnx.save(graph_of(np.zeros(50_000_000, np.float32), "Add"), path)

    started = time.process_time()
    read_header(path)

    assert time.process_time() - started < 0.05


@pytest.mark.parametrize("content", [b"", b"no model", b"\xff" * 100, b"\x3a\x05ab"])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=rf"cannot read .*m\.onnx \({len(content)} bytes\)"):
        read_header(path)


def test_every_truncation_is_noticed_or_harmless(tmp_path):
    path = write_toy_detector(tmp_path / "toy.onnx")
    content = path.read_bytes()
    whole = read_header(path)
    refused = 0
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        try:
            cut = read_header(path)
        except ModelError:
            refused += 1
        else:
            # Cut exactly between two fields of the file, or before its metadata.
            assert cut.inputs in ((), whole.inputs)

    assert refused > 0.9 * len(range(0, len(content), 7))
