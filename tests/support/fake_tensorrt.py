"""A TensorRT without a GPU, as strict as the real one: 8.4, 8.5, 10 and 11 semantics, executed by ONNX
Runtime.

What a version does not have does not exist here either. Engines are JSON and remember how they were built.

``FAKE_TENSORRT`` in the environment names the version, so that the builder's process gets the same one;
``FAKE_TENSORRT_BUILD`` makes its builder fail: ``refuse``, ``crash``, ``killed``, or ``slow`` (one second;
``slow 30`` takes thirty).
"""

from __future__ import annotations

import base64
import enum
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

VERSIONS = ("8.4.1.5", "8.5.3.1", "10.3.0", "11.4.0")

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


class ComputeCapability(enum.Enum):
    CURRENT = 0
    SM86 = 86


class ILogger:
    class Severity(enum.Enum):
        INTERNAL_ERROR = 0
        ERROR = 1

    def __init__(self) -> None:
        self.initialised = True


class Logger(ILogger):
    ERROR = ILogger.Severity.ERROR

    def __init__(self, severity: ILogger.Severity) -> None:
        super().__init__()

    def log(self, severity: ILogger.Severity, message: str) -> None:
        pass


class IProgressMonitor:
    def __init__(self) -> None:
        self.initialised = True


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


class IBuilderConfig:
    def __init__(self, version: str) -> None:
        self._version = version
        self._flags: set[str] = set()
        self._memory: dict[str, int] = {}
        self._profiles: list[IOptimizationProfile] = []
        self._cache: ITimingCache | None = None
        self._known_timings = 0
        self.profiling_verbosity = ProfilingVerbosity.LAYER_NAMES_ONLY

    def set_memory_pool_limit(self, pool: MemoryPoolType, size: int) -> None:
        self._memory[pool.name] = size

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self._profiles.append(profile)
        return len(self._profiles) - 1

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


class _Flagged(IBuilderConfig):
    """The configuration where builder flags choose the precision."""

    def set_flag(self, flag: enum.Enum) -> None:
        self._flags.add(flag.name)

    def clear_flag(self, flag: enum.Enum) -> None:
        self._flags.discard(flag.name)


class _Targeted(IBuilderConfig):
    """The configuration that can build for another GPU (TensorRT-RTX)."""

    num_compute_capabilities = 0

    def set_compute_capability(self, capability: ComputeCapability, index: int) -> None:
        assert index < self.num_compute_capabilities


class Builder:
    _version = ""
    _config: type[IBuilderConfig] = IBuilderConfig

    def __init__(self, logger: ILogger) -> None:
        assert logger.initialised, "the base class's __init__ was not called"
        self._logger = logger

    def create_network(self, flags: int) -> INetworkDefinition:
        assert flags == 1, "neither explicit batch nor strongly typed"
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return self._config(self._version)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(
        self, network: INetworkDefinition, config: IBuilderConfig
    ) -> IHostMemory | None:
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
        if hasattr(config, "progress_monitor"):
            assert config.progress_monitor.initialised
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
        assert logger.initialised

    def deserialize_cuda_engine(self, plan):
        from pycuda import driver

        driver.require_context("deserialize_cuda_engine")
        plan = bytes(plan)
        if not plan.startswith(_MAGIC):
            return None
        facts = json.loads(plan[len(_MAGIC) :])
        driver.calls.append("deserialize")
        return self._engine(facts) if facts["version"] == self._version else None


class IInspector:
    def __init__(self, facts: dict) -> None:
        self._facts = facts

    def get_engine_information(self, form: LayerInformationFormat) -> str:
        assert form is LayerInformationFormat.JSON
        if not self._facts["detailed"]:
            return json.dumps({"Layers": ["conv_1", "conv_2"]})
        kind = "Half" if "FP16" in self._facts["flags"] else "Float"
        layer = {"Name": "conv_1", "Outputs": [{"Name": "x", "Format/Datatype": kind}]}
        return json.dumps({"Layers": [layer, layer]})


def facts_of(plan: bytes) -> dict:
    """Return how an engine was built."""
    assert plan.startswith(_MAGIC)
    return json.loads(plan[len(_MAGIC) :])


class _Engine:
    def __init__(self, facts: dict) -> None:
        import onnxruntime

        self._facts = facts
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(base64.b64decode(facts["model"]), options)
        self._names = [self._session.get_inputs()[0].name, self._session.get_outputs()[0].name]
        self._dtypes = [
            DataType.HALF if value.type == "tensor(float16)" else DataType.FLOAT
            for value in (self._session.get_inputs()[0], self._session.get_outputs()[0])
        ]
        self._image = tuple(facts["input"])
        self._contexts = 0

    def create_engine_inspector(self) -> IInspector:
        return IInspector(self._facts)

    def _shape(self, index: int) -> tuple[int, ...]:
        return self._image if index == 0 else (self._image[0], -1, -1)

    def _profile(self) -> list[tuple[int, ...]]:
        (profile,) = self._facts["profiles"]
        return [tuple(shape) for shape in profile[self._names[0]]]


class _NamedEngine(_Engine):
    """TensorRT 8.5 and later."""

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
        return self._shape(self._names.index(name))

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        assert name == self._names[0]
        return self._profile()

    def create_execution_context(self) -> _Context:
        return _NamedContext(self)


class _BoundEngine(_Engine):
    """TensorRT before 8.5."""

    @property
    def num_bindings(self) -> int:
        return 2

    def get_binding_name(self, index: int) -> str:
        return self._names[index]

    def get_binding_index(self, name: str) -> int:
        return self._names.index(name)

    def binding_is_input(self, index: int) -> bool:
        return index == 0

    def get_binding_dtype(self, index: int) -> DataType:
        return self._dtypes[index]

    def get_binding_shape(self, index: int) -> tuple[int, ...]:
        return self._shape(index)

    def get_profile_shape(self, profile: int, name: str) -> list[tuple[int, ...]]:
        return self._profile()

    def create_execution_context(self) -> _Context:
        return _BoundContext(self)


class _BothEngine(_BoundEngine, _NamedEngine):
    """TensorRT 8.5 to 9: the old way is still there, and contexts quarrel about profiles."""

    def create_execution_context(self) -> _Context:
        return _BothContext(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        from pycuda import driver

        self._driver = driver
        driver.require_context("create_execution_context")
        self._engine = engine
        # Only TensorRT 10 lets contexts share a profile; before, the second one has none.
        self._has_profile = engine._contexts == 0 or not isinstance(engine, _BoundEngine)
        engine._contexts += 1
        self._image: tuple[int, ...] | None = None
        self._pointers: dict[str, int] = {}
        self._ran_with: tuple[int, ...] | None = None

    def _set_shape(self, shape: tuple[int, ...]) -> bool:
        allowed = self._engine._image
        if -1 in allowed:
            if not self._has_profile:
                return False
            smallest, _, largest = self._engine._profile()
            fits = all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))
        else:
            fits = tuple(shape) == allowed
        if fits:
            self._image = tuple(shape)
            self._driver.calls.append(f"shape {shape[0]}")
        return fits

    def _output_shape(self) -> tuple[int, ...]:
        if self._image is None:
            return (-1, -1, -1)
        return self._run(np.zeros(self._image, self._dtype(0))).shape

    def _dtype(self, index: int) -> type:
        return _NP[self._engine._dtypes[index].name]

    def _run(self, image: np.ndarray) -> np.ndarray:
        return self._engine._session.run(None, {self._engine._names[0]: image})[0]

    def _queue(self, handle: int, pointers: list[int]) -> bool:
        stream = self._driver.streams[handle]
        if self._image is None:
            return False
        if stream.captured is not None and self._ran_with != self._image:
            raise RuntimeError("captured before the network ran once at this shape")
        self._ran_with = shape = self._image
        source, target = pointers

        def work() -> None:
            size = int(np.prod(shape)) * np.dtype(self._dtype(0)).itemsize
            image = self._driver.memory_at(source, size).view(self._dtype(0)).reshape(shape)
            prediction = self._run(image).astype(self._dtype(1))
            self._driver.memory_at(target, prediction.nbytes)[:] = prediction.reshape(-1).view(np.uint8)

        stream.add("network", work)
        return True


class _NamedContext(_Context):
    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == self._engine._names[0]
        return self._set_shape(shape)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._output_shape() if name == self._engine._names[1] else self._image

    def set_tensor_address(self, name: str, pointer: int) -> bool:
        assert name in self._engine._names
        assert type(pointer) is int
        self._pointers[name] = pointer
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        if len(self._pointers) < 2:
            return False
        return self._queue(stream_handle, [self._pointers[name] for name in self._engine._names])


class _BoundContext(_Context):
    def set_binding_shape(self, index: int, shape: tuple[int, ...]) -> bool:
        assert index == 0
        return self._set_shape(shape)

    def get_binding_shape(self, index: int) -> tuple[int, ...]:
        return self._output_shape() if index else self._image

    def execute_async_v2(self, bindings: list[int], stream_handle: int) -> bool:
        self._driver.calls.append("v2")
        return self._queue(stream_handle, bindings)


class _BothContext(_BoundContext, _NamedContext):
    pass


def populate(module: dict, version: str) -> None:
    """Fill a module's namespace with what a TensorRT version has."""
    generation = tuple(map(int, version.split(".")[:2]))
    typed = generation >= (11, 0)
    if generation < (8, 5):
        engine: type = _BoundEngine
    else:
        engine = _BothEngine if generation < (10, 0) else _NamedEngine

    class VersionedRuntime(Runtime):
        _version = version
        _engine = engine

    class VersionedBuilder(Builder):
        _version = version
        _config = _Targeted if typed else _Flagged

    flags = ["TF32", "FP16", "INT8"] + (["BF16"] if generation >= (10, 0) else [])
    module.update(
        __version__=version,
        Builder=VersionedBuilder,
        Runtime=VersionedRuntime,
        BuilderFlag=enum.Enum("BuilderFlag", ["TF32"] if typed else flags),
        NetworkDefinitionCreationFlag=SimpleNamespace(**{"STRONGLY_TYPED" if typed else "EXPLICIT_BATCH": 0}),
        **{
            item.__name__: item
            for item in (
                ILogger,
                Logger,
                OnnxParser,
                MemoryPoolType,
                ProfilingVerbosity,
                LayerInformationFormat,
                TensorIOMode,
                DataType,
            )
        },
    )
    if generation >= (10, 0):
        module["IProgressMonitor"] = IProgressMonitor
    if typed:
        module["ComputeCapability"] = ComputeCapability


def surface() -> dict[str, set[str]]:
    """Return what the fake of TensorRT 11 offers, public names by class, to compare with a real module."""
    offered = {
        "Builder": Builder,
        "Runtime": Runtime,
        "INetworkDefinition": INetworkDefinition,
        "OnnxParser": OnnxParser,
        "ParserError": ParserError,
        "IOptimizationProfile": IOptimizationProfile,
        "ITimingCache": ITimingCache,
        "IBuilderConfig": _Targeted,
        "ICudaEngine": _NamedEngine,
        "IExecutionContext": _NamedContext,
        "EngineInspector": IInspector,
        "MemoryPoolType": MemoryPoolType,
        "ProfilingVerbosity": ProfilingVerbosity,
        "LayerInformationFormat": LayerInformationFormat,
        "TensorIOMode": TensorIOMode,
        "DataType": DataType,
        "ComputeCapability": ComputeCapability,
        "ILogger": ILogger,
        "IProgressMonitor": IProgressMonitor,
    }
    inherited = {name for kind in (enum.Enum, bytes) for name in dir(kind)}
    return {
        name: {entry for entry in dir(kind) if not entry.startswith("_") and entry not in inherited}
        for name, kind in offered.items()
    }
