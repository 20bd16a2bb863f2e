"""The scenes' pixels do not change: figures that are published hang on them."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import cv2
import numpy as np
import pytest

from aerial_scenes import Flight, SceneSpec, render_scene
from aerial_scenes.scenes import Scene

SMALL = SceneSpec(
    width=160, height=96, metres_per_pixel=(0.15, 0.2), focal_px=(140.0, 160.0), max_ground_pixels=400_000
)
KEPT = Path(__file__).with_name("pictures.json")


def scenes() -> dict[str, Scene]:
    made = {f"scene {seed}": render_scene(seed, SMALL) for seed in range(4)}
    frame = Flight(3, SMALL, frames=9, fps=3).frame(8)
    return {**made, "frame 8": Scene(frame.image, frame.annotations)}


@pytest.mark.parametrize(("name", "scene"), scenes().items(), ids=str)
def test_a_scene_is_what_it_was(name: str, scene: Scene) -> None:
    """To a grey level in cells of 8 pixels: processors round differently, and the JPEG makes more of it."""
    kept = json.loads(KEPT.read_text())[name]
    cells = cv2.resize(scene.image, (20, 12), interpolation=cv2.INTER_AREA).astype(int)
    assert np.abs(cells - np.array(kept["cells"])).max() <= 2
    found = [astuple(annotation) for annotation in scene.annotations]
    assert len(found) == len(kept["annotations"])
    np.testing.assert_allclose(np.array(found)[:, :4], np.array(kept["annotations"])[:, :4], atol=1)
    assert [row[5] for row in found] == [row[5] for row in kept["annotations"]]
