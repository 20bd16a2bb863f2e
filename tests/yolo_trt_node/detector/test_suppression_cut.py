"""A suppression inside the graph is cut out: what is left computes the raw head, bit for bit."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from support.toy_detector import paint_cells
from yolo_trt_node.detector import ModelError
from yolo_trt_node.detector.card import read_card
from yolo_trt_node.detector.onnx_file import read_header
from yolo_trt_node.detector.suppression_cut import cut_suppression


@pytest.fixture
def suppressed(toy, tmp_path):
    """The toy with our export's suppression behind it."""
    graph = pytest.importorskip("yolo_compress.export.graph")
    model = graph.append_suppression(onnx.load(toy), max_det=20, iou_threshold=0.5, score_floor=0.01)
    for entry in model.metadata_props:
        if entry.key == "model_card":
            entry.value = json.dumps({**json.loads(entry.value), "head": "end2end"})
    path = tmp_path / "end2end.onnx"
    onnx.save(model, str(path))
    return path


def run(model: bytes, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model)
    return session.run(None, {session.get_inputs()[0].name: batch})[0]


def test_what_is_left_computes_the_raw_head(toy, suppressed):
    image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(3, 4, "red"), (5, 1, "blue")])
    batch = image[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32) / 255

    content, header = cut_suppression(suppressed, read_header(suppressed))

    onnx.checker.check_model(onnx.load_from_string(content))
    np.testing.assert_array_equal(run(content, batch), run(toy.read_bytes(), batch))
    assert not read_header_of(content, suppressed).suppresses
    assert read_card(header.metadata, header.inputs, header.outputs).head == "raw"


def read_header_of(content: bytes, beside):
    path = beside.with_name("cut.onnx")
    path.write_bytes(content)
    return read_header(path)


def test_it_flies_on_tensorrt_as_the_raw_model_does(suppressed, toy, monkeypatch, tmp_path):
    from support import fake_gpu
    from yolo_trt_node.detector import Detector, DetectorOptions

    fake_gpu.install(monkeypatch, "10.3.0")
    image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(3, 4, "red"), (5, 1, "blue")])
    options = DetectorOptions(backend="tensorrt", engine_cache=str(tmp_path / "engines"))

    (found,), (wanted,) = (Detector.load(path, options).detect([image]) for path in (suppressed, toy))

    assert len(found) == 2
    np.testing.assert_array_equal(found.boxes, wanted.boxes)
    assert not list((tmp_path / "engines").glob("*.part"))
    fake_gpu.remove()


def test_the_real_builder_of_rtx_builds_it(suppressed, tmp_path):
    pytest.importorskip("tensorrt_rtx_bindings")
    from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, TargetDevice, import_tensorrt
    from yolo_trt_node.detector.options import LoadOptions

    options = LoadOptions(engine_cache=str(tmp_path / "engines"))
    trt = import_tensorrt("tensorrt_rtx")
    model = OnnxOnTensorRt(suppressed, "tensorrt_rtx", trt, TargetDevice("a GPU", "8.6"), options)

    assert len(model.engine(64, 64).plan) > 1000


def model_of(nodes) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    kept = helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3])
    return helper.make_model(helper.make_graph(nodes, "g", [image], [kept]))


@pytest.mark.parametrize(
    ("nodes", "why"),
    [
        (
            [helper.make_node("NonMaxSuppression", ["images", "images"], ["kept"])],
            "nothing in it is a raw head",
        ),
        (
            [helper.make_node("NonMaxSuppression", ["elsewhere", "images"], ["kept"])],
            "do not come from the image",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused_before_anything_is_built(tmp_path, nodes, why):
    path = tmp_path / "strange.onnx"
    onnx.save(model_of(nodes), str(path))

    with pytest.raises(ModelError, match=rf"cannot be taken out of the graph \({why}|{why}.*head raw"):
        cut_suppression(path, read_header(path))
