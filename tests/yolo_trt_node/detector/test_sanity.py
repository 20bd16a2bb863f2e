"""What no detector answers is refused when the model is loaded and on its first frames."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.toy_detector import model_card
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.card import ModelCard
from yolo_trt_node.detector.sanity import FRAMES, absurdity, check_scores

RAW = ModelCard(names=("a", "b"), height=64, width=64, stride=32)
ROWS = ModelCard(names=("a", "b"), height=64, width=64, stride=32, head="end2end")
SHAPE = (64, 64)


def raw() -> np.ndarray:
    """A sound prediction: 6 x 84, an object in anchor 7."""
    answer = np.zeros((6, 84), np.float32)
    answer[:4] = np.array([[32], [32], [8], [6]])
    answer[5, 7] = 0.9
    return answer


def rows() -> np.ndarray:
    """A sound prediction: two rows, and padding."""
    answer = np.zeros((10, 6), np.float32)
    answer[0] = [3, 4, 30, 40, 0.9, 1]
    answer[1] = [0, 0, 64, 1, 0.3, 0]
    return answer


def changed(answer: np.ndarray, place, value) -> np.ndarray:
    answer[place] = value
    return answer


@pytest.mark.parametrize(
    ("prediction", "card"),
    [
        (raw(), RAW),
        (np.zeros((6, 84), np.float32) + np.array([[9], [9], [9], [9], [0], [0]], np.float32), RAW),
        (changed(raw(), (5, 7), 1.01), RAW),  # as int8 rounds
        (np.zeros((6, 84), np.float32), RAW),
        (rows(), ROWS),
        (np.zeros((10, 6), np.float32), ROWS),
        (np.zeros((0, 6), np.float32), ROWS),
        (changed(rows(), (9, 5), -1), ROWS),  # padding
    ],
)
def test_answers_of_detectors_pass(prediction, card):
    assert absurdity(prediction, card, SHAPE) == ""


@pytest.mark.parametrize(
    ("prediction", "card", "words"),
    [
        (changed(raw(), (0, 0), np.nan), RAW, "1 of 504 values are NaN or infinite"),
        (changed(raw(), (4, 3), np.inf), RAW, "NaN or infinite"),
        (changed(raw(), (4, 3), 4.7), RAW, "scores go from 0 to 4.7"),
        (changed(raw(), (4, 3), -3), RAW, "scores go from -3"),
        (changed(raw(), (2, slice(None)), 0), RAW, "a width and a height"),
        (raw() / 64, RAW, "shares of the image"),
        (raw().T, RAW, "84 x 6 values"),
        (raw()[:, :3], RAW, "6 x 3 values"),
        (raw()[:5], RAW, "5 x 84 values"),
        (raw()[None], RAW, "3 dimensions"),
        (changed(rows(), (0, 4), 31), ROWS, "scores go from 0 to 31"),
        (changed(rows(), (0, 5), 2), ROWS, "class 2, and the model names 2"),
        (changed(rows(), (0, 5), 0.4), ROWS, "class 0.4"),
        (changed(rows(), (slice(2), slice(4)), [32, 32, 8, 6]), ROWS, "end before they begin"),
        (changed(rows(), (slice(2), slice(4)), [0.1, 0.1, 0.4, 0.3]), ROWS, "shares of the image"),
        (rows()[:, :5], ROWS, "rows have 5 values"),
    ],
)
def test_answers_of_no_detector_are_told(prediction, card, words):
    assert words in absurdity(prediction, card, SHAPE)


def test_a_score_beyond_one_is_told_on_every_frame():
    assert check_scores(np.array([0.9, 0.2], np.float32)) == ""
    assert check_scores(np.zeros(0, np.float32)) == ""
    assert "scores 599" in check_scores(np.array([599, 0.2], np.float32))
    assert check_scores(np.array([np.nan], np.float32))


ON_CPU = DetectorOptions(backend="onnxruntime")


def switching(path, first: np.ndarray, second: np.ndarray, options: DetectorOptions = ON_CPU):
    """A detector that answers ``first`` for a black image, and ``second`` for a white one."""
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0),
            helper.make_node("Mul", ["mean", "difference"], ["added"]),
            helper.make_node("Add", ["first", "added"], ["output0"]),
        ],
        "switching",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, *first.shape])],
        [
            numpy_helper.from_array(first[None], "first"),
            numpy_helper.from_array(second - first, "difference"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    entry = model.metadata_props.add()
    entry.key, entry.value = "model_card", json.dumps(model_card(64, 64, names=["a", "b"], stride=32))
    onnx.save(model, path)
    return Detector.load(path, options)


BLACK, WHITE = np.zeros((64, 64, 3), np.uint8), np.full((64, 64, 3), 255, np.uint8)


def test_a_model_with_nan_is_refused_when_it_is_prepared(tmp_path):
    options = DetectorOptions(backend="onnxruntime", load_timeout_s=0.0)
    detector = switching(tmp_path / "m.onnx", changed(raw(), (5, 5), np.nan), raw(), options)
    with pytest.raises(ModelError, match=r"m\.onnx .*NaN or infinite.*yolo-compress export"):
        detector.prepare(64, 64)


def test_shares_of_the_image_are_refused_on_the_first_frames(tmp_path):
    detector = switching(tmp_path / "m.onnx", raw(), raw() / 64)
    detector.prepare(64, 64)
    with pytest.raises(ModelError, match="shares of the image"):
        detector.detect([WHITE])


def test_a_score_beyond_one_is_refused_however_late_it_comes(tmp_path):
    detector = switching(tmp_path / "m.onnx", raw(), changed(raw(), (5, 7), 40))
    for _ in range(FRAMES + 1):
        assert len(detector.detect([BLACK])[0]) == 1
    with pytest.raises(ModelError, match="scores 40"):
        detector.detect([WHITE])
