"""How a model is run: what is fixed when it is loaded, and what may change between two images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yolo_trt_node.detector.tiling import MAX_OVERLAP, MIN_OVERLAP, NO_TILES, parse_tiling
from yolo_trt_node.options import check_fields, option

BACKENDS: Mapping[str, str] = {
    "tensorrt": "tensorrt.open_tensorrt",
    "tensorrt_rtx": "tensorrt.open_tensorrt_rtx",
    "onnxruntime": "onnx_runtime.OnnxModel",
    "openvino": "openvino.OpenVinoModel",
}
"""The backends there are and what opens a model file in each, below ``detector.backends``.

They stand in the order in which ``auto`` tries them. A GPU comes first. Of the CPU's backends the one that
runs the model faster is taken, as measured once on this machine (`speed`); ONNX Runtime where that is no
clear matter. Where bf16 is asked for, ``auto`` comes to OpenVINO, since ONNX Runtime passes.
"""

PRECISIONS = ("auto", "fp32", "fp16", "bf16", "int8")
SPINNING = ("auto", "run", "always", "never")
PROVIDERS = ("cpu", "cuda", "tensorrt")


def parse_shape(text: str) -> tuple[int, int]:
    """Read ``HEIGHTxWIDTH`` in pixels, as in ``384x640``.

    Raises:
        ValueError: it is no such text.
    """
    height, _, width = text.partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise ValueError(f"input_shape is {text!r}; use auto, square or HEIGHTxWIDTH such as 384x640")
    return int(height), int(width)


def read_class_thresholds(entries: list[str]) -> tuple[tuple[str, float], ...]:
    """Read entries NAME=SCORE; empty ones are left out.

    Raises:
        ValueError: an entry is none.
    """
    found = []
    for entry in filter(None, entries):
        name, _, score = entry.rpartition("=")
        try:
            found.append((name.strip(), float(score)))
        except ValueError:
            name = ""
        if not name.strip():
            raise ValueError(f"class_thresholds holds {entry!r}; use NAME=SCORE, such as person=0.4")
    return tuple(found)


@dataclass(frozen=True)
class LoadOptions:
    """How a model is loaded; to change one of these, load it again.

    The fields' texts say what they do; ``input_shape`` follows each image's aspect with ``auto``.
    """

    backend: str = option(
        "auto",
        "What runs the network: auto takes a GPU's where there is one, else the fastest, and logs which and "
        "why.",
        choices=("auto", *BACKENDS),
    )
    precision: str = option(
        "auto",
        "What the network is computed in: auto is fp16 on TensorRT and what the file holds on all others; "
        "int8 needs a quantized model.",
        choices=PRECISIONS,
    )
    input_shape: str = option(
        "auto",
        "Network input: auto matches each camera's aspect, square is the model's own size, or HEIGHTxWIDTH "
        "in pixels such as 384x640.",
    )
    threads: int = option(
        0, "CPU threads for inference; 0: one per core that the process may use.", low=0, high=256
    )
    onnxruntime_spinning: str = option(
        "auto",
        "Whether ONNX Runtime's threads wait by spinning: inside a run, always, never, or auto: inside a run "
        "while other processes leave the cores for it.",
        choices=SPINNING,
    )
    backend_trial_s: float = option(
        1.0,
        "Seconds that auto measures the CPU's backends for, the first time that it sees a model; 0.0: it "
        "takes the first that loads.",
        low=0.0,
        high=60.0,
    )
    load_timeout_s: float = option(
        120.0,
        "Seconds that a model which this machine sees for the first time may take to load and run once, in a "
        "process of its own; 0.0: load it at once, without limits.",
        low=0.0,
        high=86_400.0,
    )
    load_memory_mb: int = option(
        4096,
        "Memory in MiB that such a model may take there.",
        low=64,
        high=1_048_576,
    )
    max_batch: int = option(
        1, "At most N images or tiles go through the network at once; it bounds the memory.", low=1, high=256
    )
    onnxruntime_provider: str = option("cpu", "What ONNX Runtime runs on.", choices=PROVIDERS)
    cuda_graph: bool = option(
        True, "On TensorRT: replay the network as one CUDA graph, where it can be captured."
    )
    engine_cache: str = option(
        "",
        "Folder where TensorRT engines are kept; empty: yolo_trt_node/engines under ~/.cache (or "
        "XDG_CACHE_HOME).",
    )
    engine_workspace_mb: int = option(
        1024,
        "Limit in MiB of the scratch memory that a TensorRT engine's kernels may take.",
        low=16,
        high=1_048_576,
    )
    trust_engines: bool = option(
        False, "Load TensorRT engines although other users could have written them (an engine is code)."
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed.
        """
        check_fields(self)
        if self.input_shape not in ("auto", "square"):
            parse_shape(self.input_shape)


@dataclass(frozen=True)
class DetectOptions:
    """What may change between two images; ``None`` means what the model's card says."""

    score_threshold: float | None = option(
        None,
        "Boxes that score less are not published; -1.0: as the model's card says.",
        low=0.0,
        high=1.0,
        unset=-1.0,
    )
    iou_threshold: float | None = option(
        None,
        "Of two boxes of one class that overlap more (IoU), the weaker is dropped; -1.0: as the model's card "
        "says.",
        low=0.0,
        high=1.0,
        unset=-1.0,
    )
    max_det: int = option(300, "At most N boxes an image, the best.", low=1, high=10_000)
    classes: tuple[str, ...] = option((), "Names or ids of the classes to publish; an empty text means all.")
    class_thresholds: tuple[tuple[str, float], ...] = option(
        (),
        "Score thresholds of single classes, as NAME=SCORE or ID=SCORE; an empty text means none.",
        read=read_class_thresholds,
    )
    class_id: str = option(
        "number",
        "What class_id of a detection is: the class's number in the model (label_info names it), or its "
        "name.",
        choices=("number", "name"),
    )
    multi_label: bool = option(
        False, "Report each class of an object that scores enough, not the best alone."
    )
    tiling: str = option(
        NO_TILES,
        "For small objects, look also at overlapping tiles of each image: none, auto (as many as it takes at "
        "native resolution) or ROWSxCOLUMNS such as 2x3.",
    )
    tile_overlap: float = option(
        0.2, "Least share of a tile's side that its neighbor sees too.", low=MIN_OVERLAP, high=MAX_OVERLAP
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed.
        """
        check_fields(self)
        for entry, value in self.class_thresholds:
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"class_thresholds: that of {entry!r} is {value}, not between 0 and 1")
        parse_tiling(self.tiling)


@dataclass(frozen=True)
class DetectorOptions(LoadOptions, DetectOptions):
    """All that `Detector.load` takes."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed.
        """
        LoadOptions.__post_init__(self)
        DetectOptions.__post_init__(self)
