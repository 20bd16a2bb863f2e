"""The process that builds a TensorRT engine: ``python -m yolo_trt_node.detector.engine_builder``.

A builder may run for many minutes, need more memory than there is, or crash in native code; none of that may
take the node down, so it has a process of its own. One JSON line on standard input says what to build
(`BuildSpec`), JSON lines on standard output tell progress and the end. When standard input closes, the
one who asked is gone, and the builder ends.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo_trt_node.detector.onnx_file import OnnxHeader, read_header

MODULES = {"tensorrt": ("tensorrt",), "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}
"""The Python modules of each backend, in the order in which they are tried."""

_MIB = 1 << 20


@dataclass(frozen=True)
class BuildSpec:
    """Everything that shapes an engine.

    Attributes:
        backend: ``tensorrt`` or ``tensorrt_rtx``.
        precision: ``fp32``, ``fp16``, ``bf16`` or ``int8``.
        height: input height in pixels.
        width: input width in pixels.
        batches: smallest, most frequent and largest batch; three times the same makes a static engine.
        workspace_mb: limit in MiB of the scratch memory that the engine's kernels may take.
        compute_capability: the GPU to build for, as in ``8.6``, where the backend can name it (TensorRT-RTX);
            TensorRT itself builds for the GPU of the machine.
    """

    backend: str
    precision: str
    height: int
    width: int
    batches: tuple[int, int, int] = (1, 1, 1)
    workspace_mb: int = 1024
    compute_capability: str = ""


class BuildError(RuntimeError):
    """TensorRT does not take the model, or cannot build it; the message is TensorRT's."""


def load_tensorrt(backend: str) -> Any:
    """Import the backend's module.

    Raises:
        ImportError: none of its modules can be imported.
    """
    *others, last = MODULES[backend]
    for name in others:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    return importlib.import_module(last)


def is_strongly_typed(trt: Any) -> bool:
    """Whether precision is fixed by the ONNX (TensorRT 11, TensorRT-RTX) instead of by builder flags."""
    return not hasattr(trt.BuilderFlag, "FP16")


def build_here(
    model: Path,
    recipe: BuildSpec,
    *,
    timing_cache: bytes,
    report: Callable[[str], None],
) -> tuple[Any, bytes]:
    """Build an engine from an ONNX file, in this process.

    Args:
        model: the ONNX file.
        recipe: what to build.
        timing_cache: measurements of earlier builds; empty for none.
        report: called with a line of text as the build proceeds.

    Returns:
        The engine, serialised (a buffer), and the timing cache with this build's measurements added.

    Raises:
        BuildError: the parser or the builder refuses.
        ModelError: the file is no ONNX model.
    """
    trt = load_tensorrt(recipe.backend)
    logger = _logger(trt)
    # The parser takes NVIDIA's plugins for operators, where they are registered.
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    report(f"reading {model.name}")
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(_tell(parser.get_error(i)) for i in range(parser.num_errors))
        raise BuildError(f"its ONNX parser refuses the model: {errors or logger.last}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, recipe.workspace_mb * _MIB)
    # Without it the engine cannot be asked afterwards which precision its layers have.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _set_precision(trt, config, recipe.precision, read_header(model))
    _set_shapes(builder, network, config, recipe)
    if recipe.compute_capability and hasattr(config, "num_compute_capabilities"):
        name = "SM" + recipe.compute_capability.replace(".", "")
        known = [entry for entry in trt.ComputeCapability.__members__ if entry.startswith("SM")]
        if name not in known:
            # CURRENT instead would be an engine for another GPU under the name that was asked for.
            raise BuildError(
                f"it builds for the compute capabilities {', '.join(f'{e[2:-1]}.{e[-1]}' for e in known)}, "
                f"not {recipe.compute_capability}"
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    cache = None
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT-RTX: without it a network may allocate while it runs, and then cannot be captured. It has
        # no timings to keep: it compiles where the engine runs (`tensorrt_engine`).
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    else:
        cache = config.create_timing_cache(timing_cache)
        # A cache of another TensorRT or GPU is refused; the build then starts from an empty one.
        if not config.set_timing_cache(cache, False):
            cache = config.create_timing_cache(b"")
            config.set_timing_cache(cache, False)
    config.progress_monitor = _monitor(trt, report)
    report(f"building for {recipe.precision} at {recipe.height}x{recipe.width}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildError(f"its builder fails: {logger.last}")
    return plan, bytes(memoryview(cache.serialize())) if cache is not None else b""


def _tell(error: Any) -> str:
    """Tell a parser's error, with the operator where this TensorRT names it."""
    operator = getattr(error, "node_operator", lambda: "")()
    return f"{operator}: {error.desc().strip()}" if operator else str(error.desc()).strip()


def _network_flags(trt: Any) -> int:
    flags = trt.NetworkDefinitionCreationFlag
    if is_strongly_typed(trt):
        return 1 << int(flags.STRONGLY_TYPED)
    return 1 << int(flags.EXPLICIT_BATCH)


def _set_precision(trt: Any, config: Any, precision: str, header: OnnxHeader) -> None:
    """Allow the precisions wanted, where that is done by flags; int8 needs Q/DQ in the model in any case."""
    if precision == "int8" and not header.quantized:
        raise BuildError("int8 needs a quantised model (Q/DQ operators), and this one has none")
    if is_strongly_typed(trt):
        if precision != header.precision:
            raise BuildError(
                f"its networks are strongly typed: the precision is the ONNX file's, which is "
                f"{header.precision}, not {precision}; export the model in {precision}"
            )
        return
    wanted = {"fp32": (), "fp16": ("FP16",), "bf16": ("BF16",), "int8": ("INT8", "FP16")}[precision]
    for name in wanted:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if precision == "fp32":
        # TF32 keeps 10 of 23 bits: whoever asks for fp32 wants the others too.
        config.clear_flag(trt.BuilderFlag.TF32)


def _set_shapes(builder: Any, network: Any, config: Any, recipe: BuildSpec) -> None:
    image = network.get_input(0)
    given = tuple(image.shape)
    smallest, usual, largest = recipe.batches
    wanted = (largest if smallest == largest else -1, given[1], recipe.height, recipe.width)
    for axis, have, want in zip(("batch", "channels", "height", "width"), given, wanted, strict=True):
        if have not in (-1, want):
            raise BuildError(f"the model's {axis} is fixed at {have}, and {want} is asked for")
    # Set in the network, not only in the profile: shape arithmetic folds to constants, and a static engine
    # can be shared by any number of execution contexts.
    image.shape = wanted
    if -1 in wanted:
        profile = builder.create_optimization_profile()
        profile.set_shape(image.name, *((n, *wanted[1:]) for n in (smallest, usual, largest)))
        config.add_optimization_profile(profile)


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):
        """Keeps the last error: TensorRT's calls answer failure with ``None`` and tell the reason here."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = "no reason given"

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.last = message.strip()
                print(message, file=sys.stderr, flush=True)

    return Logger()


def _monitor(trt: Any, report: Callable[[str], None]) -> Any:

    class Monitor(trt.IProgressMonitor):
        """Reports the outermost phase."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._steps:
                report(f"{phase_name}: step {step + 1} of {self._steps[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


# --- The process --------------------------------------------------------------------------------------------


def main() -> int:
    """Serve one request; see the module's docstring."""
    with _answers() as answer:
        request = json.loads(sys.stdin.readline())
        threading.Thread(target=_end_with_parent, daemon=True).start()
        with contextlib.suppress(OSError):
            # Should memory run out, this process is to go, not the node.
            Path("/proc/self/oom_score_adj").write_text("1000")
        recipe = BuildSpec(**{**request["recipe"], "batches": tuple(request["recipe"]["batches"])})
        timing, destination = Path(request["timing_cache"]), Path(request["destination"])
        started = time.monotonic()
        try:
            known = timing.read_bytes() if timing.is_file() else b""
            plan, timings = build_here(
                Path(request["model"]),
                recipe,
                timing_cache=known,
                report=lambda text: answer({"progress": text}),
            )
            write_durably(destination, plan)
            if timings:
                part = timing.with_name(f"{timing.name}.{os.getpid()}.part")
                write_durably(part, timings)
                part.replace(timing)
        except OSError as error:
            answer({"error": str(error), "errno": error.errno})
            return 1
        except Exception as error:
            answer(
                {"error": f"{error}" if isinstance(error, BuildError) else f"{type(error).__name__}: {error}"}
            )
            return 1
        answer({"built": {"seconds": round(time.monotonic() - started, 1), "recipe": asdict(recipe)}})
        return 0


@contextlib.contextmanager
def _answers() -> Iterator[Callable[[dict[str, Any]], None]]:
    """Keep standard output for answers; what native code prints goes to standard error."""
    with os.fdopen(os.dup(1), "w") as channel:
        os.dup2(2, 1)

        def answer(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        yield answer


def _end_with_parent() -> None:
    while sys.stdin.readline():
        pass
    os._exit(3)


def write_durably(path: Path, content: Any) -> None:
    """Write a buffer into a file that only the user may read, and return when it is on the disk.

    Raises:
        OSError: it cannot be written.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # TensorRT objects have been seen to crash in a process's last moments, after the work is done.
    os._exit(code)
