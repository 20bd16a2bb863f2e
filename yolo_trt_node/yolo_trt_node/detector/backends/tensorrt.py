"""The TensorRT backend, for TensorRT from 10.1 on and TensorRT-RTX alike.

What differs between them is asked of the module itself, not of its version number: precision flags where they
exist, strongly typed networks where not (`engine_builder`); a runtime cache where there is one
(`tensorrt_engine`). Only what is too old to be served at all is told by its number.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from yolo_trt_node.detector import engines
from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.backends.tensorrt_engine import SharedEngine, tell_precision
from yolo_trt_node.detector.backends.tensorrt_session import TensorRtSession
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.engine_builder import BuildSpec, is_strongly_typed, load_tensorrt
from yolo_trt_node.detector.onnx_file import OnnxHeader, read_header
from yolo_trt_node.detector.options import LoadOptions
from yolo_trt_node.detector.suppression_cut import cut_suppression

_LOG = logging.getLogger(__name__)

OLDEST = (10, 1)
"""The oldest TensorRT that is served: JetPack 6.1 has 10.3. Those before 10 have another interface."""

_ADVICE = {
    "tensorrt": (
        "on a Jetson it comes with JetPack 6.1 or later (`sudo apt install nvidia-jetpack`; in a virtual "
        "environment create it with --system-site-packages); on a workstation `pip install tensorrt`, or "
        "NVIDIA's apt packages"
    ),
    "tensorrt_rtx": "`pip install tensorrt_rtx` (RTX GPUs of workstations; a Jetson takes the backend "
    "tensorrt)",
}


@dataclass(frozen=True)
class TargetDevice:
    """A GPU that is not here, but that engines can be built for.

    Attributes:
        name: what to call it.
        compute_capability: as in ``8.6``.
    """

    name: str
    compute_capability: str
    multiprocessors: ClassVar[int] = 0


def open_tensorrt(path: Path, options: LoadOptions, backend: str = "tensorrt") -> OnnxOnTensorRt | EngineFile:
    """Open an ONNX file or an engine with ``tensorrt`` or ``tensorrt_rtx``.

    Raises:
        BackendUnavailable: TensorRT, pycuda, the driver or a GPU is missing, or the precision is none of its.
        ModelError: the file cannot be used.
    """
    gpu = Gpu.open()
    trt = import_tensorrt(backend)
    if path.suffix in engines.SUFFIXES:
        return EngineFile(path, backend, trt, gpu, options)
    return OnnxOnTensorRt(path, backend, trt, gpu, options)


def open_tensorrt_rtx(path: Path, options: LoadOptions) -> OnnxOnTensorRt | EngineFile:
    """Open a file with ``tensorrt_rtx``; see `open_tensorrt`."""
    return open_tensorrt(path, options, "tensorrt_rtx")


def import_tensorrt(backend: str) -> Any:
    """Import the backend's module.

    Raises:
        BackendUnavailable: it is not installed, does not load, or is too old.
    """
    try:
        trt = load_tensorrt(backend)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"no Python package {error.name}", _ADVICE[backend]) from error
    except (ImportError, OSError) as error:
        # A wheel whose libraries are missing or do not fit the machine.
        raise BackendUnavailable(f"the Python package does not load ({error})", _ADVICE[backend]) from error
    found = tuple(map(int, re.findall(r"\d+", str(trt.__version__))[:2]))
    if backend == "tensorrt" and found < OLDEST:
        raise BackendUnavailable(
            f"TensorRT {trt.__version__} is too old: {OLDEST[0]}.{OLDEST[1]} or later is needed",
            _ADVICE[backend],
        )
    return trt


class OnnxOnTensorRt:
    """An ONNX file, for which an engine is built (or found in the cache) for each input shape.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt_rtx``.
        metadata: the file's ``metadata_props``.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
    """

    def __init__(
        self, path: Path, backend: str, trt: Any, gpu: Gpu | TargetDevice, options: LoadOptions
    ) -> None:
        """Read the file's header; the GPU does nothing yet."""
        self.backend = backend
        self._path = path
        self._trt = trt
        self._gpu = gpu
        self._options = options
        self._header = read_header(path)
        self._cut: bytes | None = None
        if self._header.suppresses:
            # TensorRT-RTX has no such operator, and TensorRT's answer would have a size that depends on the
            # image: minutes of building for nothing. The node suppresses by itself.
            self._cut, self._header = cut_suppression(path, self._header)
            _LOG.info("the suppression inside %s is left out: the node suppresses by itself", path.name)
        self.metadata: Mapping[str, str] = self._header.metadata
        self.inputs = self._header.inputs
        self.outputs = self._header.outputs
        self._precision = resolve_precision(trt, backend, options.precision, self._header)
        folder = Path(options.engine_cache) if options.engine_cache else None
        self._cache = engines.EngineCache(folder, trust=options.trust_engines)

    def session(self, height: int, width: int) -> TensorRtSession:
        """Get the engine for an input height and width in pixels, and a place to run it.

        Raises:
            ModelError: the engine cannot be built, or the cache cannot be used.
        """
        gpu = self._gpu
        if not isinstance(gpu, Gpu):
            raise ModelError(f"this is no {gpu.name}: engines can be built for it here, but not run")
        stored = self.engine(height, width)
        graphs, trust = self._options.cuda_graph, self._options.trust_engines
        try:
            engine = SharedEngine.load(self._trt, gpu, stored, trust=trust, graphs=graphs)
        except ModelError as error:
            # A driver update can make an engine useless that the key still calls good.
            self._cache.discard(stored, str(error))
            stored = self.engine(height, width)
            engine = SharedEngine.load(self._trt, gpu, stored, trust=trust, graphs=graphs)
        tell_precision(engine, self._precision)
        return TensorRtSession(engine, height, width, cuda_graph=graphs)

    def close(self) -> None:
        """Nothing to give back: engines belong to their sessions."""

    def engine(self, height: int, width: int) -> engines.SerializedEngine:
        """Return the engine for an input height and width in pixels from the cache, built if need be.

        Raises:
            ModelError: the engine cannot be built, or the cache cannot be used.
        """
        fixed = self.inputs[0].shape[0]
        batches = (fixed, fixed, fixed) if fixed else (1, self._options.max_batch, self._options.max_batch)
        recipe = BuildSpec(
            self.backend,
            self._precision,
            height,
            width,
            batches,
            self._options.engine_workspace_mb,
            self._gpu.compute_capability,
        )
        return self._cache.get(
            engines.EngineRequest(
                self._path,
                self._header,
                recipe,
                str(self._trt.__version__),
                self._gpu.name,
                self._gpu.multiprocessors,
                self._cut,
            )
        )


class EngineFile:
    """An engine that the user names, ours or an Ultralytics export.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt_rtx``.
        metadata: the metadata of the model that it was built from.
        inputs: the engine's inputs; every size in them is fixed, but perhaps the batch.
        outputs: the engine's outputs.
    """

    def __init__(self, path: Path, backend: str, trt: Any, gpu: Gpu, options: LoadOptions) -> None:
        """Load the engine, which alone knows its tensors."""
        self.backend = backend
        self._options = options
        stored = engines.read_engine_file(path, trust=options.trust_engines)
        made_with = stored.made_by.get("backend", backend)
        if made_with != backend:
            raise BackendUnavailable(
                f"{path.name} is an engine of {made_with}", f"set backend to {made_with}"
            )
        engine = SharedEngine.load(trt, gpu, stored, trust=options.trust_engines, graphs=options.cuda_graph)
        self._engine: SharedEngine | None = engine
        self.metadata = stored.metadata
        self.inputs = engine.inputs
        self.outputs = engine.outputs
        tell_precision(engine, options.precision)

    def session(self, height: int, width: int) -> TensorRtSession:
        """Make a place to run the engine at an input height and width in pixels.

        Raises:
            RuntimeError: the file is closed.
        """
        if self._engine is None:
            raise RuntimeError("the engine is closed")
        return TensorRtSession(self._engine, height, width, cuda_graph=self._options.cuda_graph)

    def close(self) -> None:
        """Let the engine go; it ends with its last session."""
        self._engine = None


def resolve_precision(trt: Any, backend: str, wanted: str, header: OnnxHeader) -> str:
    """Return the precision to build for.

    ``auto`` is fp16 where flags choose it, and the file's own where networks are strongly typed or the model
    is quantised.

    Raises:
        BackendUnavailable: the precision cannot be had of this file with this TensorRT.
    """
    if wanted == "int8" and not header.quantized:
        raise BackendUnavailable(
            "int8 needs a quantised model", "make one by `yolo-compress export --precision int8`"
        )
    if is_strongly_typed(trt):
        if wanted not in ("auto", header.precision):
            raise BackendUnavailable(
                f"{backend} {trt.__version__} takes the precision from the ONNX file, which is "
                f"{header.precision}",
                f"export the model in {wanted}, or set precision to auto",
            )
        return header.precision
    if wanted == "auto":
        return "int8" if header.quantized else "fp16"
    return wanted
