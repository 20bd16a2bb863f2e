"""The real parser and builder of TensorRT-RTX, which need no GPU: the same code that builds on a Jetson."""

import importlib.util
import re
from pathlib import Path

import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import ModelError, engines
from yolo_trt_node.detector.engine_builder import BuildSpec
from yolo_trt_node.detector.engines import EngineCache, EngineRequest
from yolo_trt_node.detector.onnx_file import read_header

from yolo_trt_node import build_engine

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None
    and importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed",
)


def order(model, height, width, **changes):
    recipe = BuildSpec("tensorrt_rtx", "fp32", height, width, compute_capability="8.6", **changes)
    return EngineRequest(model, read_header(model), recipe, "real", "RTX of compute capability 8.6")


@pytest.fixture(scope="module")
def yolov8n(tmp_path_factory):
    """A stock YOLOv8n without trained weights, as Ultralytics exports it."""
    pytest.importorskip("yolo_compress.ultralytics_env")
    from ultralytics import YOLO

    with pytest.MonkeyPatch.context() as patch:
        # The exporter writes into the working folder.
        patch.chdir(tmp_path_factory.mktemp("export"))
        model = YOLO("yolov8n.yaml")
        exported = model.export(
            format="onnx", imgsz=640, dynamic=True, simplify=False, opset=17, device="cpu"
        )
        return Path(exported).resolve()


@pytest.mark.parametrize("batches", [(1, 1, 1), (1, 2, 4)])
def test_builds_the_toy(tmp_path, batches):
    toy = write_toy_detector(tmp_path / "toy.onnx")

    engine = EngineCache(tmp_path / "engines").get(order(toy, 40, 64, batches=batches))

    assert len(engine.plan) > 1000
    assert engine.made_by["batches"] == list(batches)


def test_builds_yolov8n_for_a_wide_camera(tmp_path, yolov8n):
    engine = EngineCache(tmp_path / "engines").get(order(yolov8n, 384, 640))

    # 3.2 million weights in fp32.
    assert len(engine.plan) > 10_000_000
    assert "names" in engine.metadata


def test_the_command_builds_for_a_gpu_that_is_not_here(tmp_path, capsys):
    toy = write_toy_detector(tmp_path / "toy.onnx")
    arguments = [str(toy), "--backend", "tensorrt_rtx", "--compute-capability", "8.6"]

    assert build_engine.main([*arguments, "--engine-cache", str(tmp_path / "engines")]) == 0

    (path,) = (tmp_path / "engines").glob("*.engine")
    assert capsys.readouterr().out.strip() == str(path)
    assert "toy_40x64_b1_fp32" in path.name


def test_a_gpu_that_it_does_not_build_for_is_refused_with_those_that_it_does(tmp_path, capsys):
    toy = write_toy_detector(tmp_path / "toy.onnx")
    arguments = [str(toy), "--backend", "tensorrt_rtx", "--compute-capability", "8.7"]

    assert build_engine.main([*arguments, "--engine-cache", str(tmp_path / "engines")]) == 1

    assert re.search(r"compute capabilities 7\.5, .*12\.0.*, not 8\.7", capsys.readouterr().err)


def test_a_strongly_typed_network_refuses_another_precision(tmp_path):
    toy = write_toy_detector(tmp_path / "toy.onnx")
    wanted = order(toy, 64, 64)
    wrong = EngineRequest(
        toy, wanted.header, BuildSpec("tensorrt_rtx", "fp16", 64, 64), wanted.version, wanted.gpu
    )

    with pytest.raises(ModelError, match="strongly typed: the precision is the ONNX file's, which is fp32"):
        EngineCache(tmp_path / "engines").get(wrong)


def test_the_parsers_reason_reaches_the_user(tmp_path):
    import onnx

    toy = onnx.load(write_toy_detector(tmp_path / "toy.onnx"))
    toy.graph.node[1].op_type = "NobodyKnowsThis"
    path = tmp_path / "strange.onnx"
    onnx.save(toy, path)

    with pytest.raises(ModelError, match=r"ONNX parser refuses the model: .*NobodyKnowsThis"):
        EngineCache(tmp_path / "engines").get(order(path, 64, 64))


def test_engines_land_in_the_users_cache_by_default(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert engines.EngineCache().folder == tmp_path / "yolo_trt_node" / "engines"
