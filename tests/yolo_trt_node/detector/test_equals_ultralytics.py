"""The boxes of one ONNX file through Ultralytics' `predict` and through our detector are the same."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from yolo_trt_node.detector import Detector, DetectorOptions

PIXELS = 0.5
SCORE = 0.005
ASKED = {"imgsz": 640, "conf": 0.25, "iou": 0.7, "max_det": 1000}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="Ultralytics is not installed"
)


def overlap(a, b):
    left, top = np.maximum(a[:2], b[:2])
    right, bottom = np.minimum(a[2:], b[2:])
    inner = max(0.0, right - left) * max(0.0, bottom - top)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return inner / max(sum(areas) - inner, 1e-9)


def lonely(first, second):
    """Indices of the first answer's boxes that the second answer lacks."""
    free = set(range(len(second["scores"])))
    for index, (box, score, class_id) in enumerate(
        zip(first["boxes"], first["scores"], first["class_ids"], strict=True)
    ):
        for other in free:
            if (
                second["class_ids"][other] == class_id
                and abs(second["scores"][other] - score) <= SCORE
                and np.abs(second["boxes"][other] - box).max() <= PIXELS
            ):
                free.remove(other)
                break
        else:
            yield index


def assert_equal(name, ours, theirs):
    """Fail unless the boxes are the same, but for those that a rounding may add or take.

    Both cut at a score and at an IoU. A box within a hair of either cut may be in one answer only, and with
    it go the boxes that it suppresses: they are lonely too, but have a lonely box above them.
    """
    alone = [
        (answer, index)
        for answer, other in ((ours, theirs), (theirs, ours))
        for index in lonely(answer, other)
    ]
    for answer, index in alone:
        box, score, class_id = (answer[key][index] for key in ("boxes", "scores", "class_ids"))
        rivals = [
            (overlap(box, rival["boxes"][k]), any(rival is a and k == i for a, i in alone))
            for rival in (ours, theirs)
            for k in np.flatnonzero((rival["class_ids"] == class_id) & (rival["scores"] > score - SCORE))
            if rival is not answer or k != index
        ]
        explained = abs(score - ASKED["conf"]) < SCORE or any(
            abs(iou - ASKED["iou"]) < 0.005 or (is_alone and iou > ASKED["iou"]) for iou, is_alone in rivals
        )
        assert explained, f"{name}: only one of both has class {class_id} at {box} with score {score:.4f}"
    assert len(alone) <= 2 + len(ours["scores"]) // 50, f"{name}: {len(alone)} boxes differ"


def compare(folder, model, images):
    """Let both answer for images (name -> BGR); return how many boxes there were in each image."""
    for name, image in images.items():
        cv2.imwrite(str(folder / f"{name}.png"), image)
    subprocess.run(
        [sys.executable, "-m", "support.ultralytics_answers", str(folder), str(model), json.dumps(ASKED)],
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "2"},
        stdout=subprocess.DEVNULL,
    )
    answers = json.loads((folder / "answers.json").read_text())
    options = DetectorOptions(
        score_threshold=ASKED["conf"], iou_threshold=ASKED["iou"], max_det=ASKED["max_det"], threads=2
    )
    detector = Detector.load(folder / "model.onnx", options)
    counts = {}
    for name, image in images.items():
        theirs = {
            "boxes": np.array(answers[f"{name}.png"]["boxes"]).reshape(-1, 4),
            "scores": np.array(answers[f"{name}.png"]["scores"]),
            "class_ids": np.array(answers[f"{name}.png"]["class_ids"], int),
        }
        (found,) = detector.detect([image])
        ours = {"boxes": found.boxes, "scores": found.scores, "class_ids": found.class_ids}
        assert_equal(name, ours, theirs)
        counts[name] = len(found)
        print(
            name,
            len(found),
            sorted(found.scores)[-3:],
            list(lonely(ours, theirs)),
            list(lonely(theirs, ours)),
        )
    return counts


@pytest.fixture(scope="module")
def scenes():
    from aerial_scenes.scenes import SceneSpec, render_scene

    def scene(seed, width, height):
        return render_scene(seed, SceneSpec(width=width, height=height)).image

    wide = scene(1, 1280, 720)
    return {
        "wide": wide,
        "odd": wide[3:538, 10:961],
        "four_to_three": scene(2, 640, 480),
        "portrait": np.ascontiguousarray(wide[:, 200:605]),
        "tiny": np.ascontiguousarray(cv2.resize(wide, (45, 31))),
        "sliver": np.ascontiguousarray(wide[100:140]),
    }


@pytest.mark.parametrize("architecture", ["yolov8n.yaml", "yolov10n.yaml"], ids=["raw head", "end2end head"])
def test_untrained_models_on_generated_scenes(architecture, scenes, tmp_path):
    counts = compare(tmp_path, architecture, scenes)
    assert sum(count > 20 for count in counts.values()) >= 4, counts


@pytest.mark.real_data
@pytest.mark.parametrize("weights", ["yolov8n.pt", "yolov5su_visdrone10.pt"])
def test_trained_models_on_real_images(weights, tmp_path):
    if "UAV_DATA" not in os.environ:
        pytest.skip("UAV_DATA is not set: no real aerial images")
    data = Path(os.environ["UAV_DATA"])
    paths = [
        *sorted(data.glob("visdrone/*/images/*.jpg"))[:4],
        *sorted(data.glob("aerial_cars/images/*"))[::12],
        *sorted(data.glob("hit_uav/val/images/*"))[:2],
    ]
    images = {f"{index}_{path.stem}": cv2.imread(str(path)) for index, path in enumerate(paths)}
    first = cv2.imread(str(paths[0]))
    images["portrait"] = cv2.rotate(first, cv2.ROTATE_90_CLOCKWISE)
    images["four_to_three"] = first[: len(first) // 4 * 4, : len(first) // 3 * 4]
    images["tiny"] = cv2.resize(first, (96, 54))
    assert sum(compare(tmp_path, data / "weights" / weights, images).values()) > 30
