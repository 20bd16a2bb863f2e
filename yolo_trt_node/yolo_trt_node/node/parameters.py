"""The node's parameters: what they are called, what they mean, which values they take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from yolo_trt_node.detector import DetectorOptions
from yolo_trt_node.detector.backends import BACKENDS, PRECISIONS, PROVIDERS
from yolo_trt_node.detector.tiling import MAX_OVERLAP, MIN_OVERLAP

if TYPE_CHECKING:
    from rclpy.node import Node

FROM_CARD = -1.0
"""A threshold of this value means: the one that the model's card names."""

Value = str | float | int | bool | list[str]


@dataclass(frozen=True)
class Spec:
    """One parameter.

    Attributes:
        name: the parameter's name.
        default: its value where nobody gives one; its Python type is the parameter's type.
        description: what it does, with its unit.
        live: whether it takes effect at once; the others take effect when the node is configured.
        minimum: the smallest number allowed.
        maximum: the largest number allowed.
        choices: the only texts allowed; empty for any.
    """

    name: str
    default: Value
    description: str
    live: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Describe the parameter to ROS tools."""
        descriptor = ParameterDescriptor(description=self.description)
        if self.choices:
            descriptor.additional_constraints = "one of: " + ", ".join(self.choices)
        if self.minimum is not None and self.maximum is not None:
            if isinstance(self.default, float):
                descriptor.floating_point_range = [
                    FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                ]
            else:
                descriptor.integer_range = [
                    IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))
                ]
        return descriptor

    @property
    def expectation(self) -> str:
        """Say in words which values the parameter takes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        kind = {bool: "true or false", str: "a text", int: "a whole number", float: "a number with a point"}
        words = kind.get(type(self.default), "a list of texts")
        if self.minimum is not None:
            words += f" from {self.minimum} to {self.maximum}"
        return words


PARAMETERS: tuple[Spec, ...] = (
    Spec(
        "model",
        "",
        "Path of the model: an ONNX file from yolo-compress, or any stock Ultralytics YOLOv8 export "
        "(.onnx, .engine).",
    ),
    Spec(
        "backend",
        "auto",
        "What runs the network: auto takes the best that loads, and logs which and why.",
        choices=("auto", *BACKENDS),
    ),
    Spec(
        "precision",
        "auto",
        "What the network is computed in: auto is fp16 on TensorRT and what the file holds on all others; "
        "int8 needs a "
        "quantised model.",
        choices=PRECISIONS,
    ),
    Spec(
        "input_shape",
        "auto",
        "Network input: auto matches each camera's aspect, square is the model's own size, or HEIGHTxWIDTH "
        "in pixels such as 384x640.",
    ),
    Spec(
        "score_threshold",
        FROM_CARD,
        "Boxes that score less are not published; -1.0: as the model's card says.",
        live=True,
        minimum=-1.0,
        maximum=1.0,
    ),
    Spec(
        "iou_threshold",
        FROM_CARD,
        "Of two boxes of one class that overlap more (IoU), the weaker is dropped; -1.0: as the model's card "
        "says.",
        live=True,
        minimum=-1.0,
        maximum=1.0,
    ),
    Spec("max_det", 300, "At most so many boxes an image, the best.", live=True, minimum=1, maximum=10_000),
    Spec(
        "tiling",
        "none",
        "For small objects, look also at overlapping tiles of each image: none, auto (as many as it takes at "
        "native resolution) or ROWSxCOLUMNS such as 2x3.",
        live=True,
    ),
    Spec(
        "tile_overlap",
        0.2,
        "Least share of a tile's side that its neighbour sees too.",
        live=True,
        minimum=MIN_OVERLAP,
        maximum=MAX_OVERLAP,
    ),
    # ROS cannot tell the type of an empty list, so "all" is a list of one empty text.
    Spec("classes", [""], "Names or ids of the classes to publish; an empty text means all.", live=True),
    Spec(
        "threads",
        0,
        "CPU threads for inference; 0: one per core that the process may use.",
        minimum=0,
        maximum=256,
    ),
    Spec(
        "max_batch",
        1,
        "At most so many images or tiles go through the network at once; it bounds the memory.",
        minimum=1,
        maximum=256,
    ),
    Spec("onnxruntime_provider", "cpu", "What ONNX Runtime runs on.", choices=PROVIDERS),
    Spec("cuda_graph", True, "On TensorRT: replay the network as one CUDA graph, where it can be captured."),
    Spec(
        "engine_cache",
        "",
        "Folder where TensorRT engines are kept; empty: yolo_trt_node/engines under ~/.cache (or "
        "XDG_CACHE_HOME).",
    ),
    Spec(
        "engine_workspace_mb",
        1024,
        "Limit in MiB of the scratch memory that a TensorRT engine's kernels may take.",
        minimum=16,
        maximum=1_048_576,
    ),
    Spec(
        "trust_engines",
        False,
        "Load TensorRT engines although other users could have written them (an engine is code).",
    ),
    Spec("autostart", True, "Configure and activate at start, without being asked to."),
)


def declare(node: Node) -> dict[str, str]:
    """Declare all parameters.

    A value given at start that does not fit (type or range) must not end the process: the parameter then
    stands at its default, and the complaint comes back, to be raised when the node is configured.

    Returns:
        Complaints by parameter name; empty when all is well.
    """
    complaints = {}
    for spec in PARAMETERS:
        try:
            node.declare_parameter(spec.name, spec.default, spec.descriptor())
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            node.declare_parameter(spec.name, spec.default, spec.descriptor(), ignore_override=True)
            complaints[spec.name] = f"parameter {spec.name} must be {spec.expectation}: {error}"
    return complaints


def values(node: Node, changed: Sequence[Parameter] = ()) -> dict[str, Value]:
    """Return all parameters' values, with some changes on top."""
    current = {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}
    current.update({parameter.name: parameter.value for parameter in changed if parameter.name in current})
    return current


def detector_options(given: dict[str, Value]) -> DetectorOptions:
    """Make the detector's options of parameter values.

    Raises:
        ValueError: a value is not allowed.
    """
    for spec in PARAMETERS:
        if spec.choices and given[spec.name] not in spec.choices:
            raise ValueError(f"{spec.name} is {given[spec.name]!r}; use one of {', '.join(spec.choices)}")

    def threshold(name: str) -> float | None:
        return None if given[name] == FROM_CARD else float(given[name])  # type: ignore[arg-type]

    classes = given["classes"]
    return DetectorOptions(
        backend=str(given["backend"]),
        input_shape=str(given["input_shape"]),
        score_threshold=threshold("score_threshold"),
        iou_threshold=threshold("iou_threshold"),
        max_det=int(given["max_det"]),  # type: ignore[arg-type]
        classes=tuple(entry for entry in classes if entry) if isinstance(classes, list) else (),
        threads=int(given["threads"]),  # type: ignore[arg-type]
        tiling=str(given["tiling"]),
        tile_overlap=float(given["tile_overlap"]),  # type: ignore[arg-type]
        max_batch=int(given["max_batch"]),  # type: ignore[arg-type]
        precision=str(given["precision"]),
        onnxruntime_provider=str(given["onnxruntime_provider"]),
        cuda_graph=bool(given["cuda_graph"]),
        engine_cache=str(given["engine_cache"]),
        engine_workspace_mb=int(given["engine_workspace_mb"]),  # type: ignore[arg-type]
        trust_engines=bool(given["trust_engines"]),
    )
