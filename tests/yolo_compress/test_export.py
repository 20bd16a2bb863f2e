from __future__ import annotations

import functools
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from pydantic import ValidationError
from support.squares import NAMES, make_model
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.decode import decode_raw
from yolo_trt_node.detector.letterbox import Preprocessor

from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.config.loading import load_recipe
from yolo_compress.config.sections import Export
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
from yolo_compress.export.card import CardFacts, read_card, update_card, weights_sha256
from yolo_compress.export.check import Precision
from yolo_compress.export.deliver import MeasuredOn, deliver
from yolo_compress.export.export import export_onnx
from yolo_compress.export.graph import append_suppression, tail_nodes, to_half
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.pruning.pruner import prune

from ultralytics.nn.tasks import DetectionModel  # isort: skip

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")


@functools.cache
def lively_model() -> DetectionModel:
    """A YOLOv8n whose every answer depends on the image, which random weights alone do not achieve."""
    model = make_model()
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d) and module.weight.requires_grad:
            torch.nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of what comes now
            module.reset_running_stats()
    model.train()
    with torch.no_grad():
        model(torch.rand(8, 3, 96, 96))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.03
    detect = model.model[-1]
    with torch.no_grad():
        for scores, distances in zip(detect.cv3, detect.cv2, strict=True):
            scores[-1].bias.fill_(-2.0)
            # Random distances would amplify each rounding, as no trained network does.
            distances[-1].weight.mul_(0.25)
    return model.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "dense.pt"
    save_model(lively_model(), path)
    return path


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
        expected = lively_model()(images)[0].numpy()
    assert expected[:, 4:].std() > 0.05
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
        "letterbox_color": [114, 114, 114],
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


@pytest.fixture(scope="module")
def files(checkpoint: Path, dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file for each precision."""
    folder = tmp_path_factory.mktemp("precisions")
    images = read_split(dataset, "val").images
    found = {}
    for precision in PRECISIONS:
        found[precision] = folder / f"{precision}.onnx"
        export_onnx(
            checkpoint,
            found[precision],
            64,
            precision=precision,
            images=images,
            calibration=read_split(dataset, "train").images[:3],
        )
    return found


class TestPrecisions:
    @pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_detector_finds_what_torch_finds(
        self, files: dict[str, Path], dataset: Path, precision: str, backend: str
    ) -> None:
        pytest.importorskip(backend)
        options = {"score_threshold": 0.0, "max_det": 5, "input_shape": "square"}
        detector = Detector.load(files[precision], DetectorOptions(backend=backend, **options))
        model, letterbox = (
            lively_model(),
            Preprocessor(64, 64, channels="RGB", scale=1 / 255, color=(114,) * 3),
        )
        for path in read_split(dataset, "val").images:
            image = cv2.imread(str(path))
            with torch.no_grad():
                raw = model(torch.from_numpy(letterbox([image])[0]))[0][0].numpy()
            found = decode_raw(
                raw, classes=np.ones(2, bool), score_threshold=0.0, iou_threshold=0.7, max_det=5
            )
            result = detector.detect([image])[0]
            allowed = {"fp32": 1e-3, "fp16": 1e-2, "int8": 0.3}[precision]
            np.testing.assert_allclose(result.scores, found.scores, atol=allowed)
            if precision == "fp32":
                np.testing.assert_allclose(result.boxes, (found.boxes * 1.5).clip(0, 96), atol=0.1)
        assert detector.precision == ("fp32" if precision == "fp16" and backend == "openvino" else precision)

    def test_fp16_is_in_the_body_alone_and_at_the_input(self, files: dict[str, Path]) -> None:
        graph = onnx.load(files["fp16"])
        tail = tail_nodes(drop_casts(graph))
        weights = {item.name: item.data_type for item in graph.graph.initializer}
        kinds = {
            name in tail: {weights[i] for i in inputs if i in weights}
            for name, inputs in (
                (node.name, node.input[1:]) for node in graph.graph.node if node.op_type == "Conv"
            )
        }
        assert kinds == {False: {onnx.TensorProto.FLOAT16}, True: {onnx.TensorProto.FLOAT}}
        assert graph.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
        assert graph.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        assert files["fp16"].stat().st_size < 0.6 * files["fp32"].stat().st_size

    def test_int8_is_what_tensorrt_asks_for(self, files: dict[str, Path]) -> None:
        graph = onnx.load(files["int8"]).graph
        weights = {item.name: onnx.numpy_helper.to_array(item) for item in graph.initializer}
        by_output = {name: node for node in graph.node for name in node.output}
        quantized = 0
        for node in graph.node:
            if node.op_type != "Conv":
                continue
            image, kernel = (by_output.get(name) for name in node.input[:2])
            if "cv2.0.2" in node.name or "dfl" in node.name:
                assert kernel is None  # scores, distances and their arithmetic keep fp32
                continue
            if kernel is None:
                continue
            quantized += 1
            assert image.op_type == kernel.op_type == "DequantizeLinear"
            assert weights[kernel.input[0]].dtype == np.int8
            assert weights[kernel.input[1]].shape == weights[kernel.input[0]].shape[:1]  # a scale a channel
            for dequantize in (image, kernel):
                assert not weights[dequantize.input[2]].any()  # symmetric
            assert weights[node.input[2]].dtype == np.float32  # the bias
        assert quantized > 50
        assert files["int8"].stat().st_size < 0.5 * files["fp32"].stat().st_size

    @pytest.mark.parametrize("precision", PRECISIONS)
    def test_the_card_says_what_was_done_and_how_well(self, files: dict[str, Path], precision: str) -> None:
        card = read_card(files[precision])
        assert (card["precision"], card["head"], card["suppression"]) == (precision, "raw", None)
        assert card["calibration"] == ({"images": 3} if precision == "int8" else None)
        deviation = card["deviation_from_torch"]
        assert 0 < deviation["box_px"] <= deviation["allowed"]["box_px"]
        assert 0 < deviation["score"] <= deviation["allowed"]["score"]
        assert Detector.load(files[precision]).card.details["precision"] == precision

    def test_int8_without_images_is_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="int8 is calibrated on real images"):
            export_onnx(checkpoint, tmp_path / "x.onnx", 64, precision="int8")
        assert not list(tmp_path.iterdir())


def drop_casts(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The fp16 file without the casts at its tail, which belong to neither part."""
    plain = onnx.ModelProto()
    plain.CopyFrom(graph)
    nodes = [node for node in plain.graph.node if not node.name.endswith("_cast")]
    del plain.graph.node[:]
    plain.graph.node.extend(nodes)
    return plain


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"dynamic": "none"}, [1, 3, 64, 64]),
        ({"dynamic": "none", "batch": 2}, [2, 3, 64, 64]),
        ({"dynamic": "batch"}, ["batch", 3, 64, 64]),
        ({"dynamic": "none", "precision": ["int8"], "batch": 2}, [2, 3, 64, 64]),
        ({"dynamic": "none", "precision": ["fp16"], "head": "end2end"}, [1, 3, 64, 64]),
        ({"head": "end2end"}, ["batch", 3, "height", "width"]),
        ({"opset": 13}, ["batch", 3, "height", "width"]),
        ({"opset": 13, "head": "end2end"}, ["batch", 3, "height", "width"]),
    ],
)
def test_what_is_fixed_and_what_stays_free_is_chosen(
    checkpoint: Path, dataset: Path, tmp_path: Path, settings: dict, shape: list
) -> None:
    chosen = Export.model_validate(settings)
    (precision,) = chosen.precision
    export_onnx(
        checkpoint,
        tmp_path / "x.onnx",
        64,
        precision=precision,
        settings=chosen,
        calibration=read_split(dataset, "train").images[:2],
    )
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == shape
    assert session.get_outputs()[0].shape[0] == shape[0]
    graph = onnx.load(tmp_path / "x.onnx")
    assert [entry.version for entry in graph.opset_import if entry.domain == ""] == [chosen.opset]
    assert len(Detector.load(tmp_path / "x.onnx").detect([np.zeros((64, 96, 3), np.uint8)] * 2)) == 2


class TestEnd2End:
    """The suppression inside, on raw answers made by hand: one row an anchor (cx, cy, w, h, scores)."""

    def run(self, *images: list[tuple[float, ...]], max_det: int = 4, floor: float = 0.1) -> np.ndarray:
        prediction = np.array([list(zip(*rows, strict=True)) for rows in images], np.float32)
        axes = ["batch", prediction.shape[1], "anchors"]
        value = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, axes)
        output = onnx.helper.make_tensor_value_info("output0", onnx.TensorProto.FLOAT, axes)
        node = onnx.helper.make_node("Identity", ["images"], ["output0"])
        graph = onnx.helper.make_model(
            onnx.helper.make_graph([node], "raw", [value], [output]),
            opset_imports=[onnx.helper.make_opsetid("", 17)],
        )
        graph.ir_version = 8
        graph = append_suppression(graph, max_det=max_det, iou_threshold=0.5, score_floor=floor)
        onnx.checker.check_model(graph, full_check=True)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"images": prediction})[0]

    def test_the_weaker_of_two_boxes_of_a_class_goes_and_of_two_classes_both_stay(self) -> None:
        (rows,) = self.run(
            [(50, 50, 20, 20, 0.8, 0.0), (51, 50, 20, 20, 0.9, 0.0), (50, 50, 20, 20, 0.1, 0.7)]
        )
        np.testing.assert_allclose(rows[:2], [[41, 40, 61, 60, 0.9, 0], [40, 40, 60, 60, 0.7, 1]], rtol=1e-6)
        assert rows[2:, 4].tolist() == [0, 0]

    def test_an_anchor_answers_with_its_best_class_alone(self) -> None:
        (rows,) = self.run([(50, 50, 20, 20, 0.8, 0.6), (90, 90, 9, 9, 0.4, 0.4)])
        assert rows[rows[:, 4] > 0, 4:].tolist() == [[pytest.approx(0.8), 0], [pytest.approx(0.4), 0]]

    def test_the_best_stay_where_there_are_more_than_rows(self) -> None:
        (rows,) = self.run([(10.0 * i, 0, 5, 5, 0.2 + 0.1 * (i % 7), 0.0) for i in range(7)], max_det=4)
        assert rows[:, 4] == pytest.approx([0.8, 0.7, 0.6, 0.5])

    def test_images_of_a_batch_do_not_touch_each_other(self) -> None:
        rows = self.run([(50, 50, 20, 20, 0.8, 0.0)], [(50, 50, 20, 20, 0.7, 0.0)])
        assert rows[:, 0, 4] == pytest.approx([0.8, 0.7])

    def test_nothing_above_the_floor_gives_no_box(self) -> None:
        assert not self.run([(50, 50, 20, 20, 0.05, 0.0)])[..., 4].any()

    def test_it_finds_in_an_exported_model_what_the_nodes_suppression_finds(
        self, checkpoint: Path, dataset: Path, tmp_path: Path
    ) -> None:
        settings = Export.model_validate({"head": "end2end", "max_det": 50})
        images = read_split(dataset, "val").images
        export_onnx(checkpoint, tmp_path / "raw.onnx", 64)
        export_onnx(checkpoint, tmp_path / "end2end.onnx", 64, settings=settings, images=images)
        card = read_card(tmp_path / "end2end.onnx")
        assert card["head"] == "end2end"
        assert card["suppression"] == {"max_det": 50, "iou_threshold": 0.7, "score_floor": 0.001}
        options = DetectorOptions(score_threshold=0.002, max_det=50)
        frames = [cv2.imread(str(path)) for path in images]
        ours = Detector.load(tmp_path / "end2end.onnx", options).detect(frames)
        theirs = Detector.load(tmp_path / "raw.onnx", options).detect(frames)
        assert sum(map(len, theirs)) > 0
        for found, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
            np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-2)

    def test_the_last_check_compares_it_with_the_nodes_suppression(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(graph: onnx.ModelProto, **settings: Any) -> onnx.ModelProto:
            return append_suppression(graph, **{**settings, "iou_threshold": 0.3})

        monkeypatch.setattr("yolo_compress.export.export.append_suppression", wrong)
        with pytest.raises(UserError, match=r"the end2end head found .* no file was kept"):
            export_onnx(
                checkpoint, tmp_path / "x.onnx", 64, settings=Export.model_validate({"head": "end2end"})
            )
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", [1.05, float("nan")])
def test_a_file_that_computes_something_else_is_not_kept(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: float
) -> None:
    def damaged(graph: onnx.ModelProto, keep: object) -> onnx.ModelProto:
        (weights,) = (i for i in graph.graph.initializer if i.name == "model.0.conv.weight")
        weights.CopyFrom(
            onnx.numpy_helper.from_array(damage * onnx.numpy_helper.to_array(weights), weights.name)
        )
        return to_half(graph, keep)

    monkeypatch.setattr("yolo_compress.export.export.to_half", damaged)
    (tmp_path / "x.onnx").write_text("the last good one")
    with pytest.raises(
        UserError, match=r"fp16 model does not compute what torch computes: .* no file was kept"
    ):
        export_onnx(checkpoint, tmp_path / "x.onnx", 64, precision="fp16")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the last good one"]


needs_tensorrt_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx_bindings") is None
    and importlib.util.find_spec("tensorrt_rtx") is None,
    reason="TensorRT-RTX is not installed",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Without trained weights; the demo's is a YOLOv8n pruned as its recipe says."""
    recipe = load_recipe(Path(__file__).parents[2] / "config" / "compress" / "scenes.yaml")
    folder = tmp_path_factory.mktemp("models")
    made = {
        "yolov8n": DetectionModel("yolov8n.yaml", nc=10, verbose=False),
        "yolov8m": DetectionModel("yolov8m.yaml", nc=10, verbose=False),
    }
    made["demo"] = prune(made["yolov8n"], recipe.prune, recipe.input_size).model
    for name, model in made.items():
        model.names = dict(enumerate(VISDRONE_CLASSES))
        save_model(model, folder / f"{name}.pt")
    return {name: folder / f"{name}.pt" for name in made}


@needs_tensorrt_rtx
class TestEngines:
    """The real parser and builder of TensorRT-RTX, which need no GPU."""

    @pytest.mark.parametrize(
        ("name", "precision"),
        [
            ("demo", "fp32"),
            ("demo", "fp16"),
            ("demo", "int8"),
            ("yolov8n", "fp16"),
            ("yolov8m", "fp32"),
        ],
    )
    def test_are_built_of_every_precision_and_size(
        self, models: dict[str, Path], dataset: Path, tmp_path: Path, name: str, precision: Precision
    ) -> None:
        export_onnx(
            models[name],
            tmp_path / "x.onnx",
            160,
            precision=precision,
            settings=Export.model_validate({"verify": ["tensorrt_rtx"]}),
            calibration=read_split(dataset, "train").images[:2],
        )
        (engine,) = read_card(tmp_path / "x.onnx")["engines"]
        assert (engine["backend"], engine["precision"]) == ("tensorrt_rtx", precision)
        # At least a byte a weight.
        assert engine["bytes"] > sum(p.numel() for p in load_model(models[name]).parameters())
        assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]

    def test_a_suppression_inside_is_left_out_of_the_engine(self, checkpoint: Path, tmp_path: Path) -> None:
        settings = Export.model_validate({"head": "end2end", "verify": ["tensorrt_rtx"]})
        export_onnx(checkpoint, tmp_path / "x.onnx", 64, settings=settings)
        (engine,) = read_card(tmp_path / "x.onnx")["engines"]
        assert engine["bytes"] > 1000

    def test_a_graph_that_the_builder_refuses_is_not_kept(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(model: Path, *_: object, **__: object) -> None:
            raise ModelError(f"{model}: no implementation found for node Conv_3")

        monkeypatch.setattr("yolo_trt_node.detector.engines.run_builder", refuse)
        settings = Export.model_validate({"verify": ["tensorrt_rtx"]})
        with pytest.raises(UserError, match=r"tensorrt_rtx builds no engine .*Conv_3.*no file was kept"):
            export_onnx(checkpoint, tmp_path / "x.onnx", 64, settings=settings)
        assert not list(tmp_path.iterdir())

    def test_a_missing_builder_says_how_to_get_it(
        self, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
            monkeypatch.setitem(sys.modules, module, None)
        settings = Export.model_validate({"verify": ["tensorrt_rtx"]})
        with pytest.raises(UserError, match="pip install tensorrt_rtx"):
            export_onnx(checkpoint, tmp_path / "x.onnx", 64, settings=settings)
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"precision": ["fp16", "fp16"]}, "names one twice"),
        ({"precision": []}, "at least 1 item"),
        ({"precision": ["int4"]}, "'fp32', 'fp16' or 'int8'"),
        ({"batch": 2}, "batch is for dynamic: none"),
        ({"opset": 18}, "less than or equal to 17"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_starts(settings: dict, says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Export.model_validate(settings)


class TestDeliver:
    def test_every_precision_is_exported_measured_and_its_cost_told(
        self, checkpoint: Path, dataset: Path, tmp_path: Path
    ) -> None:
        told: list[str] = []
        settings = Export.model_validate({"precision": ["int8", "fp32", "fp16"], "calibration_images": 3})
        delivered = deliver(
            checkpoint,
            tmp_path / "out.onnx",
            settings,
            input_size=64,
            measured_on=MeasuredOn(dataset),
            facts=CardFacts(compression={"from": "big.pt"}),
            tell=told.append,
        )
        assert [d.path.name for d in delivered] == ["out.onnx", "out_fp16.onnx", "out_int8.onnx"]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out_fp16.onnx", "out_int8.onnx"]
        for one in delivered:
            card = read_card(one.path)
            assert card["compression"] == {"from": "big.pt"}
            assert card["accuracy"]["ap50"] == one.accuracy.ap50
            assert card["accuracy_of_checkpoint"]["ap50"] == delivered[0].accuracy.ap50
            assert card["accuracy"]["split"] == "val"
        assert [line.split(":")[0] for line in told] == [d.path.name for d in delivered]
        assert all("AP50" in line and "off torch by" in line for line in told)

    def test_a_cost_is_told_against_the_checkpoint(
        self, checkpoint: Path, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        figures = {".onnx": 0.25, ".pt": 0.5}

        def measured(model: Path, data: Path, split: str, **options: Any) -> Accuracy:
            value = figures[model.suffix]
            return Accuracy(value, value, value, value, value, value, 4, ())

        monkeypatch.setattr("yolo_compress.export.deliver.evaluate", measured)
        told: list[str] = []
        settings = Export.model_validate({"precision": ["fp16"]})
        deliver(
            checkpoint,
            tmp_path / "x.onnx",
            settings,
            input_size=64,
            measured_on=MeasuredOn(dataset),
            tell=told.append,
        )
        assert "AP50 25.0 (-25.0 against the checkpoint)" in told[0]

    def test_data_of_other_classes_is_refused_before_anything_is_written(
        self, checkpoint: Path, dataset: Path, tmp_path: Path
    ) -> None:
        other = dataset.with_name("other.yaml")
        other.write_text(dataset.read_text().replace(str(list(NAMES)), "[a, b, c]"))
        with pytest.raises(UserError, match=r"knows 2 classes \(red, blue\), but .* has 3 \(a, b, c\)"):
            deliver(checkpoint, tmp_path / "x.onnx", Export.model_validate({}), measured_on=MeasuredOn(other))
        assert not list(tmp_path.iterdir())

    @needs_tensorrt_rtx
    def test_engines_and_what_was_not_measured_are_told(self, checkpoint: Path, tmp_path: Path) -> None:
        told: list[str] = []
        settings = Export.model_validate({"verify": ["tensorrt_rtx"]})
        deliver(checkpoint, tmp_path / "x.onnx", settings, input_size=64, tell=told.append)
        assert re.search(r", tensorrt_rtx [\d.]+ builds it, accuracy not measured \(no data\)$", told[0])

    def test_int8_needs_a_data_set(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"int8 is calibrated on real images: .*--data"):
            deliver(checkpoint, tmp_path / "x.onnx", Export.model_validate({"precision": ["fp32", "int8"]}))
        assert not list(tmp_path.iterdir())


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
