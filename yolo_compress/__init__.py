"""Make a YOLOv8 detector smaller and faster, offline, and see what that costs.

Example:
    >>> from pathlib import Path
    >>> from yolo_compress import load_recipe, run_recipe
    >>> result = run_recipe(load_recipe(Path("config/compress/demo.yaml")))  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolo_compress.config.loading import load_recipe
    from yolo_compress.errors import UserError
    from yolo_compress.export.deliver import evaluate
    from yolo_compress.export.export import export_onnx
    from yolo_compress.pruning.pruner import prune
    from yolo_compress.run.recipe import run_recipe

__all__ = ["UserError", "evaluate", "export_onnx", "load_recipe", "prune", "run_recipe"]
__version__ = "0.1.0"

# Read by OpenMP when torch is imported. By default torch's threads spin while they wait for each other. On an
# idle machine that is faster by half; on one whose cores also do something else it can be ten times slower,
# and nobody knows beforehand. Waiting passively takes about as long on either.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

_PLACES = {
    "UserError": "errors",
    "evaluate": "export.deliver",
    "export_onnx": "export.export",
    "load_recipe": "config.loading",
    "prune": "pruning.pruner",
    "run_recipe": "run.recipe",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for only now: torch takes seconds."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
