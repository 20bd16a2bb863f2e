"""Engines in GPU memory: deserialised once a process, given back with their last session."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import weakref
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

from yolo_trt_node.detector import engines
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.card import ModelError, TensorSpec

_LOG = logging.getLogger(__name__)

_DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "UINT8": "uint8"}
# How the engine inspector of one version or another writes a tensor's type, the more specific first. "INT8"
# also ends "UINT8", the type of images that are cast inside the network.
_PRECISIONS = (
    ("other", ("UINT8", "INT32", "INT64", "BOOL")),
    ("bf16", ("BF16", "BFLOAT16")),
    ("fp16", ("FP16", "HALF")),
    ("int8", ("INT8",)),
    ("fp8", ("FP8",)),
    ("fp32", ("FP32", "FLOAT")),
)


class _Loaded:
    """TensorRT's objects of an engine. They end in one place, with the CUDA context current."""

    def __init__(self, trt: Any, gpu: Gpu, plan: memoryview) -> None:
        """Deserialise; call it inside `Gpu.current`. Where TensorRT refuses, ``engine`` is ``None``."""
        self._gpu = gpu
        # Kept: the engine must not outlive its runtime, nor the runtime its logger.
        self.logger = trt.Logger(trt.Logger.ERROR)
        # An engine with one of NVIDIA's plugins is refused where they are not registered.
        trt.init_libnvinfer_plugins(self.logger, "")
        self.runtime = trt.Runtime(self.logger)
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        self.config: Any = None
        self.cache: Any = None

    def release(self) -> None:
        """End the objects, in any thread. It takes no lock: the garbage collector may have called it."""
        # In a fork nothing of it is ours, and CUDA would only answer with an error.
        with contextlib.suppress(RuntimeError), self._gpu.current():
            self.cache = self.config = self.engine = self.runtime = self.logger = None


class SharedEngine:
    """A deserialised engine; everybody in the process who wants the same one gets this one.

    Attributes:
        gpu: where it lies.
        inputs: its inputs; ``None`` where a size is free.
        outputs: its outputs.
        batches: smallest and largest batch.
        precision: the precision that its layers have, read back from the engine.
        identity: in words which engine it is: file, checksum, what built it for which GPU.
        captures_itself: the runtime makes CUDA graphs of its own (TensorRT-RTX with a free batch).
        scratch_bytes: device memory that an execution context needs while it runs.
    """

    _loaded: ClassVar[weakref.WeakValueDictionary[tuple[str, str, int], SharedEngine]] = (
        weakref.WeakValueDictionary()
    )
    # Never taken by what a finaliser calls: the collector may run one inside `load`, in the same thread.
    _loading = threading.Lock()

    def __init__(
        self, trt: Any, gpu: Gpu, stored: engines.SerializedEngine, *, trust: bool, graphs: bool
    ) -> None:
        """Use `SharedEngine.load`."""
        self.gpu = gpu
        self._stored = stored
        self._trt = trt
        self._saved = 0
        self.captures_itself = False
        with gpu.current():
            self._objects = _Loaded(trt, gpu, stored.plan)
            self._release = weakref.finalize(self, self._objects.release)
            engine = self._objects.engine
            if engine is None:
                raise ModelError(
                    f"TensorRT {trt.__version__} on {gpu.name} cannot load the engine {stored.path}: it "
                    "is damaged, or was made by another TensorRT or for another GPU; give the ONNX file, "
                    "from which it can be built"
                )
            self.inputs, self.outputs = self._read_tensors()
            self.batches = self._read_batches()
            self.precision = read_precision(trt, engine)
            self.scratch_bytes = int(engine.device_memory_size_v2)
            self._configure(trust=trust, graphs=graphs)
        made = (stored.made_by.get(key) for key in ("version", "gpu"))
        self.identity = ", ".join(filter(None, (stored.path.name, f"sha256 {stored.sha256[:16]}", *made)))

    @classmethod
    def load(
        cls, trt: Any, gpu: Gpu, stored: engines.SerializedEngine, *, trust: bool = False, graphs: bool = True
    ) -> SharedEngine:
        """Deserialise an engine, or return the one that is loaded already.

        Args:
            trt: the TensorRT module.
            gpu: where to.
            stored: the engine.
            trust: take a runtime cache beside it although others could have written it.
            graphs: CUDA graphs are wanted.

        Raises:
            ModelError: TensorRT does not take it.
        """
        key = (f"{trt.__name__} {graphs}", stored.sha256, os.getpid())
        with cls._loading:
            engine = cls._loaded.get(key)
            if engine is None:
                engine = cls(trt, gpu, stored, trust=trust, graphs=graphs)
                cls._loaded[key] = engine
            return engine

    def context(self) -> Any:
        """Create an execution context that uses memory given to it; call it inside `Gpu.current`.

        Contexts share the engine's weights and, where they never run at the same time, the memory that they
        are given too.

        Raises:
            ModelError: TensorRT cannot, most likely for lack of memory.
        """
        objects = self._objects
        if objects.config is not None:
            context = objects.engine.create_execution_context(objects.config)
        else:
            strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
            context = objects.engine.create_execution_context(strategy)
        if context is None:
            raise ModelError(
                f"TensorRT cannot create an execution context for {self._stored.path}: most likely the GPU's "
                "memory is full; lower engine_workspace_mb or max_batch"
            )
        return context

    def save_runtime_cache(self) -> None:
        """Keep what TensorRT-RTX has compiled since the last call beside the engine, for the next start.

        Call it inside `Gpu.current`, with nothing queued. A folder that cannot be written costs the next
        start its compilation, and no more.
        """
        if self._objects.cache is None:
            return
        content = bytes(memoryview(self._objects.cache.serialize()))
        if len(content) == self._saved:
            return
        self._saved = len(content)
        try:
            engines.write_runtime_cache(self._stored.path, content)
        except OSError as error:
            _LOG.info("the kernels compiled for %s are not kept (%s)", self._stored.path.name, error)

    def _configure(self, *, trust: bool, graphs: bool) -> None:
        """Set up what TensorRT-RTX alone has: a cache of the kernels that it compiles where it runs."""
        objects, trt = self._objects, self._trt
        config = objects.engine.create_runtime_config() if hasattr(trt, "IRuntimeCache") else None
        if config is None:
            return
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = config.create_runtime_cache()
        known = engines.read_runtime_cache(self._stored.path, trust=trust)
        if known and cache.deserialize(known):
            self._saved = len(known)
        elif known:
            _LOG.info("the kernels kept for %s do not fit this machine any more", self._stored.path.name)
        if not config.set_runtime_cache(cache):
            _LOG.info("TensorRT-RTX takes no runtime cache: it compiles its kernels at every start")
            cache = None
        if self.batches[0] != self.batches[1]:
            # All kernels of a batch size at its first run, which is the warm-up, and none behind the back of
            # a flight; the graphs are then RTX's own, since it knows when its kernels change.
            strategies = trt.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
            if graphs:
                config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self.captures_itself = graphs
        objects.config, objects.cache = config, cache

    def _read_tensors(self) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        engine, found = self._objects.engine, []
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            is_input = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            spec = _spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
            found.append((is_input, spec))
        return (
            tuple(spec for is_input, spec in found if is_input),
            tuple(spec for is_input, spec in found if not is_input),
        )

    def _read_batches(self) -> tuple[int, int]:
        image = self.inputs[0]
        if image.shape[0] is not None:
            return image.shape[0], image.shape[0]
        smallest, _, largest = self._objects.engine.get_tensor_profile_shape(image.name, 0)
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
    del counts["other"]
    if not counts:
        return "unknown (the engine was built without layer details)"
    (precision, most), *rest = counts.most_common()
    others = "".join(f", {number} {name}" for name, number in rest)
    return f"{precision} ({most} of {sum(counts.values())} layers{others})"


def tell_precision(engine: SharedEngine, wanted: str) -> None:
    """Say in the log which precision an engine has, and warn where it is not the one asked for."""
    # "fp16" also stands in "fp32 (40 of 63 layers, 23 fp16)": only the first word is the answer.
    if engine.precision.split()[0] in ("unknown", wanted) or wanted == "auto":
        _LOG.info("the engine's layers are %s", engine.precision)
    else:
        _LOG.warning("asked for %s, but the engine's layers are %s", wanted, engine.precision)


def _spec(name: str, dtype: Any, shape: Sequence[int]) -> TensorSpec:
    known = _DTYPES.get(dtype.name, dtype.name.lower())
    return TensorSpec(name, known, tuple(None if size < 0 else int(size) for size in shape))
