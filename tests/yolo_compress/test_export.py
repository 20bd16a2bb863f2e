from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from support.squares import NAMES, make_model
from yolo_trt_node.detector import Detector

from yolo_compress.errors import UserError
from yolo_compress.export import export_onnx, read_card, update_card, weights_sha256


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(checkpoint, path, 64)
    return path


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 64, 96), (2, 128, 32)])
def test_export_computes_what_torch_computes_at_any_batch_and_size(
    exported: Path, shape: tuple[int, int, int]
) -> None:
    batch, height, width = shape
    images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = make_model()(images)[0].numpy()
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=1e-2)  # pixels
    np.testing.assert_allclose(found[:, 4:], expected[:, 4:], atol=1e-4)  # scores


def test_export_has_named_free_axes_fp32_and_an_opset_that_tensorrt_8_reads(exported: Path) -> None:
    graph = onnx.load(exported)
    onnx.checker.check_model(graph)
    (image,) = graph.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == [
        "batch",
        3,
        "height",
        "width",
    ]
    assert image.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert max(o.version for o in graph.opset_import) <= 17


def test_card_is_complete_and_the_node_reads_it(exported: Path) -> None:
    card = read_card(exported)
    assert card["input"] == {
        "height": 64,
        "width": 64,
        "channels": "RGB",
        "scale": 1 / 255,
        "letterbox_colour": [114, 114, 114],
    }
    assert (card["format_version"], card["task"], card["head"], card["stride"]) == (1, "detect", "raw", 32)
    assert {"yolo_compress", "ultralytics", "torch", "onnx"} <= set(card["versions"])
    assert card["weights_sha256"] == weights_sha256(onnx.load(exported))
    read = Detector.load(exported).card
    assert read.names == NAMES
    assert (read.height, read.width, read.stride, read.head) == (64, 64, 32, "raw")
    assert (read.score_threshold, read.iou_threshold) == (0.25, 0.7)


def test_ultralytics_own_metadata_is_kept(exported: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert metadata["names"] == str(dict(enumerate(NAMES)))
    assert (metadata["stride"], metadata["task"], metadata["imgsz"]) == ("32", "detect", "[64, 64]")


def test_updating_the_card_changes_nothing_else(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(exported.read_bytes())
    update_card(path, {"compression": {"params": [2, 1]}})
    before, after = onnx.load(exported), onnx.load(path)
    assert read_card(path) == {**read_card(exported), "compression": {"params": [2, 1]}}
    assert after.graph == before.graph
    assert {e.key for e in after.metadata_props} == {e.key for e in before.metadata_props}
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_weights_hash_follows_the_weights(exported: Path) -> None:
    graph = onnx.load(exported)
    before = weights_sha256(graph)
    values = onnx.numpy_helper.to_array(graph.graph.initializer[0]).copy()
    values.flat[0] += 1
    graph.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, graph.graph.initializer[0].name))
    assert weights_sha256(graph) != before


def test_export_leaves_nothing_beside_the_checkpoint(exported: Path, checkpoint: Path) -> None:
    assert [p.name for p in checkpoint.parent.iterdir()] == [checkpoint.name]
    assert [p.name for p in exported.parent.iterdir()] == [exported.name]


def test_input_size_must_fit_the_stride(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="100 is no multiple of the model's stride 32"):
        export_onnx(checkpoint, tmp_path / "x.onnx", 100)
    assert not list(tmp_path.iterdir())


def test_a_file_without_a_card_says_how_to_get_one(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([node], "bare", [value], [output])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "bare.onnx")
    with pytest.raises(UserError, match=r"no model card.*yolo-compress export"):
        read_card(tmp_path / "bare.onnx")
