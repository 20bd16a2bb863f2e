"""The TensorRT backend, for TensorRT 8.4 to 11 and TensorRT-RTX alike.

What differs between them is asked of the module itself, never of its version number: named tensors and
``execute_async_v3`` where they exist, bindings where not (here); precision flags where they exist, strongly
typed networks where not (`engine_builder`).
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector import engines
from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.backends.gpu import Buffer, FrameLoader, Gpu, Graph
from yolo_trt_node.detector.card import ModelError, TensorSpec
from yolo_trt_node.detector.engine_builder import Recipe, is_strongly_typed, load_tensorrt
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.detector.onnx_file import OnnxHeader, read_header
from yolo_trt_node.detector.options import LoadOptions
from yolo_trt_node.images.frames import Frame

_LOG = logging.getLogger(__name__)

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "UINT8": "uint8"}
# How the engine inspector of one version or another writes a tensor's type, the more specific first.
_PRECISIONS = (
    ("bf16", ("BF16", "BFLOAT16")),
    ("fp16", ("FP16", "HALF")),
    ("int8", ("INT8",)),
    ("fp8", ("FP8",)),
    ("fp32", ("FP32", "FLOAT")),
)

_ADVICE = {
    "tensorrt": (
        "on a Jetson it comes with JetPack (`sudo apt install nvidia-jetpack`; in a virtual environment "
        "create "
        "it with --system-site-packages); on a workstation `pip install tensorrt`, or NVIDIA's apt packages"
    ),
    "tensorrt_rtx": "`pip install tensorrt_rtx` (RTX GPUs of workstations; a Jetson takes the backend "
    "tensorrt)",
}


@dataclass(frozen=True)
class Target:
    """A GPU that is not here, but that engines can be built for.

    Attributes:
        name: what to call it.
        compute_capability: as in ``8.6``.
    """

    name: str
    compute_capability: str


def open_tensorrt(path: Path, backend: str, options: LoadOptions) -> OnnxOnTensorRt | EngineFile:
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


def import_tensorrt(backend: str) -> Any:
    """Import the backend's module.

    Raises:
        BackendUnavailable: it is not installed, or does not load.
    """
    try:
        return load_tensorrt(backend)
    except ModuleNotFoundError as error:
        raise BackendUnavailable(f"no Python package {error.name}", _ADVICE[backend]) from error
    except (ImportError, OSError) as error:
        # A wheel whose libraries are missing or do not fit the machine.
        raise BackendUnavailable(f"the Python package does not load ({error})", _ADVICE[backend]) from error


class OnnxOnTensorRt:
    """An ONNX file, for which an engine is built (or found in the cache) for each input shape.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt_rtx``.
        metadata: the file's ``metadata_props``.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
    """

    def __init__(self, path: Path, backend: str, trt: Any, gpu: Gpu | Target, options: LoadOptions) -> None:
        """Read the file's header; the GPU does nothing yet."""
        self.backend = backend
        self._path = path
        self._trt = trt
        self._gpu = gpu
        self._options = options
        self._header = read_header(path)
        if self._header.suppresses and backend == "tensorrt_rtx":
            # Its parser takes the operator, and its builder then fails on an assertion.
            raise BackendUnavailable(
                "TensorRT-RTX cannot run a suppression inside the graph",
                "export it with head raw (`yolo-compress export --head raw`): the node suppresses by itself",
            )
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
        try:
            engine = SharedEngine.load(self._trt, gpu, stored)
        except ModelError as error:
            # A driver update can make an engine useless that the key still calls good.
            self._cache.discard(stored, str(error))
            engine = SharedEngine.load(self._trt, gpu, self.engine(height, width))
        _tell_precision(engine, self._precision)
        return TensorRtSession(engine, height, width, cuda_graph=self._options.cuda_graph)

    def engine(self, height: int, width: int) -> engines.Engine:
        """Return the engine for an input height and width in pixels from the cache, built if need be.

        Raises:
            ModelError: the engine cannot be built, or the cache cannot be used.
        """
        fixed = self.inputs[0].shape[0]
        batches = (fixed, fixed, fixed) if fixed else (1, self._options.max_batch, self._options.max_batch)
        recipe = Recipe(
            self.backend,
            self._precision,
            height,
            width,
            batches,
            self._options.engine_workspace_mb,
            self._gpu.compute_capability,
        )
        return self._cache.get(
            engines.Order(self._path, self._header, recipe, str(self._trt.__version__), self._gpu.name)
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
        self._engine = SharedEngine.load(trt, gpu, stored)
        self.metadata = stored.metadata
        self.inputs = self._engine.inputs
        self.outputs = self._engine.outputs
        _tell_precision(self._engine, options.precision)

    def session(self, height: int, width: int) -> TensorRtSession:
        """Make a place to run the engine at an input height and width in pixels."""
        return TensorRtSession(self._engine, height, width, cuda_graph=self._options.cuda_graph)


def resolve_precision(trt: Any, backend: str, wanted: str, header: OnnxHeader) -> str:
    """Return the precision to build for.

    ``auto`` is fp16 where flags choose it, and the file's own where networks are strongly typed or the model
    is quantised.

    Raises:
        BackendUnavailable: the precision cannot be had of this file with this TensorRT.
    """
    if wanted == "int8" and not header.quantised:
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
        return "int8" if header.quantised else "fp16"
    if wanted == "bf16" and not hasattr(trt.BuilderFlag, "BF16"):
        raise BackendUnavailable(f"TensorRT {trt.__version__} knows no bf16", "set precision to fp16")
    return wanted


class SharedEngine:
    """A deserialised engine; everybody in the process who wants the same one gets this one.

    Attributes:
        gpu: where it lies.
        inputs: its inputs; ``None`` where a size is free.
        outputs: its outputs.
        batches: smallest and largest batch.
        precision: the precision that its layers have, read back from the engine.
        identity: in words which engine it is: file, checksum, what built it for which GPU.
    """

    _loaded: ClassVar[weakref.WeakValueDictionary[tuple[str, str, int], SharedEngine]] = (
        weakref.WeakValueDictionary()
    )
    _loading = threading.Lock()

    def __init__(self, trt: Any, gpu: Gpu, stored: engines.Engine) -> None:
        """Use `SharedEngine.load`."""
        self.gpu = gpu
        self._stored = stored
        self._trt = trt
        with gpu.current():
            # Kept: the engine must not outlive its runtime, nor the runtime its logger.
            self._logger = trt.Logger(trt.Logger.ERROR)
            self._runtime = trt.Runtime(self._logger)
            self._engine = self._runtime.deserialize_cuda_engine(stored.plan)
            if self._engine is None:
                raise ModelError(
                    f"TensorRT {trt.__version__} on {gpu.name} cannot load the engine {stored.path}: it "
                    "is damaged, or "
                    "was made by another TensorRT or for another GPU; give the ONNX file, from which it "
                    "can be built"
                )
            self.inputs, self.outputs = self._read_tensors()
            self.batches = self._read_batches()
            self.precision = read_precision(trt, self._engine)
        made = (stored.made_by.get(key) for key in ("version", "gpu"))
        self.identity = ", ".join(filter(None, (stored.path.name, f"sha256 {stored.sha256[:16]}", *made)))
        self._contexts = 0

    @classmethod
    def load(cls, trt: Any, gpu: Gpu, stored: engines.Engine) -> SharedEngine:
        """Deserialise an engine, or return the one that is loaded already.

        Raises:
            ModelError: TensorRT does not take it.
        """
        key = (trt.__name__, stored.sha256, os.getpid())
        with cls._loading:
            engine = cls._loaded.get(key)
            if engine is None:
                engine = cls(trt, gpu, stored)
                cls._loaded[key] = engine
            return engine

    def lease(self) -> tuple[SharedEngine, Any]:
        """Create an execution context; call it inside `Gpu.current`, and `give_back` the engine afterwards.

        Before TensorRT 10 two contexts cannot use one optimisation profile at a time. An engine with a free
        batch then serves one context, and the next gets a copy of the engine; a static engine has no profile
        to quarrel about.

        Returns:
            The engine that the context belongs to, and the context.

        Raises:
            ModelError: TensorRT cannot, most likely for lack of memory.
        """
        profile = self.batches[0] != self.batches[1] or None in self.inputs[0].shape
        with self._loading:
            exclusive = profile and hasattr(self._engine, "num_bindings")
            owner = SharedEngine(self._trt, self.gpu, self._stored) if exclusive and self._contexts else self
            context = owner._engine.create_execution_context()
            if context is None:
                raise ModelError(
                    f"TensorRT cannot create an execution context for {self._stored.path}: most likely "
                    "the GPU's "
                    "memory is full; lower engine_workspace_mb or max_batch"
                )
            owner._contexts += 1
        return owner, context

    def give_back(self) -> None:
        """Say that a context of this engine is gone."""
        with self._loading:
            self._contexts -= 1

    def binding(self, name: str) -> int:
        """Return the number of a tensor, where tensors have numbers."""
        return int(self._engine.get_binding_index(name))

    @property
    def named_tensors(self) -> bool:
        """Whether tensors go by name (TensorRT 8.5 and later) or by the number of their binding."""
        return hasattr(self._engine, "num_io_tensors")

    def _read_tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        engine, found = self._engine, []
        if self.named_tensors:
            for index in range(engine.num_io_tensors):
                name = engine.get_tensor_name(index)
                is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
                found.append(
                    (is_input, _spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name)))
                )
        else:
            for index in range(engine.num_bindings):
                name = engine.get_binding_name(index)
                found.append(
                    (
                        engine.binding_is_input(index),
                        _spec(name, engine.get_binding_dtype(index), engine.get_binding_shape(index)),
                    )
                )
        return (
            tuple(spec for is_input, spec in found if is_input),
            tuple(spec for is_input, spec in found if not is_input),
        )

    def _read_batches(self) -> tuple[int, int]:
        image = self.inputs[0]
        if image.shape[0] is not None:
            return image.shape[0], image.shape[0]
        if self.named_tensors:
            smallest, _, largest = self._engine.get_tensor_profile_shape(image.name, 0)
        else:
            smallest, _, largest = self._engine.get_profile_shape(0, image.name)
        return int(smallest[0]), int(largest[0])


def read_precision(trt: Any, engine: Any) -> str:
    """Read from an engine which precision its layers compute in, as ``fp16 (58 of 63 layers, 5 fp32)``.

    What was asked for is no answer: a builder may ignore it. Engines built without layer details, as those of
    Ultralytics, do not tell.
    """
    inspector = engine.create_engine_inspector()
    layers = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON)).get("Layers", [])
    counts: Counter[str] = Counter()
    for layer in layers:
        if not isinstance(layer, dict):
            continue
        texts = [str(output.get("Format/Datatype", "")).upper() for output in layer.get("Outputs", [])]
        for precision, spellings in _PRECISIONS:
            if any(spelling in text for spelling in spellings for text in texts):
                counts[precision] += 1
                break
    if not counts:
        return "unknown (the engine was built without layer details)"
    (precision, most), *rest = counts.most_common()
    others = "".join(f", {number} {name}" for name, number in rest)
    return f"{precision} ({most} of {sum(counts.values())} layers{others})"


def _tell_precision(engine: SharedEngine, wanted: str) -> None:
    if engine.precision.startswith("unknown") or wanted == "auto" or wanted in engine.precision:
        _LOG.info("the engine's layers are %s", engine.precision)
    else:
        _LOG.warning("asked for %s, but the engine's layers are %s", wanted, engine.precision)


class _Held:
    """What a session holds on the GPU; it is given back in one place, with the CUDA context current."""

    def __init__(self, engine: SharedEngine) -> None:
        """Create stream and execution context; call it inside `Gpu.current`."""
        self.gpu = engine.gpu
        self.engine, self.context = engine.lease()
        self.stream: Any = self.gpu.driver.Stream()
        self.graph: Graph | None = None
        self.parts: list[FrameLoader | Buffer] = []

    def release(self) -> None:
        """Give all back; in any thread, also at the end of the process."""
        # In a fork nothing of it is ours, and CUDA would only answer with an error.
        with contextlib.suppress(RuntimeError), self.gpu.current():
            self.stream.synchronize()
            if self.graph is not None:
                self.graph.free()
            for part in self.parts:
                part.free()
            # Only the references end TensorRT's and pycuda's objects, and they need the context as well.
            self.graph = self.context = self.stream = None
            self.parts = []
            self.engine.give_back()


class TensorRtSession:
    """An execution context with its stream and buffers, for one input height and width.

    Attributes:
        precision: the precision that the engine really has.
        identity: which engine it runs, in words.
        infer_frames: takes frames straight from the camera where the letterbox kernel compiles, else
            ``None``.
    """

    def __init__(self, engine: SharedEngine, height: int, width: int, *, cuda_graph: bool) -> None:
        """Create the context and allocate for the largest batch."""
        self.precision = engine.precision
        self.identity = engine.identity
        self._gpu = gpu = engine.gpu
        self._graphs_wanted = cuda_graph
        self._smallest, self._largest = engine.batches
        self._shaped_for = 0
        self._warm = False
        self._uncaptured = 0
        self._turn = threading.Lock()
        image, prediction = engine.inputs[0], engine.outputs[0]
        self._names = (image.name, prediction.name)
        self._size = (height, width)
        for side, have, want in zip(("height", "width"), image.shape[2:], self._size, strict=True):
            if have not in (None, want):
                raise ModelError(f"the engine's input {side} is fixed at {have}, not {want}")
        with gpu.current():
            self._held = held = _Held(engine)
            # At the end of the process too, before pycuda and TensorRT go.
            self._close = weakref.finalize(self, held.release)
            self._named = engine.named_tensors
            self._numbers = (
                (0, 0) if self._named else (engine.binding(image.name), engine.binding(prediction.name))
            )
            shape = self._shape_for(self._largest)
            self._input = gpu.buffer((self._largest, 3, height, width), np.dtype(image.dtype))
            held.parts.append(self._input)
            self._output = gpu.buffer(shape, np.dtype(prediction.dtype))
            held.parts.append(self._output)
            if self._named:
                held.context.set_tensor_address(image.name, self._input.pointer)
                held.context.set_tensor_address(prediction.name, self._output.pointer)
            kernel = gpu.kernel()
            self._loader = FrameLoader(gpu, kernel) if kernel is not None else None
            if self._loader is not None:
                held.parts.append(self._loader)
        self.infer_frames: Callable[..., NDArray[np.float32]] | None = (
            self._infer_frames if self._loader is not None else None
        )

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32.

        More images than the engine takes at once run in parts. The prediction is a view of a buffer that the
        next call overwrites.

        Raises:
            RuntimeError: another thread is using the session, or TensorRT or CUDA fail.
        """

        def fill(start: int, count: int) -> None:
            np.copyto(self._input.host[:count], batch[start : start + count], casting="same_kind")
            self._input.upload(count, self._held.stream)

        return self._run(len(batch), fill)

    def _infer_frames(
        self,
        frames: Sequence[Frame],
        layouts: Sequence[Letterbox],
        colour: tuple[int, int, int],
        channels: str,
        scale: float,
    ) -> NDArray[np.float32]:
        """Letterbox frames on the GPU and run them; return the prediction, N first, float32.

        Args:
            frames: N frames.
            layouts: where each lies in the network's input.
            colour: padding, three 8-bit values in the order blue, green, red.
            channels: the tensor's channel order, ``RGB`` or ``BGR``.
            scale: factor from 8-bit values to the tensor's values.
        """
        loader = self._loader
        if loader is None:
            raise RuntimeError("the letterbox kernel is not compiled; use infer")

        def fill(start: int, count: int) -> None:
            loader.load(
                frames[start : start + count],
                layouts[start : start + count],
                self._input,
                self._held.stream,
                colour=colour,
                channels=channels,
                scale=scale,
            )

        return self._run(len(frames), fill)

    def close(self) -> None:
        """Give context, buffers and stream back; the engine goes with its last session."""
        self._close()

    def _run(self, number: int, fill: Callable[[int, int], None]) -> NDArray[np.float32]:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError(
                "a session serves one thread at a time; load a Detector for each thread, they share the "
                "engine"
            )
        try:
            if not self._close.alive:
                raise RuntimeError("the session is closed")
            parts = []
            for start in range(0, number, self._largest):
                count = min(self._largest, number - start)
                with self._gpu.current():
                    fill(start, count)
                    # A static engine runs its full batch; what lies in the other places is not looked at.
                    self._execute(max(count, self._smallest))
                    self._held.stream.synchronize()
                prediction = np.asarray(self._output.host[:count], np.float32)
                parts.append(prediction if number <= self._largest else prediction.copy())
            return parts[0] if len(parts) == 1 else np.concatenate(parts)
        finally:
            self._turn.release()

    def _execute(self, count: int) -> None:
        """Queue the network and the way back of its prediction."""
        if count != self._shaped_for:
            if self._warm and self._held.graph is None and self._graphs_wanted:
                self._uncaptured += 1
                # The first time it is the step from the warm-up to the work.
                if self._uncaptured == 2:
                    _LOG.info(
                        "batches of %d and %d take turns, and run without a CUDA graph: set max_batch so "
                        "that all views of an image fit into one",
                        self._shaped_for,
                        count,
                    )
            self._shape_for(count)
            self._warm = False
        elif self._warm and self._held.graph is None and self._graphs_wanted:
            self._capture(count)
        if self._held.graph is not None:
            self._held.graph.launch()
        else:
            self._queue(count)
            # TensorRT must have run once at a shape before it can be captured.
            self._warm = True

    def _queue(self, count: int) -> None:
        context, stream = self._held.context, self._held.stream
        if self._named:
            done = context.execute_async_v3(stream.handle)
        else:
            pointers = sorted(zip(self._numbers, (self._input.pointer, self._output.pointer), strict=True))
            done = context.execute_async_v2([pointer for _, pointer in pointers], stream.handle)
        if not done:
            raise RuntimeError("TensorRT could not queue the network; its reason stands in the log above")
        self._output.download(count, stream)

    def _capture(self, count: int) -> None:
        try:
            self._held.graph = Graph(self._held.stream, lambda: self._queue(count))
        except (RuntimeError, OSError) as error:
            self._graphs_wanted = False
            _LOG.warning("running without a CUDA graph: the network could not be captured (%s)", error)
            # What was queued before goes on; a stream that failed to capture may take nothing more.
            self._held.stream.synchronize()
            self._held.stream = self._gpu.driver.Stream()

    def _shape_for(self, count: int) -> tuple[int, ...]:
        """Set the context's batch size and return the prediction's shape."""
        held = self._held
        shape = (count, 3, *self._size)
        # A graph is bound to the shape it was captured with.
        if held.graph is not None:
            held.graph.free()
            held.graph = None
        if self._named:
            taken = held.context.set_input_shape(self._names[0], shape)
            found = tuple(held.context.get_tensor_shape(self._names[1]))
        else:
            taken = held.context.set_binding_shape(self._numbers[0], shape)
            found = tuple(held.context.get_binding_shape(self._numbers[1]))
        if not taken:
            raise ModelError(f"the engine does not take an input of shape {list(shape)}")
        if any(size < 1 for size in found):
            raise ModelError(
                f"the engine's output {list(found)} has a size that depends on the image; export the "
                "model with "
                "nms=False"
            )
        self._shaped_for = count
        return found


def _spec(name: str, dtype: Any, shape: Sequence[int]) -> TensorSpec:
    known = _DTYPES.get(dtype.name, dtype.name.lower())
    return TensorSpec(name, known, tuple(None if size < 0 else int(size) for size in shape))
