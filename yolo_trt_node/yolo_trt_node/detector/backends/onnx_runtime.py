"""The ONNX Runtime backend: any machine, no GPU needed; with a GPU build also on CUDA or TensorRT."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from yolo_trt_node.detector import cpu
from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.onnx_file import read_header
from yolo_trt_node.detector.options import LoadOptions
from yolo_trt_node.memory import give_back_freed

_LOG = logging.getLogger(__name__)

_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64"}
_FATAL_ONLY = 4
_PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
# What the words of the option onnxruntime_spinning are as ONNX Runtime's settings: spin, stop after a run.
_SPINNING = {"always": ("1", "0"), "run": ("1", "1"), "never": ("0", "0")}
_FOLLOW_PERIOD_S = 5.0
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
        """Read the file's header; nothing is loaded yet.

        Args:
            path: the ONNX file.
            options: threads, provider and precision.

        Raises:
            BackendUnavailable: this ONNX Runtime lacks the provider, or the file the precision.
            ModelError: the file is no ONNX model.
        """
        self._path = path
        self._threads = cpu.threads_for(options.threads)
        self._spinning = options.onnxruntime_spinning
        self._provider = options.onnxruntime_provider
        first = _PROVIDERS[options.onnxruntime_provider][0]
        if first not in onnxruntime.get_available_providers():
            raise BackendUnavailable(f"onnxruntime {onnxruntime.__version__} has no {first}", _GPU_ADVICE)
        header = read_header(path)
        self.metadata: Mapping[str, str] = header.metadata
        self.inputs = header.inputs
        self.outputs = header.outputs
        # The names of free dimensions, by position: what `session` pins down.
        self._free = header.free
        self._held = header.precision
        self._precision = self._resolve(options.precision)

    def session(self, height: int, width: int) -> OnnxSession:
        """Compile for an input height and width in pixels.

        Free dimensions are fixed before the graph is optimised, so that ONNX Runtime folds the anchor grid
        and every shape computation to constants.

        Raises:
            BackendUnavailable: the provider does not start (a driver or CUDA library is missing).
        """
        follower = None
        spinning = self._spinning
        if spinning == "auto":
            follower = _Follower(self._threads)
            spinning = follower.spinning
        session = self._compile(height, width, spinning)
        _LOG.info("onnxruntime: %d threads, spinning: %s (%s)", self._threads, spinning, self._why(follower))
        if follower is not None:
            follower.make = lambda wanted: self._compile(height, width, wanted)
        return OnnxSession(session, self._precision, follower)

    def _why(self, follower: _Follower | None) -> str:
        return "as asked" if follower is None else follower.reason

    def _compile(self, height: int, width: int, spinning: str) -> onnxruntime.InferenceSession:
        options = self._options(spinning)
        for name, size in zip(self._free[2:], (height, width), strict=False):
            if name:
                options.add_free_dimension_override_by_name(name, size)
        names = _PROVIDERS[self._provider]
        providers: list[Any] = list(names)
        if self._provider == "tensorrt":
            half = "1" if self._precision in ("fp16", "int8") else "0"
            quantized = "1" if self._precision == "int8" else "0"
            providers[0] = (names[0], {"trt_fp16_enable": half, "trt_int8_enable": quantized})
        session = self._open(options, providers)
        # ONNX Runtime falls back to the CPU without a word that a node could see.
        if session.get_providers()[0] != names[0]:
            raise BackendUnavailable(
                f"onnxruntime's {names[0]} does not start: a driver or library of CUDA, cuDNN or TensorRT "
                "is missing",
                _GPU_ADVICE,
            )
        return session

    def close(self) -> None:
        """Nothing to give back."""

    def _resolve(self, wanted: str) -> str:
        """Return the precision in force: ONNX Runtime computes in what the file holds."""
        held = self._held
        if wanted in ("auto", held) or (self._provider == "tensorrt" and wanted == "fp16"):
            # TensorRT's provider alone can turn an fp32 file into an fp16 engine.
            return held if wanted == "auto" else wanted
        raise BackendUnavailable(
            f"onnxruntime takes the precision from the ONNX file, which is {held}",
            f"export the model in {wanted}, or set precision to auto",
        )

    def _options(self, spinning: str) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY  # what fails is raised, and told by us
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # Planned ahead, all intermediate tensors lie in one block, which took a third more memory than the
        # arena gives them one by one (YOLOv8n, 640x640), and no less time.
        options.enable_mem_pattern = False
        spin, stop = _SPINNING[spinning]
        options.add_session_config_entry("session.intra_op.allow_spinning", spin)
        # Without it threads go on spinning between two images, on cores that the rest of the drone needs.
        options.add_session_config_entry("session.force_spinning_stop", stop)
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

    def __init__(
        self, session: onnxruntime.InferenceSession, precision: str, follower: _Follower | None = None
    ) -> None:
        """Take a session of a model with one input and one output.

        Args:
            session: the session.
            precision: the precision in force.
            follower: makes another one where the machine's load asks for it.
        """
        self.precision = precision
        self._session: onnxruntime.InferenceSession | None = session
        self._follower = follower
        self._input = session.get_inputs()[0].name
        self._dtype = np.dtype(_DTYPES[session.get_inputs()[0].type])

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32."""
        if self._session is None:
            raise RuntimeError("the session is closed")
        if self._follower is not None:
            before, self._session = self._session, self._follower.follow(self._session)
            if self._session is not before:
                del before
                give_back_freed()
        (prediction,) = self._session.run(None, {self._input: batch.astype(self._dtype, copy=False)})
        return np.asarray(prediction, np.float32)

    def close(self) -> None:
        """Let ONNX Runtime's session go."""
        self._session = self._follower = None


class _Follower:
    """Decides whether the threads spin, and makes a new session where the load of the machine changes.

    Attributes:
        spinning: what is in force, ``run`` or ``never``.
        reason: why, in words.
        make: makes a session for one of these.
    """

    make: Callable[[str], onnxruntime.InferenceSession]

    def __init__(self, threads: int) -> None:
        """Decide by what the machine did since this module was imported."""
        self._threads = threads
        self._last = _AT_IMPORT
        self._next_s = time.monotonic() + _FOLLOW_PERIOD_S
        self._made: onnxruntime.InferenceSession | None = None
        self._maker: threading.Thread | None = None
        self.spinning, self.reason = self._decide(spinning=False)

    def follow(self, session: onnxruntime.InferenceSession) -> onnxruntime.InferenceSession:
        """Return the session to use: the one given, or another that has been made beside it."""
        made, self._made = self._made, None
        if made is not None:
            session = made
            _LOG.info("onnxruntime: spinning is now %s (%s)", self.spinning, self.reason)
        now = time.monotonic()
        if now >= self._next_s and not (self._maker is not None and self._maker.is_alive()):
            self._next_s = now + _FOLLOW_PERIOD_S
            wanted, reason = self._decide(spinning=self.spinning == "run")
            if wanted != self.spinning:
                # Beside the images, which the session in use goes on with.
                self._maker = threading.Thread(target=self._remake, args=(wanted, reason), daemon=True)
                self._maker.start()
        return session

    def _remake(self, wanted: str, reason: str) -> None:
        try:
            made = self.make(wanted)
        except Exception:  # the session in use still serves
            _LOG.exception("onnxruntime: no session with spinning %s", wanted)
            return
        self.spinning, self.reason, self._made = wanted, reason, made

    def _decide(self, *, spinning: bool) -> tuple[str, str]:
        now = cpu.sample()
        before, self._last = self._last, now
        if now is None or before is None:
            return "never", "auto; the system does not tell how busy it is"
        cores, others = cpu.usable_cores(), cpu.others_cores(before, now)
        spin = cpu.may_spin(self._threads, cores, others, spinning)
        return (
            "run" if spin else "never",
            f"auto: {cores:g} cores, {others:.1f} of them busy with other processes",
        )


_AT_IMPORT = cpu.sample()
