"""The detector as a whole, on a model whose answers are known by hand."""

import dataclasses
import json

import numpy as np
import pytest
from support.frames import encode
from support.toy_detector import expected_box, model_card, paint_cells, write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError

GRAY = 114


def canvas(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), GRAY, np.uint8)


@pytest.fixture
def toy(tmp_path):
    return write_toy_detector(tmp_path / "toy.onnx")


def test_finds_painted_objects_at_their_place_with_class_and_score(toy):
    image = paint_cells(canvas(64, 64), [(3, 4, "red"), (5, 1, "blue")])
    (found,) = Detector.load(toy).detect([image])
    order = np.argsort(found.class_ids)
    assert found.class_ids[order].tolist() == [0, 2]
    np.testing.assert_allclose(found.boxes[order[0]], expected_box(3, 4), atol=1e-3)
    np.testing.assert_allclose(found.boxes[order[1]], expected_box(5, 1), atol=1e-3)
    np.testing.assert_allclose(found.scores, 1.0, atol=1e-3)


def test_messages_carry_numbers_of_classes_or_their_names(toy):
    image = paint_cells(canvas(64, 64), [(3, 4, "blue")])
    detector = Detector.load(toy)
    assert detector.detect([image])[0].class_texts() == ["2"]
    detector.set_options(DetectorOptions(class_id="name"))
    assert detector.detect([image])[0].class_texts() == ["blue"]
    detector.set_options(DetectorOptions(class_id="number"))
    assert detector.detect([image])[0].class_texts() == ["2"]


def test_blank_image_gives_empty_arrays_of_the_right_shape(toy):
    (found,) = Detector.load(toy).detect([canvas(48, 64)])
    assert found.boxes.shape == (0, 4)
    assert found.boxes.dtype == np.float32
    assert found.scores.shape == (0,)
    assert found.class_ids.dtype == np.int32


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [
        (360, 640, (40, 64)),
        (640, 360, (64, 40)),
        (480, 640, (48, 64)),
        (64, 64, (64, 64)),
        (10, 2000, (8, 64)),
    ],
)
def test_input_matches_the_aspect_of_the_camera(toy, height, width, shape):
    assert Detector.load(toy).input_shape(height, width) == shape


def test_square_and_explicit_shapes_override_the_match(toy):
    assert Detector.load(toy, DetectorOptions(input_shape="square")).input_shape(360, 640) == (64, 64)
    assert Detector.load(toy, DetectorOptions(input_shape="32x64")).input_shape(360, 640) == (32, 64)


@pytest.mark.parametrize("shape", ["auto", "square", "32x64"])
def test_boxes_return_to_the_pixels_of_the_original_image(toy, shape):
    # 640 x 320 fits 64 x 32 at a tenth; in the square input 16 rows of grey lie above it.
    pad = 16 if shape == "square" else 0
    row = 2 + pad // 8
    image = paint_cells(canvas(320, 640), [(row, 3, "green")], network_pixel=10, offset=(pad, 0))
    (found,) = Detector.load(toy, DetectorOptions(input_shape=shape)).detect([image])
    assert len(found) == 1
    left, top, right, bottom = expected_box(row, 3)
    wanted = np.array([left, top - pad, right, bottom - pad]) * 10
    np.testing.assert_allclose(found.boxes[0], wanted, atol=1e-2)


def test_boxes_never_leave_the_image(toy):
    corners = [(0, 0, "red"), (0, 7, "red"), (7, 0, "red"), (7, 7, "red")]
    (found,) = Detector.load(toy).detect([paint_cells(canvas(64, 64), corners)])
    assert len(found) == 4
    assert found.boxes.min() >= 0
    assert found.boxes.max() <= 64


def test_a_batch_of_different_sizes_keeps_its_order(toy):
    images = [
        paint_cells(canvas(64, 64), [(3, 3, "red")]),
        canvas(32, 64),
        paint_cells(canvas(64, 64), [(3, 3, "blue")]),
    ]
    found = Detector.load(toy).detect(images)
    assert [list(d.class_ids) for d in found] == [[0], [], [2]]


def test_detecting_twice_gives_the_same_although_buffers_are_reused(toy):
    detector = Detector.load(toy)
    image = paint_cells(canvas(64, 64), [(3, 3, "red")])
    first = detector.detect([image])[0]
    boxes = first.boxes.copy()
    detector.detect([paint_cells(canvas(64, 64), [(6, 6, "blue")])])
    np.testing.assert_array_equal(first.boxes, boxes)
    np.testing.assert_array_equal(detector.detect([image])[0].boxes, boxes)


def test_a_portrait_image_after_a_landscape_one_leaves_no_trace_of_it(toy):
    detector = Detector.load(toy, DetectorOptions(input_shape="square"))
    detector.detect([np.full((32, 64, 3), (0, 0, 255), np.uint8)])
    (found,) = detector.detect([canvas(64, 32)])
    assert len(found) == 0


def test_fixed_shapes_and_fixed_batch_are_served(tmp_path):
    path = write_toy_detector(tmp_path / "fixed.onnx", size=(64, 64), static=True)
    detector = Detector.load(path)
    assert detector.input_shape(360, 640) == (64, 64)
    images = [paint_cells(canvas(64, 64), [(3, 3, name)]) for name in ("red", "green", "blue")]
    assert [d.class_ids.tolist() for d in detector.detect(images)] == [[0], [1], [2]]
    with pytest.raises(ModelError, match="height is fixed at 64"):
        Detector.load(path, DetectorOptions(input_shape="32x64"))


def test_float16_inputs_are_served(tmp_path):
    path = write_toy_detector(tmp_path / "half.onnx", half=True)
    (found,) = Detector.load(path).detect([paint_cells(canvas(64, 64), [(3, 4, "red")])])
    np.testing.assert_allclose(found.boxes[0], expected_box(3, 4), atol=1e-2)


@pytest.mark.parametrize("encoding", ["bgr8", "rgb8", "bgra8", "rgba8", "nv12", "yuyv"])
def test_frames_in_the_encoding_of_the_camera_give_the_same_boxes(toy, encoding):
    image = paint_cells(canvas(48, 64), [(3, 4, "red"), (2, 1, "blue")])
    detector = Detector.load(toy)
    (wanted,) = detector.detect([image])
    (found,) = detector.detect([encode(image, encoding, padding=5)])
    np.testing.assert_array_equal(found.class_ids[np.argsort(found.class_ids)], [0, 2])
    assert sorted(map(tuple, found.boxes)) == sorted(map(tuple, wanted.boxes))


def test_with_multi_label_an_object_is_reported_under_each_of_its_names(tmp_path):
    toy = write_toy_detector(tmp_path / "toy.onnx", contrast=0.0)
    image = canvas(64, 64)
    image[24:32, 32:40] = (0, 200, 255)  # more red than green
    (single,) = Detector.load(toy).detect([image])
    assert single.class_ids.tolist() == [0]
    (many,) = Detector.load(toy, DetectorOptions(multi_label=True)).detect([image])
    assert many.class_ids.tolist() == [0, 1]
    np.testing.assert_allclose(many.scores, [1.0, 200 / 255], atol=1e-3)
    np.testing.assert_array_equal(many.boxes[0], many.boxes[1])


def test_only_the_classes_asked_for_come_back_by_name_or_id(toy):
    image = paint_cells(canvas(64, 64), [(1, 1, "red"), (4, 4, "green"), (6, 6, "blue")])
    (found,) = Detector.load(toy, DetectorOptions(classes=("green", "2"))).detect([image])
    assert sorted(found.class_ids) == [1, 2]


def test_thresholds_default_to_the_card_and_follow_the_options(toy):
    detector = Detector.load(toy)
    assert (detector.score_threshold, detector.iou_threshold) == (0.5, 0.7)
    detector.set_options(DetectorOptions(score_threshold=0.9, max_det=1))
    assert (detector.score_threshold, detector.iou_threshold) == (0.9, 0.7)
    image = paint_cells(canvas(64, 64), [(1, 1, "red"), (5, 5, "green")])
    assert len(detector.detect([image])[0]) == 1


def test_a_refused_change_changes_nothing(toy):
    detector = Detector.load(toy)
    before = detector.options
    with pytest.raises(ValueError, match="no class 'zebra'; it has red, green, blue"):
        detector.set_options(DetectorOptions(score_threshold=0.9, max_det=5, classes=("zebra",)))
    with pytest.raises(ValueError, match=r"score_threshold is 1\.5"):
        detector.set_options(DetectorOptions(score_threshold=1.5))
    assert detector.options == before


def test_what_decides_how_a_model_is_loaded_stays(toy):
    detector = Detector.load(toy, DetectorOptions(backend="onnxruntime", threads=1))
    before = detector.options
    detector.set_options(DetectorOptions(backend="openvino", threads=7, input_shape="square", max_det=9))
    assert detector.options == dataclasses.replace(before, max_det=9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_threshold": -0.1}, "between 0 and 1"),
        ({"iou_threshold": 2.0}, "between 0 and 1"),
        ({"max_det": 0}, "between 1 and 10000"),
        ({"threads": -1}, "threads"),
        ({"input_shape": "640"}, "HEIGHTxWIDTH"),
        ({"input_shape": "0x64"}, "HEIGHTxWIDTH"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DetectorOptions(**options)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.float32),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_bgr_image_are_refused(toy, image):
    with pytest.raises(ValueError, match="expected a non-empty uint8 array"):
        Detector.load(toy).detect([image])


class TestModelFilesThatCannotBeUsed:
    def test_missing(self, tmp_path):
        with pytest.raises(ModelError, match=r"no model file at .*nowhere.onnx"):
            Detector.load(tmp_path / "nowhere.onnx")

    def test_a_folder(self, tmp_path):
        with pytest.raises(ModelError, match="it is a folder"):
            Detector.load(tmp_path)

    def test_truncated(self, toy):
        toy.write_bytes(toy.read_bytes()[:300])
        with pytest.raises(ModelError, match=r"cannot read .*toy.onnx \(300 bytes\).*export it again"):
            Detector.load(toy)

    def test_empty(self, toy):
        toy.write_bytes(b"")
        with pytest.raises(ModelError, match="0 bytes"):
            Detector.load(toy)

    def test_a_checkpoint_names_the_way_to_convert_it(self, tmp_path):
        path = tmp_path / "best.pt"
        path.write_bytes(b"x")
        with pytest.raises(ModelError, match=r"yolo-compress export best\.pt"):
            Detector.load(path)

    def test_an_unknown_backend_lists_the_known(self, toy):
        with pytest.raises(ValueError, match="backend is 'cuda'; use one of auto, tensorrt, "):
            Detector.load(toy, DetectorOptions(backend="cuda"))

    def test_a_card_that_contradicts_the_output(self, tmp_path):
        card = model_card(64, 64, names=["one", "two"])
        path = write_toy_detector(tmp_path / "m.onnx", metadata={"model_card": json.dumps(card)})
        with pytest.raises(ModelError, match=r"makes 3 classes, but the model names 2"):
            Detector.load(path)

    def test_another_task(self, tmp_path):
        path = write_toy_detector(tmp_path / "m.onnx", metadata={"task": "segment"})
        with pytest.raises(ModelError, match="task 'segment'"):
            Detector.load(path)


class TestStockUltralyticsMetadata:
    META = {  # noqa: RUF012
        "names": "{0: 'red', 1: 'green', 2: 'blue'}",
        "stride": "8",
        "imgsz": "[64, 64]",
        "task": "detect",
        "batch": "1",
    }

    def test_is_enough(self, tmp_path):
        detector = Detector.load(write_toy_detector(tmp_path / "m.onnx", metadata=self.META))
        assert detector.card.names == ("red", "green", "blue")
        assert detector.card.stride == 8
        assert detector.score_threshold == 0.25
        (found,) = detector.detect([paint_cells(canvas(64, 64), [(3, 4, "red")])])
        np.testing.assert_allclose(found.boxes[0], expected_box(3, 4), atol=1e-3)

    def test_unreadable_values_are_a_clear_error(self, tmp_path):
        path = write_toy_detector(tmp_path / "m.onnx", metadata={**self.META, "names": "{0: oops"})
        with pytest.raises(ModelError, match="metadata cannot be read"):
            Detector.load(path)

    def test_without_names_classes_are_numbered(self, tmp_path):
        metadata = {k: v for k, v in self.META.items() if k != "names"}
        detector = Detector.load(write_toy_detector(tmp_path / "m.onnx", metadata=metadata))
        assert detector.card.names == ("class 0", "class 1", "class 2")


class TestClassThresholds:
    def test_they_replace_the_common_one_for_their_classes(self, toy):
        image = paint_cells(canvas(64, 64), [(1, 1, "red"), (3, 4, "green"), (5, 1, "blue")]) // 2 + 57
        common = DetectorOptions(score_threshold=0.1)
        detector = Detector.load(toy, common)
        assert len(detector.detect([image])[0]) == 3
        detector.set_options(dataclasses.replace(common, class_thresholds=(("red", 0.99), ("2", 0.99))))
        assert detector.detect([image])[0].class_ids.tolist() == [1]
        detector.set_options(common)
        assert len(detector.detect([image])[0]) == 3

    @pytest.mark.parametrize(
        ("thresholds", "text"),
        [((("red", 1.5),), "is 1.5, not between 0 and 1"), ((("car", 0.5),), "no class 'car'; it has red")],
    )
    def test_wrong_ones_are_refused_with_the_reason(self, toy, thresholds, text):
        with pytest.raises(ValueError, match=text):
            Detector.load(toy, DetectorOptions(class_thresholds=thresholds))
