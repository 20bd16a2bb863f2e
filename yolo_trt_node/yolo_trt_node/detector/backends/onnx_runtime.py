"""The ONNX Runtime backend: any machine, no GPU needed; with a GPU build also on CUDA or TensorRT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.card import ModelError, TensorSpec
from yolo_trt_node.detector.onnx_file import read_header
from yolo_trt_node.detector.options import LoadOptions

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_FATAL_ONLY = 4
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
_GPU_ADVICE = (
    "replace the package onnxruntime by onnxruntime-gpu (on a Jetson by NVIDIA's wheel for its JetPack), "
    "or set "
    "onnxruntime_provider to cpu"
)


class OnnxModel:
    """An ONNX file opened by ONNX Runtime.

    Attributes:
        backend: ``onnxruntime``.
        metadata: the file's ``metadata_props``.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
    """

    backend = "onnxruntime"

    def __init__(self, path: Path, options: LoadOptions) -> None:
        """Read the file without optimising the graph yet.

        Args:
            path: the ONNX file.
            options: threads, provider and precision.

        Raises:
            BackendUnavailable: this ONNX Runtime lacks the provider, or the file the precision.
            ModelError: the file is no ONNX model that this ONNX Runtime can read.
        """
        self._path = path
        self._threads = options.threads or len(os.sched_getaffinity(0))
        self._provider = options.onnxruntime_provider
        first = _PROVIDERS[options.onnxruntime_provider][0]
        if first not in onnxruntime.get_available_providers():
            raise BackendUnavailable(f"onnxruntime {onnxruntime.__version__} has no {first}", _GPU_ADVICE)
        graph = self._options()
        graph.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        probe = self._open(graph, ["CPUExecutionProvider"])
        self.metadata: Mapping[str, str] = dict(probe.get_modelmeta().custom_metadata_map)
        self.inputs = tuple(map(_spec, probe.get_inputs()))
        self.outputs = tuple(map(_spec, probe.get_outputs()))
        # The names of free dimensions, by position: what `session` pins down.
        self._free = [d if isinstance(d, str) else None for d in probe.get_inputs()[0].shape]
        self._precision = self._resolve(options.precision)

    def session(self, height: int, width: int) -> OnnxSession:
        """Compile for an input height and width in pixels.

        Free dimensions are fixed before the graph is optimised, so that ONNX Runtime folds the anchor grid
        and every shape computation to constants.

        Raises:
            BackendUnavailable: the provider does not start (a driver or CUDA library is missing).
        """
        options = self._options()
        for name, size in zip(self._free[2:], (height, width), strict=False):
            if name is not None:
                options.add_free_dimension_override_by_name(name, size)
        names = _PROVIDERS[self._provider]
        providers: list[Any] = list(names)
        if self._provider == "tensorrt":
            half = "1" if self._precision in ("fp16", "int8") else "0"
            quantised = "1" if self._precision == "int8" else "0"
            providers[0] = (names[0], {"trt_fp16_enable": half, "trt_int8_enable": quantised})
        session = self._open(options, providers)
        # ONNX Runtime falls back to the CPU without a word that a node could see.
        if session.get_providers()[0] != names[0]:
            raise BackendUnavailable(
                f"onnxruntime's {names[0]} does not start: a driver or library of CUDA, cuDNN or TensorRT "
                "is missing",
                _GPU_ADVICE,
            )
        return OnnxSession(session, self._precision)

    def close(self) -> None:
        """Nothing to give back."""

    def _resolve(self, wanted: str) -> str:
        """Return the precision in force: ONNX Runtime computes in what the file holds."""
        held = read_header(self._path).precision
        if wanted in ("auto", held) or (self._provider == "tensorrt" and wanted == "fp16"):
            # TensorRT's provider alone can turn an fp32 file into an fp16 engine.
            return held if wanted == "auto" else wanted
        raise BackendUnavailable(
            f"onnxruntime takes the precision from the ONNX file, which is {held}",
            f"export the model in {wanted}, or set precision to auto",
        )

    def _options(self) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what fails is raised, and told by us
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Spinning threads answer about 10 % sooner and burn the CPU that the rest of the drone needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _open(
        self, options: onnxruntime.SessionOptions, providers: list[Any]
    ) -> onnxruntime.InferenceSession:
        try:
            return onnxruntime.InferenceSession(str(self._path), sess_options=options, providers=providers)
        # ONNX Runtime raises a class of its own for every status code, with no common base but Exception.
        except Exception as error:
            size = self._path.stat().st_size if self._path.exists() else 0
            raise ModelError(
                f"ONNX Runtime {onnxruntime.__version__} cannot read {self._path} ({size} bytes): "
                f"{str(error).strip()}. The file is damaged, cut short, or made for a newer version: copy or "
                "export it again"
            ) from error


class OnnxSession:
    """One ONNX Runtime session for one input shape.

    Attributes:
        precision: the precision in force.
    """

    def __init__(self, session: onnxruntime.InferenceSession, precision: str) -> None:
        """Take a session of a model with one input and one output."""
        self.precision = precision
        self._session: onnxruntime.InferenceSession | None = session
        self._input = session.get_inputs()[0].name
        self._dtype = np.dtype(_DTYPES[session.get_inputs()[0].type])

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32."""
        if self._session is None:
            raise RuntimeError("the session is closed")
        (prediction,) = self._session.run(None, {self._input: batch.astype(self._dtype, copy=False)})
        return np.asarray(prediction, np.float32)

    def close(self) -> None:
        """Let ONNX Runtime's session go."""
        self._session = None


def _spec(value: onnxruntime.NodeArg) -> TensorSpec:
    shape = tuple(d if isinstance(d, int) else None for d in value.shape)
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), shape)
