"""The versions of everything that shapes a result."""

from __future__ import annotations

from importlib.metadata import version

from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION


def versions() -> dict[str, str]:
    """Return the versions of everything that shapes the result."""
    return {
        "yolo_compress": version("yolo-compress"),
        "ultralytics": ULTRALYTICS_VERSION,
        **{name: version(name) for name in ("torch", "torch-pruning", "onnx", "onnxslim", "onnxruntime")},
    }
