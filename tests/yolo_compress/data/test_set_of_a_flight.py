"""What the node's `bag_labels` makes of a flight is fit for a run, and is trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from support.squares import make_recipe
from yolo_trt_node.boxes import Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.replay import bag_labels, messages
from yolo_trt_node.replay.bags import BagWriter, typestore

from yolo_compress.doctor import examine
from yolo_compress.training import StageContext, StageTrainer, train

FRAMES = 6


def write_flight(path: Path) -> Path:
    """Write a bag of gray images with a red square each, and a weak detection of it."""
    store = typestore()
    with BagWriter(path, store) as writer:
        for index in range(FRAMES):
            stamp = (100 + index) * 500_000_000
            header = messages.header(store, stamp, "nose")
            pixels = np.full((64, 64, 3), 40 + 20 * index, np.uint8)
            pixels[20:44, 8 + 4 * index : 28 + 4 * index] = (30, 30, 220)
            box = Detections.from_xywh(
                np.array([[8.0 + 4 * index, 20.0, 20.0, 24.0]]), np.array([0.3]), np.array([0])
            )
            found = serialized_detections(header, box)
            writer.write("/nose/image", messages.IMAGE_TYPE, messages.image(store, header, pixels), stamp)
            writer.write("/nose/detections", messages.DETECTIONS_TYPE, found, stamp)
    return path


def test_doctor_passes_the_set_and_a_tiny_run_goes_through(tmp_path: Path) -> None:
    flight = write_flight(tmp_path / "flight")
    words = [str(flight), "-o", str(tmp_path / "set"), "--names", "red,blue"]
    assert bag_labels.main(words) == 0
    recipe = make_recipe(tmp_path / "out", tmp_path / "set" / "data.yaml")
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    checks = list(examine(file))
    assert [f"{check.what} -> {check.remedy}" for check in checks if check.status == "FAIL"] == []
    told = "\n".join(check.what for check in checks)
    assert "data: train, 5 images, 2 classes, 5 objects" in told
    assert "data: val, 1 image" in told
    context = StageContext(
        recipe, tmp_path / "set" / "data.yaml", tmp_path / "run", "dense", Console(quiet=True)
    )
    assert recipe.teacher.train is not None
    model = train(StageTrainer, recipe.teacher.model, recipe.teacher.train, context)
    assert list(model.names.values()) == ["red", "blue"]
