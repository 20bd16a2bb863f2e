"""The OpenVINO backend: x86 companion computers (and ARM processors) without an NVIDIA GPU."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from yolo_trt_node.detector import cpu
from yolo_trt_node.detector.backends import BackendUnavailable
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.onnx_file import read_header
from yolo_trt_node.detector.options import LoadOptions

_DEVICE = "CPU"
_HINTS = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8"}
_DTYPES = {"f32": "float32", "f16": "float16", "f64": "float64"}
# Tiles and cameras come in one or two batch sizes; the one unused longest is compiled again.
_BATCHES_KEPT = 3


class OpenVinoModel:
    """An ONNX file opened by OpenVINO.

    Attributes:
        backend: ``openvino``.
        metadata: the file's ``metadata_props``.
        inputs: the graph's inputs.
        outputs: the graph's outputs.
    """

    backend = "openvino"

    def __init__(self, path: Path, options: LoadOptions) -> None:
        """Read the file's header; nothing is compiled yet.

        Args:
            path: the ONNX file.
            options: threads and precision.

        Raises:
            BackendUnavailable: this processor, or this model, cannot do the precision.
            ModelError: the file is no ONNX model that this OpenVINO can read.
        """
        self._path = path
        self._core = openvino.Core()
        header = read_header(path)
        hint = self._hint(options.precision, header.precision)
        threads = cpu.threads_for(options.threads)
        self._config = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": hint,
            # Networks that leave cores to others would all be pinned to the same first ones.
            "ENABLE_CPU_PINNING": threads >= cpu.usable_cores(),
        }
        self.metadata: Mapping[str, str] = header.metadata
        self.inputs = header.inputs
        self.outputs = header.outputs

    def session(self, height: int, width: int) -> OpenVinoSession:
        """Compile for an input height and width in pixels; a batch size is compiled when it first comes."""
        return OpenVinoSession(self._core, self._read(), self._config, height, width)

    def close(self) -> None:
        """Nothing to give back."""

    def _hint(self, wanted: str, held: str) -> str:
        """Return OpenVINO's precision hint; ``auto`` never computes with less than the file holds."""
        abilities = self._core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES")
        if wanted == "int8":
            if held != "int8":
                raise BackendUnavailable(
                    "int8 needs a quantised model", "make one by `yolo-compress export --precision int8`"
                )
            return "f32"  # for what is not quantised
        if wanted == "auto":
            return _HINTS["fp16"] if held == "fp16" and "FP16" in abilities else _HINTS["fp32"]
        if wanted.upper() not in abilities:
            raise BackendUnavailable(
                f"openvino has no {wanted} on this processor (it has {', '.join(abilities)})",
                "set precision to auto",
            )
        return _HINTS[wanted]

    def _read(self) -> openvino.Model:
        try:
            return self._core.read_model(self._path)
        except RuntimeError as error:
            raise ModelError(
                f"OpenVINO {openvino.__version__} cannot read {self._path} ({self._path.stat().st_size} "
                "bytes): "
                f"{str(error).strip()}. The file is damaged, cut short, or made for a newer version: copy "
                "or export "
                "it again"
            ) from error


class OpenVinoSession:
    """One network for one input height and width.

    Attributes:
        precision: the precision that most of its convolutions really have, as OpenVINO's compiled graph
            tells.
    """

    def __init__(
        self, core: openvino.Core, model: openvino.Model, config: Mapping[str, Any], height: int, width: int
    ) -> None:
        """Compile for one image; other batch sizes follow when they come."""
        self._core = core
        self._model = model
        self._config = dict(config)
        self._size = (height, width)
        self._requests: OrderedDict[int, Any] = OrderedDict()
        self._dtype = np.dtype(_DTYPES[model.inputs[0].element_type.get_type_name()])
        batch = model.inputs[0].partial_shape[0]
        compiled = self._compile(batch.get_length() if batch.is_static else 1)
        self.precision = _precision(compiled)

    def infer(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run a batch N x 3 x height x width float32; return the prediction, N first, float32.

        The prediction is a view of a buffer that the next call overwrites.
        """
        if len(batch) not in self._requests:
            self._compile(len(batch))
        self._requests.move_to_end(len(batch))
        request = self._requests[len(batch)]
        request.infer([np.ascontiguousarray(batch, self._dtype)], share_inputs=True)
        return np.asarray(request.get_output_tensor(0).data, np.float32)

    def close(self) -> None:
        """Give the compiled networks back."""
        self._requests.clear()

    def _compile(self, count: int) -> Any:
        # One network for each batch size: with a free batch OpenVINO plans its memory and kernels anew in
        # each call.
        self._model.reshape([count, 3, *self._size])
        try:
            compiled = self._core.compile_model(self._model, _DEVICE, self._config)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO cannot compile the model: {str(error).strip()}") from error
        if len(self._requests) >= _BATCHES_KEPT:
            self._requests.popitem(last=False)
        self._requests[count] = compiled.create_infer_request()
        return compiled


def _precision(compiled: Any) -> str:
    layers = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    counts: Counter[str] = Counter()
    for facts in layers:
        kind, precision = (
            str(facts[key].astype(str)) if key in facts else "" for key in ("layerType", "runtimePrecision")
        )
        if "Convolution" in kind and precision in _NAMES:
            counts[_NAMES[precision]] += 1
    if counts:
        return counts.most_common(1)[0][0]
    return _NAMES[compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()]
