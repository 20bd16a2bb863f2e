from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import json
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from support import fake_gpu
from support.squares import write_dataset
from support.toy_detector import NAMES, write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.backends.tensorrt import OnnxOnTensorRt, import_tensorrt
from yolo_trt_node.detector.options import LoadOptions

from aerial_scenes.visdrone import Annotation
from yolo_compress.data.labelled import GroundTruth, read_split, truth_of
from yolo_compress.errors import UserError
from yolo_compress.export.deliver import evaluate
from yolo_compress.export.export import export_onnx
from yolo_compress.measure.accuracy import RECALLS, Accuracy, Found, evaluate_model, score

NONE = np.zeros((0, 4))


def truth(*boxes: tuple[float, float, float, float], ids: tuple[int, ...] = (), ignored=()) -> GroundTruth:
    array = np.array(boxes, float).reshape(-1, 4)
    return GroundTruth(array, np.array(ids or [0] * len(boxes), int), np.array(ignored, float).reshape(-1, 4))


def found(
    *boxes: tuple[float, float, float, float], scores: tuple[float, ...], ids: tuple[int, ...] = ()
) -> Found:
    array = np.array(boxes, float).reshape(-1, 4)
    return Found(array, np.array(scores), np.array(ids or [0] * len(boxes), int))


BOX = (10.0, 10.0, 20.0, 20.0)
FAR = (100.0, 100.0, 20.0, 20.0)


def test_a_perfect_detector_scores_one() -> None:
    accuracy = score([truth(BOX, FAR)], [found(BOX, FAR, scores=(0.9, 0.8))], ["a"])
    assert accuracy.ap == accuracy.ap50 == accuracy.ap_small == pytest.approx(1)


def test_hand_made_case() -> None:
    """Two objects; a hit, a miss ranked second, no second hit: precision 1 up to recall 0.5, then nothing."""
    accuracy = score([truth(BOX, FAR)], [found(BOX, (50, 50, 20, 20), scores=(0.9, 0.8))], ["a"])
    assert accuracy.ap50 == pytest.approx(51 / 101)  # 101 recall points, those from 0 to 0.50


def test_overlap_decides_what_counts_at_which_threshold() -> None:
    shifted = (10.0, 10.0, 20.0, 14.0)  # IoU 0.7
    accuracy = score([truth(BOX)], [found(shifted, scores=(0.9,))], ["a"])
    assert accuracy.ap50 == pytest.approx(1)
    assert accuracy.ap == pytest.approx(0.5)  # at 0.50, 0.55, 0.60, 0.65, 0.70 of ten


def test_a_size_without_objects_gives_none() -> None:
    accuracy = score([truth(BOX)], [found(BOX, scores=(0.9,))], ["a"])
    assert accuracy.ap_medium is None
    assert accuracy.ap_large is None


def test_no_objects_at_all_give_none() -> None:
    accuracy = score([truth()], [found(BOX, scores=(0.9,))], ["a"])
    assert accuracy.ap is accuracy.ap50 is None


def test_nothing_found_scores_zero() -> None:
    assert score([truth(BOX)], [found(scores=())], ["a"]).ap50 == 0


class TestTheVisDroneToolkitsRules:
    """Cases worked out by hand from the toolkit's dropObjectsInIgr, evalRes and calcAccuracy."""

    names: ClassVar = [f"class{i}" for i in range(10)]

    def ap50(self, annotations: list[Annotation], detections: list[tuple[tuple, float, int]]) -> float:
        boxes, scores, ids = zip(*detections, strict=True)
        accuracy = score([truth_of(annotations)], [found(*boxes, scores=scores, ids=ids)], self.names)
        assert accuracy.ap50 is not None
        return accuracy.ap50

    car = Annotation(10, 10, 20, 20, 1, 4)
    hit = ((10.0, 10.0, 20.0, 20.0), 0.9, 3)
    region = Annotation(100, 100, 40, 40, 0, 0)

    @pytest.mark.parametrize("class_id", [0, 3])
    def test_detections_in_an_ignored_region_are_left_out(self, class_id: int) -> None:
        stray = ((110.0, 110.0, 20.0, 20.0), 0.95, class_id)
        assert self.ap50([self.car, self.region], [stray, self.hit]) == pytest.approx(1)
        assert (self.ap50([self.car], [stray, self.hit]) == pytest.approx(1)) == (class_id != 3)

    @pytest.mark.parametrize(("left", "counts"), [(90.0, False), (89.0, True)])
    def test_half_of_a_detections_area_decides(self, left: float, counts: bool) -> None:
        stray = ((left, 110.0, 20.0, 20.0), 0.95, 3)
        assert self.ap50([self.car, self.region], [stray, self.hit]) == pytest.approx(0.5 if counts else 1)

    def test_ignored_regions_act_together_and_overlaps_count_once(self) -> None:
        stray = ((95.0, 110.0, 20.0, 20.0), 0.95, 3)
        halves = [Annotation(90, 100, 9, 40, 0, 0), Annotation(109, 100, 9, 40, 0, 0)]  # 4 + 6 of 20 columns
        assert self.ap50([self.car, *halves], [stray, self.hit]) == pytest.approx(1)
        twice = [Annotation(90, 100, 9, 40, 0, 0)] * 3
        assert self.ap50([self.car, *twice], [stray, self.hit]) == pytest.approx(0.5)

    def test_objects_in_an_ignored_region_need_not_be_found(self) -> None:
        inside = Annotation(110, 110, 20, 20, 1, 4)
        assert self.ap50([self.car, inside, self.region], [self.hit]) == pytest.approx(1)
        assert self.ap50([self.car, inside], [self.hit]) < 1

    def test_others_are_not_there_so_that_a_car_found_on_one_is_wrong(self) -> None:
        others = Annotation(110, 110, 20, 20, 0, 11)
        stray = ((110.0, 110.0, 20.0, 20.0), 0.95, 3)
        assert self.ap50([self.car, others], [stray, self.hit]) == pytest.approx(0.5)
        assert self.ap50([self.car, others], [self.hit]) == pytest.approx(1)

    def test_an_object_of_score_0_may_be_found_or_not_by_its_own_class(self) -> None:
        unsure = Annotation(110, 110, 20, 20, 0, 4)
        part = (112.0, 112.0, 8.0, 8.0)  # most of the detection, little of the object: enough to be ignored
        assert self.ap50([self.car, unsure], [(part, 0.95, 3), self.hit]) == pytest.approx(1)
        assert self.ap50([self.car, unsure], [self.hit]) == pytest.approx(1)
        bus = Annotation(200, 200, 20, 20, 1, 9)
        both = [self.hit, ((200.0, 200.0, 20.0, 20.0), 0.9, 8)]
        assert self.ap50([self.car, bus, unsure], [(part, 0.95, 8), *both]) == pytest.approx(0.75)

    def test_the_best_500_of_an_image_count_whatever_their_class(self) -> None:
        noise = [((float(x), 300.0, 5.0, 5.0), 0.95, 7) for x in range(499)]
        last = ((10.0, 10.0, 20.0, 20.0), 0.5, 3)
        assert self.ap50([self.car], [*noise, last]) == pytest.approx(1)
        assert self.ap50([self.car], [*noise, ((0.0, 0.0, 5.0, 5.0), 0.6, 1), last]) == 0

    def test_detections_left_out_take_no_place_among_the_500(self) -> None:
        noise = [((110.0, 110.0, 5.0 + x / 100, 5.0), 0.95, 3) for x in range(600)]
        assert self.ap50([self.car, self.region], [*noise, self.hit]) == pytest.approx(1)


def test_up_to_500_detections_count() -> None:
    noise = [(float(x), 300.0, 5.0, 5.0) for x in range(499)]
    scores = tuple(np.linspace(0.9, 0.5, 500))
    assert score([truth(FAR)], [found(*noise, FAR, scores=scores)], ["a"]).ap50 > 0
    assert score([truth(FAR)], [found(*noise, (0, 0, 5, 5), FAR, scores=(*scores, 0.1))], ["a"]).ap50 == 0


def test_agrees_with_pycocotools_own_summary() -> None:
    rng = np.random.default_rng(0)
    truths, results, annotations, detections = [], [], [], []
    for image_id in range(1, 9):
        corner = rng.uniform(0, 500, (12, 2))
        size = rng.uniform(8, 150, (12, 2))
        boxes = np.hstack([corner, size])
        ids = rng.integers(0, 3, 12)
        noisy = np.vstack([boxes + rng.normal(0, 4, boxes.shape), rng.uniform(20, 300, (10, 4))])
        noisy[:, 2:] = noisy[:, 2:].clip(4)
        scores = rng.uniform(0, 1, len(noisy))
        noisy_ids = np.concatenate([ids, rng.integers(0, 3, 10)])
        truths.append(GroundTruth(boxes, ids, NONE))
        results.append(Found(noisy, scores, noisy_ids))
        for box, class_id in zip(boxes, ids, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": int(class_id),
                    "bbox": box.tolist(),
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
        detections += [
            {"image_id": image_id, "category_id": int(c), "bbox": b.tolist(), "score": float(s)}
            for b, s, c in zip(noisy, scores, noisy_ids, strict=True)
        ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {
            "info": {},
            "images": [{"id": i} for i in range(1, 9)],
            "categories": [{"id": i} for i in range(3)],
            "annotations": annotations,
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ours = score(truths, results, ["a", "b", "c"])
    expected = evaluation.stats[[0, 1, 2, 3, 4, 5]]
    assert 0.05 < expected[0] < 0.95
    np.testing.assert_allclose(
        [ours.ap, ours.ap50, ours.ap75, ours.ap_small, ours.ap_medium, ours.ap_large], expected, rtol=1e-12
    )


def test_classes_are_told_apart_and_their_curves_are_pycocotools() -> None:
    accuracy = score(
        [truth(BOX, FAR, BOX, ids=(0, 0, 1))],
        [found(BOX, (50, 50, 20, 20), BOX, scores=(0.9, 0.8, 0.7), ids=(0, 0, 1))],
        ["a", "b", "c"],
    )
    a, b, c = accuracy.per_class
    assert (a.name, a.objects, a.ap50) == ("a", 2, pytest.approx(51 / 101))
    assert a.precision == pytest.approx([1.0] * 51 + [0.0] * 50)
    assert (b.objects, b.ap, b.ap50) == (1, pytest.approx(1), pytest.approx(1))
    assert (c.objects, c.ap, c.ap50, c.precision) == (0, None, None, ())
    assert accuracy.ap50 == pytest.approx((a.ap50 + b.ap50) / 2)
    assert len(RECALLS) == len(a.precision)
    assert RECALLS[50] == 0.5


def test_an_accuracy_survives_a_record() -> None:
    accuracy = score([truth(BOX)], [found(BOX, scores=(0.9,))], ["a", "b"])
    assert Accuracy.from_record(json.loads(json.dumps(dataclasses.asdict(accuracy)))) == accuracy
    assert accuracy.summary()["ap75"] == accuracy.ap75 == pytest.approx(1)
    assert "per_class" not in accuracy.summary()


def test_model_is_measured_through_the_detector(painted: Path, tmp_path: Path) -> None:
    model = write_toy_detector(tmp_path / "toy.onnx")
    steps: list[tuple[int, int]] = []
    accuracy = evaluate_model(model, painted, progress=lambda *step: steps.append(step))
    # Class 0 is found in both images; of class 1 one of two is: recall points 0 to 0.50 of 101.
    assert accuracy.ap50 == pytest.approx((1 + 51 / 101) / 2)
    assert accuracy.images == 4
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_engine_is_measured_like_its_onnx(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_toy_detector(tmp_path / "toy.onnx")
    expected = evaluate_model(model, painted)
    fake_gpu.install(monkeypatch, "10.3.0")
    try:
        options = LoadOptions(engine_cache=str(tmp_path / "engines"))
        opened = OnnxOnTensorRt(model, "tensorrt", import_tensorrt("tensorrt"), Gpu.open(), options)
        engine = opened.engine(64, 64).path
        assert engine.suffix == ".engine"
        assert evaluate_model(engine, painted) == expected
        del opened
        gc.collect()
    finally:
        fake_gpu.remove()


def test_a_checkpoint_is_measured_as_its_export(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Random weights score next to nothing.
    monkeypatch.setattr("yolo_compress.measure.detector.SCORE_FLOOR", 0.0)
    model, size = tmp_path / "model.onnx", 96
    export_onnx(checkpoint, model, size)
    data = write_dataset(tmp_path / "squares", size=size)
    # What the model finds best becomes the truth.
    detector = Detector.load(model, DetectorOptions(score_threshold=0.0, max_det=12))
    for path in read_split(data, "val").images:
        result = detector.detect([cv2.imread(str(path))])[0]
        rows = [
            f"{c} {(x0 + x1) / 2 / size} {(y0 + y1) / 2 / size} {(x1 - x0) / size} {(y1 - y0) / size}"
            for (x0, y0, x1, y1), c in zip(result.boxes, result.class_ids, strict=True)
        ]
        (path.parents[1] / "labels" / f"{path.stem}.txt").write_text("\n".join(rows))
    expected = evaluate_model(model, data)
    assert expected.ap50 > 0.95  # of boxes that cover the whole image one is left: rows count once
    assert evaluate(checkpoint, data, input_size=size) == expected
    assert evaluate(checkpoint, data, input_size=64) != expected
    with pytest.raises(UserError, match="its own input size"):
        evaluate(model, data, input_size=size)


def test_class_count_of_model_and_data_must_agree(painted: Path, tmp_path: Path) -> None:
    painted.write_text(painted.read_text().replace(str(list(NAMES)), "[one, two]"))
    with pytest.raises(UserError, match=r"knows 3 classes \(red, green, blue\).*has 2 \(one, two\)"):
        evaluate_model(write_toy_detector(tmp_path / "toy.onnx"), painted)


def test_what_training_drops_is_not_measured_on(painted: Path, tmp_path: Path) -> None:
    """Of class 1 the image goes whose object the toy detector cannot see."""
    (painted.parent / "val" / "labels" / "3.txt").write_text("9 0.5 0.5 0.1 0.1\n")
    accuracy = evaluate_model(write_toy_detector(tmp_path / "toy.onnx"), painted)
    assert (accuracy.images, accuracy.ap50) == (3, pytest.approx(1))


def test_data_without_any_label_are_not_measured_on(painted: Path, tmp_path: Path) -> None:
    for path in (painted.parent / "val" / "labels").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no labels for any of the 4 images"):
        evaluate_model(write_toy_detector(tmp_path / "toy.onnx"), painted)
