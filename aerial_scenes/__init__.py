"""Aerial scenes as code: pictures and flights from above with VisDrone's annotations, and data sets of them.

Needs NumPy, OpenCV and PyYAML only.
"""

from aerial_scenes.dataset import generate_dataset
from aerial_scenes.flight import Flight
from aerial_scenes.scenes import SceneSpec, render_scene

__all__ = ["Flight", "SceneSpec", "generate_dataset", "render_scene"]
