"""The models that ship are what their records say, made by the recipes that ship."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from yolo_trt_node.detector import Detector

from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.loading import load_recipe
from yolo_compress.export.card import read_card
from yolo_compress.pruning.budget import count_macs, count_params

REPOSITORY = Path(__file__).parents[2]
MODELS = REPOSITORY / "models"
RECORD: dict[str, Any] = json.loads((MODELS / "demo_parent.json").read_text(encoding="utf-8"))


def differing(recorded: Any, given: Any, at: str = "") -> list[str]:
    """Name the recorded settings that the recipe has otherwise; keys that came later do not count."""
    if isinstance(recorded, dict) and isinstance(given, dict):
        return [name for key in recorded for name in differing(recorded[key], given.get(key), f"{at}.{key}")]
    return [] if recorded == given else [at]


def test_the_demos_parent_was_trained_as_its_recipe_says() -> None:
    recipe = load_recipe(REPOSITORY / RECORD["recipe"]).model_dump(mode="json")
    assert differing(RECORD["settings"], recipe) == []
    assert len(RECORD["history"]) == recipe["teacher"]["train"]["epochs"]
    assert differing(RECORD["settings"], {**recipe, "seed": 7}) == [".seed"]


def test_the_demos_parent_is_the_recorded_file_and_small_and_good_enough_to_show() -> None:
    path = MODELS / RECORD["file"]
    assert files.sha256(path) == RECORD["sha256"]
    assert path.stat().st_size <= 7e6
    model = load_model(path)
    assert list(model.names.values()) == list(VISDRONE_CLASSES)
    assert count_params(model) == RECORD["params"]
    assert count_macs(model, RECORD["input_size"]) / 1e9 == pytest.approx(RECORD["gmacs"], rel=1e-4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}  # as whoever loads it computes
    assert RECORD["accuracy"]["ap50"] >= 0.6


@pytest.mark.parametrize("path", sorted(MODELS.glob("*.onnx")), ids=lambda path: path.stem)
def test_a_model_that_is_ready_to_fly_is_small_complete_and_loads(path: Path) -> None:
    assert path.stat().st_size <= 7e6
    card = read_card(path)
    assert card["precision"] == "fp16"
    assert card["accuracy"]["ap50"] > 0
    assert card["deviation_from_torch"]["box_px"] <= card["deviation_from_torch"]["allowed"]["box_px"]
    assert {"command", "finished", "params", "gmacs"} <= card["training"].keys()
    assert "/" not in card["accuracy"]["dataset"]
    assert f"`{path.name}`" in (MODELS / "README.md").read_text(encoding="utf-8")
    detector = Detector.load(path)
    assert list(detector.card.names) == card["names"]
    found = detector.detect([np.zeros((240, 320, 3), np.uint8)])[0]
    assert found.boxes.shape == (len(found.scores), 4)
