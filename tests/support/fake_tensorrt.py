"""A TensorRT without a GPU, as strict as the real one: 10, 11 and TensorRT-RTX, executed by ONNX Runtime.

What a version does not have does not exist here either (`test_bindings` holds it to the real ones). Engines
are JSON and remember how they were built. GPU memory that TensorRT takes by itself counts as allocated, and
what ends outside a CUDA context is noted in ``frees_outside_context``.

``FAKE_TENSORRT`` in the environment names the version, so that the builder's process gets the same one;
``FAKE_TENSORRT_BUILD`` makes its builder fail: ``refuse``, ``crash``, ``killed``, or ``slow`` (one second;
``slow 30`` takes thirty).
"""

from __future__ import annotations

import base64
import enum
import functools
import json
import os
import signal
import time
from pathlib import Path

import numpy as np

VERSIONS = ("10.3.0", "11.4.0")
RTX = "1.7.1.116"
SCRATCH_BYTES = 4096

_MAGIC = b"fake engine "
_NP = {"FLOAT": np.float32, "HALF": np.float16}


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


class MemoryPoolType(enum.Enum):
    WORKSPACE = 0


class ProfilingVerbosity(enum.Enum):
    LAYER_NAMES_ONLY = 0
    DETAILED = 2


class LayerInformationFormat(enum.Enum):
    ONELINE = 0
    JSON = 1


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    USER_MANAGED = 2


class ComputeCapability(enum.Enum):
    CURRENT = 0
    SM86 = 86
    SM120 = 120


class CudaGraphStrategy(enum.Enum):
    DISABLED = 0
    WHOLE_GRAPH_CAPTURE = 1


class DynamicShapesKernelSpecializationStrategy(enum.Enum):
    LAZY = 0
    EAGER = 1


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def __init__(self) -> None:
        self.initialized = True


class Logger(ILogger):
    ERROR = ILogger.Severity.ERROR

    def __init__(self, severity: ILogger.Severity) -> None:
        super().__init__()

    def log(self, severity: ILogger.Severity, message: str) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        self.initialized = True


class IHostMemory(bytes):
    @property
    def nbytes(self) -> int:
        return len(self)


class ITensor:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name = name
        self.shape = shape


class INetworkDefinition:
    def __init__(self) -> None:
        self._model = b""
        self._inputs: list[ITensor] = []

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class ParserError:
    def __init__(self, text: str) -> None:
        self._text = text

    def desc(self) -> str:
        return self._text


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network = network
        self._errors: list[ParserError] = []

    def parse_from_file(self, path: str) -> bool:
        try:
            import onnx

            content = Path(path).read_bytes()
            model = onnx.load_from_string(content)
            onnx.checker.check_model(model)
        except Exception as error:
            self._errors.append(ParserError(f"cannot parse: {error}"))
            return False
        (image,) = model.graph.input
        shape = tuple(d.dim_value or -1 for d in image.type.tensor_type.shape.dim)
        self._network._model = content
        self._network._inputs = [ITensor(image.name, shape)]
        return True

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]


class IOptimizationProfile:
    def __init__(self) -> None:
        self._shapes: dict[str, list] = {}

    def set_shape(self, name: str, smallest, usual, largest) -> None:
        assert all(a <= b <= c for a, b, c in zip(smallest, usual, largest, strict=True))
        self._shapes[name] = [list(smallest), list(usual), list(largest)]


class ITimingCache:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._content)


class _Config:
    def __init__(self, version: str) -> None:
        self._version = version
        self._flags: set[str] = set()
        self._memory: dict[str, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._known_timings = 0
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY
        self.progress_monitor: IProgressMonitor | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self._memory[pool.name] = size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

    def set_flag(self, flag: enum.Enum) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: enum.Enum) -> None:
        self._flags.discard(flag.name)


class IBuilderConfig(_Config):
    """That of TensorRT."""

    def create_timing_cache(self, content: bytes) -> ITimingCache:
        return ITimingCache(content)

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        mark = f"timings of {self._version}".encode()
        if cache._content and not cache._content.startswith(mark):
            return False
        self._known_timings = cache._content.count(b"\n")
        cache._content = cache._content or mark
        self._cache = cache
        return True


class _RtxConfig(_Config):
    """That of TensorRT-RTX, which builds for other GPUs too; its timing cache does nothing but warn."""

    num_compute_capabilities = 0

    def set_compute_capability(self, capability: ComputeCapability, index: int) -> None:
        assert index < self.num_compute_capabilities
        self._capability = capability


class Builder:
    _version = ""
    _config: type[_Config] = IBuilderConfig

    def __init__(self, logger: ILogger) -> None:
        assert logger.initialized, "the base class's __init__ was not called"
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1, "neither explicit batch nor strongly typed"
        return INetworkDefinition()

    def create_builder_config(self) -> _Config:
        return self._config(self._version)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: _Config) -> IHostMemory | None:
        wish = os.environ.get("FAKE_TENSORRT_BUILD", "")
        if wish == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if wish == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if wish.startswith("slow"):
            time.sleep(float(wish.removeprefix("slow") or 1))
        if wish == "refuse":
            self._logger.log(ILogger.Severity.ERROR, "no implementation found for node Conv_3")
            return None
        image = network.get_input(0)
        shapes = [profile._shapes for profile in config._profiles]
        if -1 in image.shape and not shapes:
            self._logger.log(ILogger.Severity.ERROR, "a dynamic input needs an optimisation profile")
            return None
        if config.progress_monitor is not None:
            assert config.progress_monitor.initialized
            config.progress_monitor.phase_start("Building", None, 1)
            config.progress_monitor.step_complete("Building", 0)
            config.progress_monitor.phase_finish("Building")
        if config._cache is not None:
            config._cache._content += b"\nconv 1 ms"
        facts = {
            "version": self._version,
            "input": list(image.shape),
            "profiles": shapes,
            "flags": sorted(config._flags),
            "memory": config._memory,
            "timings_known": config._known_timings,
            "detailed": config.profiling_verbosity is ProfilingVerbosity.DETAILED,
            "model": base64.b64encode(network._model).decode(),
        }
        return IHostMemory(_MAGIC + json.dumps(facts).encode())


class Runtime:
    _version = ""
    _engine: type

    def __init__(self, logger: ILogger) -> None:
        assert logger.initialized

    def deserialize_cuda_engine(self, plan):
        from pycuda import driver

        driver.require_context("deserialize_cuda_engine")
        plan = bytes(plan)
        if not plan.startswith(_MAGIC):
            return None
        facts = json.loads(plan[len(_MAGIC) :])
        driver.calls.append("deserialize")
        return self._engine(facts) if facts["version"] == self._version else None


def init_libnvinfer_plugins(logger: object, namespace: str) -> bool:
    return True


# A YOLOv8 engine of detailed verbosity lists some 250 layers, with a few hundred bytes each.
LAYERS = 250


class EngineInspector:
    def __init__(self, facts: dict) -> None:
        self._facts = facts

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form is LayerInformationFormat.JSON
        if not self._facts["detailed"]:
            return json.dumps({"Layers": [f"conv_{index}" for index in range(LAYERS)]})
        kind = "Half" if "FP16" in self._facts["flags"] else "Float"
        return json.dumps({"Layers": [_layer(index, kind) for index in range(LAYERS)], "Bindings": []})


def _layer(index: int, kind: str) -> dict:
    """A layer as the inspector of TensorRT 10 writes it."""
    tensor = {"Location": "Device", "Dimensions": [1, 64, 48, 80], "Format/Datatype": kind}
    name = f"/model.{index}/conv/Conv + PWN(PWN(/model.{index}/act/Sigmoid), /model.{index}/act/Mul)"
    return {
        "Name": name,
        "LayerType": "CaskConvolution",
        "Inputs": [{"Name": f"/model.{index - 1}/act/Mul_output_0", **tensor}],
        "Outputs": [{"Name": f"/model.{index}/act/Mul_output_0", **tensor}],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "PaddingMode": "kEXPLICIT_ROUND_DOWN",
        "Stride": [1, 1],
        "OutMaps": 64,
        "Groups": 1,
        "Weights": {"Type": kind, "Count": 36864},
        "Bias": {"Type": kind, "Count": 64},
        "Activation": "SWISH",
        "TacticName": f"sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x64_{index}",
        "TacticValue": f"0x{index:016x}",
        "Metadata": f"[ONNX Layer: /model.{index}/conv/Conv]",
    }


def facts_of(plan: bytes) -> dict:
    """Return how an engine was built."""
    assert plan.startswith(_MAGIC)
    return json.loads(plan[len(_MAGIC) :])


class _Owner:
    """Something of TensorRT's that holds GPU memory until its last reference goes."""

    def __init__(self, size: int) -> None:
        from pycuda import driver

        driver.require_context(type(self).__name__)
        self._driver = driver
        self._memory = driver.mem_alloc(size)

    def __del__(self) -> None:
        if not self._driver.has_context():
            self._driver.frees_outside_context.append(type(self).__name__)
        elif not self._driver.sticky_error:
            self._memory.free()


@functools.lru_cache(8)
def _executor(model: str):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(base64.b64decode(model), options)


class ICudaEngine(_Owner):
    def __init__(self, facts: dict) -> None:
        super().__init__(len(facts["model"]))
        self._facts = facts
        self._session = _executor(facts["model"])
        self._names = [self._session.get_inputs()[0].name, self._session.get_outputs()[0].name]
        self._dtypes = [
            DataType.HALF if value.type == "tensor(float16)" else DataType.FLOAT
            for value in (self._session.get_inputs()[0], self._session.get_outputs()[0])
        ]
        self._image = tuple(facts["input"])

    @property
    def device_memory_size_v2(self) -> int:
        return SCRATCH_BYTES

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._facts)

    @property
    def num_io_tensors(self) -> int:
        return 2

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return (TensorIOMode.INPUT, TensorIOMode.OUTPUT)[self._names.index(name)]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._dtypes[self._names.index(name)]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._image if self._names.index(name) == 0 else (self._image[0], -1, -1)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert name == self._names[0]
        return self._profile()

    def create_execution_context(self, strategy: ExecutionContextAllocationStrategy) -> IExecutionContext:
        return IExecutionContext(self, strategy)

    def _profile(self) -> list[tuple[int, ...]]:
        (profile,) = self._facts["profiles"]
        return [tuple(shape) for shape in profile[self._names[0]]]


class IExecutionContext(_Owner):
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        super().__init__(64)
        self._engine = engine
        self._scratch = 0
        self._managed = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
        self._image: tuple[int, ...] | None = None
        self._pointers: dict[str, int] = {}
        self._ran_with: tuple[int, ...] | None = None

    def set_device_memory(self, memory: int, size: int) -> None:
        assert self._managed
        assert size >= self._engine.device_memory_size_v2
        self._scratch = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._engine._names[0]
        allowed = self._engine._image
        if -1 in allowed:
            smallest, _, largest = self._engine._profile()
            fits = all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))
        else:
            fits = tuple(shape) == allowed
        if fits:
            self._image = tuple(shape)
            self._driver.calls.append(f"shape {shape[0]}")
        return fits

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name == self._engine._names[0]:
            return self._image
        if self._image is None:
            return (-1, -1, -1)
        return self._run(np.zeros(self._image, self._dtype(0))).shape

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert name in self._engine._names
        assert type(pointer) is int
        self._pointers[name] = pointer
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self._driver.streams[stream_handle]
        if self._image is None or len(self._pointers) < 2 or (self._managed and not self._scratch):
            return False
        if stream.captured is not None and self._ran_with != self._image:
            raise RuntimeError("captured before the network ran once at this shape")
        self._ran_with = shape = self._image
        source, target = (self._pointers[name] for name in self._engine._names)

        def work() -> None:
            assert self._image == shape, "the context was changed after its graph was captured"
            if self._managed:
                self._driver.memory_at(self._scratch, SCRATCH_BYTES)[:] = 1
            size = int(np.prod(shape)) * np.dtype(self._dtype(0)).itemsize
            image = self._driver.memory_at(source, size).view(self._dtype(0)).reshape(shape)
            prediction = self._run(image).astype(self._dtype(1))
            self._driver.memory_at(target, prediction.nbytes)[:] = prediction.reshape(-1).view(np.uint8)

        stream.add("network", work)
        return True

    def _dtype(self, index: int) -> type:
        return _NP[self._engine._dtypes[index].name]

    def _run(self, image: np.ndarray) -> np.ndarray:
        return self._engine._session.run(None, {self._engine._names[0]: image})[0]


# --- TensorRT-RTX: kernels are compiled where the engine runs ----------------------------------------------


class IRuntimeCache:
    def __init__(self) -> None:
        self._kernels: set[str] = set()

    def deserialize(self, blob: bytes) -> bool:
        known = bytes(blob).split(b"\n")
        if known[0] != b"kernels of " + RTX.encode():
            return False
        self._kernels = {entry.decode() for entry in known[1:] if entry}
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory("\n".join(["kernels of " + RTX, *sorted(self._kernels)]).encode())


class IRuntimeConfig:
    def __init__(self) -> None:
        self.cuda_graph_strategy = CudaGraphStrategy.DISABLED
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: IRuntimeCache | None = None

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy


class _RtxEngine(ICudaEngine):
    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: IRuntimeConfig) -> _RtxContext:
        return _RtxContext(self, runtime_config)


class _RtxContext(IExecutionContext):
    def __init__(self, engine: _RtxEngine, config: IRuntimeConfig) -> None:
        super().__init__(engine, config._strategy)
        self._config = config

    def is_stream_capturable(self, stream: int) -> bool:
        return "REQUIRE_USER_ALLOCATION" in self._engine._facts["flags"]

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = self._driver.streams[stream_handle]
        if stream.captured is not None:
            assert self._config.cuda_graph_strategy is CudaGraphStrategy.DISABLED, "RTX captures by itself"
            assert self.is_stream_capturable(stream_handle)
        kernel = f"kernel {self._image}"
        cache = self._config._cache
        if cache is not None and kernel not in cache._kernels:
            self._driver.calls.append("jit")
            cache._kernels.add(kernel)
        return super().execute_async_v3(stream_handle)


def populate(module: dict, version: str, *, rtx: bool = False) -> None:
    """Fill a module's namespace with what a TensorRT version has."""
    typed = rtx or int(version.split(".")[0]) >= 11

    class VersionedRuntime(Runtime):
        _version = version
        _engine = _RtxEngine if rtx else ICudaEngine

    class VersionedBuilder(Builder):
        _version = version
        _config = _RtxConfig if rtx else IBuilderConfig

    flags = ["TF32"]
    flags += [] if typed else ["FP16", "INT8", "BF16"]
    flags += ["REQUIRE_USER_ALLOCATION"] if rtx else []
    module.update(
        __version__=version,
        init_libnvinfer_plugins=init_libnvinfer_plugins,
        Builder=VersionedBuilder,
        Runtime=VersionedRuntime,
        BuilderFlag=enum.Enum("BuilderFlag", flags),
        NetworkDefinitionCreationFlag=enum.IntEnum(
            "NetworkDefinitionCreationFlag", {"STRONGLY_TYPED" if typed else "EXPLICIT_BATCH": 0}
        ),
        **{
            item.__name__: item
            for item in (
                ILogger,
                Logger,
                OnnxParser,
                IProgressMonitor,
                MemoryPoolType,
                ProfilingVerbosity,
                LayerInformationFormat,
                TensorIOMode,
                DataType,
                ExecutionContextAllocationStrategy,
            )
        },
    )
    if rtx:
        for item in (
            ComputeCapability,
            CudaGraphStrategy,
            DynamicShapesKernelSpecializationStrategy,
            IRuntimeCache,
        ):
            module[item.__name__] = item


def classes(*, rtx: bool) -> dict[str, type]:
    """Return the fake's classes under their real names."""
    offered = {
        "Builder": Builder,
        "Runtime": Runtime,
        "INetworkDefinition": INetworkDefinition,
        "OnnxParser": OnnxParser,
        "ParserError": ParserError,
        "IOptimizationProfile": IOptimizationProfile,
        "ITimingCache": ITimingCache,
        "IBuilderConfig": _RtxConfig if rtx else IBuilderConfig,
        "ICudaEngine": _RtxEngine if rtx else ICudaEngine,
        "IExecutionContext": _RtxContext if rtx else IExecutionContext,
        "EngineInspector": EngineInspector,
        "MemoryPoolType": MemoryPoolType,
        "ProfilingVerbosity": ProfilingVerbosity,
        "LayerInformationFormat": LayerInformationFormat,
        "TensorIOMode": TensorIOMode,
        "DataType": DataType,
        "ExecutionContextAllocationStrategy": ExecutionContextAllocationStrategy,
        "ILogger": ILogger,
        "IProgressMonitor": IProgressMonitor,
    }
    if rtx:
        offered |= {
            "ComputeCapability": ComputeCapability,
            "CudaGraphStrategy": CudaGraphStrategy,
            "DynamicShapesKernelSpecializationStrategy": DynamicShapesKernelSpecializationStrategy,
            "IRuntimeCache": IRuntimeCache,
            "IRuntimeConfig": IRuntimeConfig,
        }
    return offered


def surface(*, rtx: bool) -> dict[str, set[str]]:
    """Return what the fake offers, public names by class, to compare with a real module."""
    inherited = {name for kind in (enum.Enum, bytes) for name in dir(kind)}
    return {
        name: {entry for entry in (*dir(kind), *_assigned(kind)) if not entry.startswith("_")} - inherited
        for name, kind in classes(rtx=rtx).items()
    }


def _assigned(kind: type) -> tuple[str, ...]:
    """Public attributes that instances get in their constructor."""
    if issubclass(kind, _Config):
        return ("profiling_verbosity", "progress_monitor")
    if kind is IRuntimeConfig:
        return ("cuda_graph_strategy", "dynamic_shapes_kernel_specialization_strategy")
    return ()
