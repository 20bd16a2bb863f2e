"""Engines that run a network: tensor in, prediction out.

A backend is opened for one model and one input shape. `open_model` reads what the file says of itself;
`ModelFile.session` compiles it for a shape. Further backends implement the same two protocols.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector.card import ModelError, TensorSpec

BACKENDS = ("onnxruntime",)
"""The backends there are, in the order in which ``auto`` tries them."""


class Session(Protocol):
    """A network compiled for one input height and width."""

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32."""


class ModelFile(Protocol):
    """A model file opened by a backend: what it says of itself, and the way to sessions."""

    backend: str
    metadata: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def session(self, height: int, width: int) -> Session:
        """Compile the model for an input height and width in pixels."""


def open_model(path: Path, *, backend: str, threads: int) -> ModelFile:
    """Open a model file with the backend named, or with the best that there is (``auto``).

    Args:
        path: the model file.
        backend: one of `BACKENDS`, or ``auto``.
        threads: CPU threads for inference; 0 for one per core this process may use.

    Raises:
        ModelError: no such file, an unknown backend, or a file that the backend cannot read.
    """
    if backend not in ("auto", *BACKENDS):
        raise ModelError(f"unknown backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
    if not path.is_file():
        raise ModelError(
            f"no model file at {path}" + (": it is a folder" if path.is_dir() else "; check the path")
        )
    if path.suffix != ".onnx":
        advice = (
            f"; convert it with `yolo-compress export {path.name}`" if path.suffix in (".pt", ".pth") else ""
        )
        raise ModelError(f"{path} is no ONNX file (by its name){advice}")
    try:
        # Imported here: a machine that runs another backend need not have it.
        from yolo_trt_node.detector.backends.onnx_runtime import OnnxModel
    except ImportError as error:
        raise ModelError(
            f"the backend onnxruntime needs the Python package onnxruntime ({error}); install it with "
            "`pip install onnxruntime`"
        ) from error
    return OnnxModel(path, threads=threads)
