"""The node's parameters: what they are called, what they mean, which values they take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import (
    InvalidParameterTypeException,
    InvalidParameterValueException,
    InvalidTopicNameException,
)
from rclpy.validate_topic_name import validate_topic_name

from yolo_trt_node.detector import DetectorOptions
from yolo_trt_node.detector.options import BACKENDS, PRECISIONS, PROVIDERS
from yolo_trt_node.detector.tiling import MAX_OVERLAP, MIN_OVERLAP
from yolo_trt_node.projection import Ground
from yolo_trt_node.tracking import TrackerOptions

if TYPE_CHECKING:
    from rclpy.node import Node

FROM_CARD = -1.0
"""A threshold of this value means: the one that the model's card names."""

TRANSPORTS = ("auto", "raw", "compressed")
RELIABILITIES = ("auto", "best_effort", "reliable")

Value = str | float | int | bool | list[str]
Values = Mapping[str, Value]


@dataclass
class LiveSettings:
    """What the node itself, not the detector, may change while it flies. One writer, many readers.

    Attributes:
        max_rate_hz: at most so many images a second are taken of each camera; 0: all.
        batch_window_s: how long the first image may wait for those of the other cameras, seconds.
        infer_without_listeners: look at images although nobody listens to the answers.
        log_frames: log a line for each answered image.
    """

    max_rate_hz: float = 0.0
    batch_window_s: float = 0.0
    infer_without_listeners: bool = False
    log_frames: bool = False

    def update(self, given: Values) -> None:
        """Take the values of the parameters."""
        self.max_rate_hz = float(given["max_rate_hz"])  # type: ignore[arg-type]
        self.batch_window_s = float(given["batch_window_ms"]) / 1e3  # type: ignore[arg-type]
        self.infer_without_listeners = bool(given["infer_without_listeners"])
        self.log_frames = bool(given["log_frames"])


@dataclass(frozen=True)
class GroundSettings:
    """How detections are put on the ground.

    Attributes:
        frame: the fixed TF frame, z up.
        rectified: whether the images are.
        ground: the plane in it, and how well all is known.
    """

    frame: str
    rectified: bool
    ground: Ground


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
    # ROS cannot tell the type of an empty list, so "none" is a list of one empty text.
    Spec(
        "cameras",
        [""],
        "Names of the cameras (each reads NAME/image and answers on NAME/detections), or their image topics "
        "(each answers on TOPIC/detections); an empty text means one camera on image and detections.",
    ),
    Spec(
        "image_transport",
        "auto",
        "What is read: raw images, compressed ones (of the topic, or TOPIC/compressed), or auto: what is "
        "published, raw first.",
        choices=TRANSPORTS,
    ),
    Spec(
        "image_reliability",
        "auto",
        "Whether lost images are sent again: auto follows what the publishers offer.",
        choices=RELIABILITIES,
    ),
    Spec(
        "max_megapixels",
        64.0,
        "Compressed images of more million pixels are refused before they are decoded.",
        minimum=0.01,
        maximum=1000.0,
    ),
    Spec(
        "max_rate_hz",
        0.0,
        "At most so many images a second are looked at, of each camera; 0.0: as many as the machine can.",
        live=True,
        minimum=0.0,
        maximum=1000.0,
    ),
    Spec(
        "infer_without_listeners",
        False,
        "Look at images although nobody subscribes to the answers.",
        live=True,
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
        "class_thresholds",
        [""],
        "Score thresholds of single classes, as NAME=SCORE or ID=SCORE; an empty text means none.",
        live=True,
    ),
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
    Spec(
        "batch_window_ms",
        5.0,
        "Several cameras and max_batch above 1: how long, in milliseconds, an image waits for those of the "
        "other cameras.",
        live=True,
        minimum=0.0,
        maximum=1000.0,
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
    Spec("tracker", False, "Follow the objects of each camera: Detection2D.id is the same in every frame."),
    Spec(
        "tracker_high_score",
        0.3,
        "Only detections that score this begin tracks; weaker ones (down to score_threshold) continue them.",
        minimum=0.0,
        maximum=1.0,
    ),
    Spec(
        "tracker_memory_s",
        2.0,
        "Seconds that a track outlives its last detection; a longer pause of the stamps ends all tracks.",
        minimum=0.05,
        maximum=60.0,
    ),
    Spec(
        "tracker_min_hits",
        2,
        "In so many consecutive frames an object is seen before it gets its id.",
        minimum=1,
        maximum=100,
    ),
    Spec(
        "tracker_camera_motion",
        True,
        "Follow the camera's own motion in the images; false where the camera stands still.",
    ),
    Spec(
        "ground_frame",
        "",
        "Publish detections_3d, the detections' places on the ground, in this frame (such as map or odom; z "
        "up); needs camera_info beside the images, and TF. Empty: do not.",
    ),
    Spec(
        "ground_height",
        0.0,
        "Height of the ground in ground_frame, metres.",
        minimum=-10_000.0,
        maximum=10_000.0,
    ),
    Spec(
        "ground_max_range",
        500.0,
        "What lies farther from the camera, in metres, is left out of detections_3d.",
        minimum=1.0,
        maximum=100_000.0,
    ),
    Spec(
        "ground_pixel_sigma",
        2.0,
        "For the covariance: standard deviation of where an object touches the ground in the image, pixels.",
        minimum=0.0,
        maximum=1000.0,
    ),
    Spec(
        "ground_height_sigma",
        0.5,
        "For the covariance: standard deviation of the camera's height above the ground, metres.",
        minimum=0.0,
        maximum=1000.0,
    ),
    Spec(
        "ground_attitude_sigma",
        0.5,
        "For the covariance: standard deviation of the camera's attitude about each axis, degrees.",
        minimum=0.0,
        maximum=45.0,
    ),
    Spec(
        "images_rectified",
        False,
        "For detections_3d: the images are rectified (image_proc): use P and R of camera_info, not K and D.",
    ),
    Spec("log_frames", False, "Log a line for each answered image: age, stage times, boxes.", live=True),
    Spec("autostart", True, "Configure and activate at start, without being asked to."),
    Spec(
        "diagnostics.min_rate_hz",
        1.0,
        "/diagnostics warns where a camera sends fewer images a second; 0.0: any rate is fine.",
        live=True,
        minimum=0.0,
        maximum=1000.0,
    ),
    Spec(
        "diagnostics.error_rate_hz",
        0.0,
        "/diagnostics reports an error where a camera sends fewer; 0.0: only where none come.",
        live=True,
        minimum=0.0,
        maximum=1000.0,
    ),
    Spec(
        "diagnostics.max_frame_age_s",
        0.5,
        "/diagnostics warns where the 95th percentile of the frame age at publication is higher, in seconds.",
        live=True,
        minimum=0.0,
        maximum=3600.0,
    ),
    Spec(
        "diagnostics.error_frame_age_s",
        2.0,
        "/diagnostics reports an error where it is higher, in seconds.",
        live=True,
        minimum=0.0,
        maximum=3600.0,
    ),
    Spec(
        "diagnostics.input_timeout_s",
        3.0,
        "After so many seconds without an image the input is stale and the log says the most likely reason.",
        live=True,
        minimum=0.1,
        maximum=3600.0,
    ),
    Spec(
        "diagnostics.max_temperature_c",
        85.0,
        "On a Jetson: /diagnostics warns where a sensor is hotter, in degrees Celsius.",
        live=True,
        minimum=0.0,
        maximum=200.0,
    ),
    Spec(
        "diagnostics.error_temperature_c",
        95.0,
        "On a Jetson: /diagnostics reports an error where a sensor is hotter, in degrees Celsius.",
        live=True,
        minimum=0.0,
        maximum=200.0,
    ),
    Spec(
        "diagnostic_updater.period",
        1.0,
        "Seconds between two messages on /diagnostics.",
        live=True,
        minimum=0.1,
        maximum=60.0,
    ),
    Spec(
        "diagnostic_updater.use_fqn",
        False,
        "On /diagnostics, call the node by its full name, with its namespace.",
        live=True,
    ),
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


def values(node: Node) -> dict[str, Value]:
    """Return all parameters' values."""
    return {spec.name: node.get_parameter(spec.name).value for spec in PARAMETERS}


def refuse_unless_live(changed: Values) -> None:
    """Check that parameters may change while a model is loaded.

    Raises:
        ValueError: one of them may not; it says when it may.
    """
    for spec in PARAMETERS:
        if spec.name in changed and not spec.live:
            raise ValueError(
                f"{spec.name} takes effect when the node is configured: deactivate and clean up first "
                "(`ros2 lifecycle set`), then set it and configure again"
            )


def check(given: Values) -> None:
    """Check values against each other and the detector's rules, without a model.

    Raises:
        ValueError: a value is not allowed.
    """
    for spec in PARAMETERS:
        if spec.choices and given[spec.name] not in spec.choices:
            raise ValueError(f"{spec.name} is {given[spec.name]!r}; use one of {', '.join(spec.choices)}")
    camera_names(given)
    detector_options(given)
    ground_settings(given)


def camera_names(given: Values) -> tuple[str, ...]:
    """Return the names of the cameras, or their topics; one empty text for the only one.

    Raises:
        ValueError: a name is no topic name, or stands twice.
    """
    names = tuple(name for name in _texts(given["cameras"]) if name)
    for name in names:
        try:
            validate_topic_name(name)
        except (InvalidTopicNameException, ValueError) as error:
            raise ValueError(f"cameras holds {name!r}, which cannot be a topic: {error}") from error
    if len(set(names)) < len(names):
        raise ValueError(f"cameras names one twice: {', '.join(names)}")
    return names or ("",)


def tracker_options(given: Values) -> TrackerOptions | None:
    """Make the tracker's options; ``None`` where nothing is to be tracked."""
    if not given["tracker"]:
        return None
    return TrackerOptions(
        high_score=float(given["tracker_high_score"]),  # type: ignore[arg-type]
        memory_s=float(given["tracker_memory_s"]),  # type: ignore[arg-type]
        min_hits=int(given["tracker_min_hits"]),  # type: ignore[arg-type]
        camera_motion=bool(given["tracker_camera_motion"]),
    )


def ground_settings(given: Values) -> GroundSettings | None:
    """Make the ground projection's settings; ``None`` where nothing is to be projected.

    Raises:
        ValueError: the frame is not one frame's name.
    """
    frame = str(given["ground_frame"])
    if not frame:
        return None
    if any(character.isspace() for character in frame) or not frame.strip("/"):
        raise ValueError(f"ground_frame is {frame!r}, which names no TF frame; use one such as map or odom")
    return GroundSettings(
        frame=frame,
        rectified=bool(given["images_rectified"]),
        ground=Ground(
            height=float(given["ground_height"]),  # type: ignore[arg-type]
            max_range_m=float(given["ground_max_range"]),  # type: ignore[arg-type]
            pixel_sigma=float(given["ground_pixel_sigma"]),  # type: ignore[arg-type]
            height_sigma=float(given["ground_height_sigma"]),  # type: ignore[arg-type]
            attitude_sigma=math.radians(float(given["ground_attitude_sigma"])),  # type: ignore[arg-type]
        ),
    )


def max_pixels(given: Values) -> int:
    """Return how many pixels a compressed image may have."""
    return int(float(given["max_megapixels"]) * 1e6)  # type: ignore[arg-type]


def detector_options(given: Values) -> DetectorOptions:
    """Make the detector's options of parameter values.

    Raises:
        ValueError: a value is not allowed.
    """

    def threshold(name: str) -> float | None:
        return None if given[name] == FROM_CARD else float(given[name])  # type: ignore[arg-type]

    return DetectorOptions(
        backend=str(given["backend"]),
        input_shape=str(given["input_shape"]),
        score_threshold=threshold("score_threshold"),
        iou_threshold=threshold("iou_threshold"),
        max_det=int(given["max_det"]),  # type: ignore[arg-type]
        classes=tuple(entry for entry in _texts(given["classes"]) if entry),
        class_thresholds=_class_thresholds(given["class_thresholds"]),
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


def _class_thresholds(value: Value) -> tuple[tuple[str, float], ...]:
    """Read entries NAME=SCORE."""
    found = []
    for entry in filter(None, _texts(value)):
        name, _, score = entry.rpartition("=")
        try:
            found.append((name.strip(), float(score)))
        except ValueError:
            name = ""
        if not name.strip():
            raise ValueError(f"class_thresholds holds {entry!r}; use NAME=SCORE, such as person=0.4")
    return tuple(found)


def _texts(value: Value) -> list[str]:
    return value if isinstance(value, list) else []
