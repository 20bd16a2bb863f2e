"""Engines that run a network: tensor in, prediction out.

A backend is opened for one model; `open_model` reads what the file says of itself, and `ModelFile.session`
compiles it for an input shape. Every backend implements the same two protocols.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector.card import ModelError, TensorSpec
from yolo_trt_node.detector.options import BACKENDS, LoadOptions

_ENGINE_SUFFIXES = (".engine", ".plan", ".trt")


class BackendUnavailable(ModelError):  # noqa: N818  (a state of the machine, and often no error)
    """A backend cannot run here, or not as asked; another one may.

    Attributes:
        cause: what is missing, in a few words.
        advice: how to get it.
    """

    def __init__(self, cause: str, advice: str) -> None:
        """Say what is missing and how to get it."""
        super().__init__(f"{cause}; {advice}")
        self.cause = cause
        self.advice = advice


class Session(Protocol):
    """A network compiled for one input height and width; one thread uses it at a time.

    Attributes:
        precision: the precision really in force.

    A session whose attribute ``infer_frames`` exists and is not ``None`` takes camera frames itself; see
    `backends.tensorrt_session.TensorRtSession`.
    """

    precision: str

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32.

        The prediction may be a view of a buffer that the next call overwrites.
        """

    def close(self) -> None:
        """Give back what the session holds, now; it is of no use afterwards. Closing twice is allowed."""


class ModelFile(Protocol):
    """A model file opened by a backend: what it says of itself, and the way to sessions."""

    backend: str
    metadata: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def session(self, height: int, width: int) -> Session:
        """Compile the model for an input height and width in pixels."""

    def close(self) -> None:
        """Give back what the file holds; its sessions are closed by themselves."""


def open_model(path: Path, *, backend: str, options: LoadOptions) -> tuple[ModelFile, str]:
    """Open a model file with the backend named, or with the best that there is (``auto``).

    Args:
        path: an ONNX file, or a TensorRT engine.
        backend: one of `BACKENDS`, or ``auto``.
        options: how to run it.

    Returns:
        The model, and in one line why this backend runs it.

    Raises:
        ModelError: no such file, an unknown backend, a backend that cannot run here, or a file that it cannot
            read; the message says what to do.
    """
    if backend not in ("auto", *BACKENDS):
        raise ModelError(f"unknown backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
    if not path.is_file():
        raise ModelError(
            f"no model file at {path}" + (": it is a folder" if path.is_dir() else "; check the path")
        )
    if path.suffix not in (".onnx", *_ENGINE_SUFFIXES):
        advice = (
            f"; convert it with `yolo-compress export {path.name}`" if path.suffix in (".pt", ".pth") else ""
        )
        raise ModelError(f"{path} is no ONNX file and no TensorRT engine (by its name){advice}")
    able = [name for name in BACKENDS if path.suffix == ".onnx" or name.startswith("tensorrt")]
    if backend != "auto":
        if backend not in able:
            raise ModelError(
                f"{path} is an engine, which the backend {backend} cannot run; set backend to auto"
            )
        try:
            return _open(backend, path, options), f"{backend}, as asked"
        except BackendUnavailable as error:
            raise ModelError(f"the backend {backend} cannot run: {error}") from error
    passed = []
    for name in able:
        try:
            model = _open(name, path, options)
        except BackendUnavailable as error:
            passed.append(f"{name}: {error.cause}")
            continue
        return model, f"auto took {name}" + (f"; passed over {'; '.join(passed)}" if passed else "")
    raise ModelError(
        f"no backend can run {path}: {'; '.join(passed)}. Name one as the parameter backend to hear what "
        "it needs"
    )


def _open(backend: str, path: Path, options: LoadOptions) -> ModelFile:
    """Open a file with one backend, which is imported only now: a machine need not have the others."""
    module, _, opener = BACKENDS[backend].rpartition(".")
    try:
        found = importlib.import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            f"no Python package {error.name}", f"install it with `pip install {backend}`"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(
            f"the Python package {backend} does not load ({error})",
            f"install it again, for this Python and NumPy: `pip install --force-reinstall {backend}`",
        ) from error
    model: ModelFile = getattr(found, opener)(path, options)
    return model
