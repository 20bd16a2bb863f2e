"""All options of the node in one table; no ROS.

The detector's, the tracker's, the ground's and the thresholds' come from where they are used; the node's own
stand here. `config/detect.yaml` explains each one to users.
"""

from __future__ import annotations

from dataclasses import dataclass

from yolo_trt_node.detector.options import DetectOptions, DetectorOptions, LoadOptions
from yolo_trt_node.health.diagnostics import Thresholds
from yolo_trt_node.images.thermal import AUTO_RANGE, ThermalRange
from yolo_trt_node.options import Option, Values, check_fields, from_values, option, options_of
from yolo_trt_node.projection import Ground
from yolo_trt_node.tracking import TrackerOptions

TRANSPORTS = ("auto", "raw", "compressed", "video")
RELIABILITIES = ("auto", "best_effort", "reliable")
SLOWEST_HZ = 0.01
"""A lower rate than one image in 100 seconds is a mistake, and would silence a camera."""


@dataclass(frozen=True)
class NodeOptions:
    """What the node itself is told, and takes up when it is configured."""

    model: str = option(
        "",
        "Path of the model: an ONNX file from yolo-compress, or any stock Ultralytics YOLOv8 export "
        "(.onnx, .engine).",
    )
    cameras: tuple[str, ...] = option(
        (),
        "Names of the cameras (each reads NAME/image and publishes NAME/detections), or their image topics "
        "(each publishes TOPIC/detections); an empty text means one camera on image and detections.",
    )
    image_transport: str = option(
        "auto",
        "What is read: raw images, compressed ones (of the topic, or TOPIC/compressed), packets of video (of "
        "the topic, TOPIC/ffmpeg or TOPIC/foxglove), or auto: what is published, in this order.",
        choices=TRANSPORTS,
    )
    image_reliability: str = option(
        "auto",
        "Whether lost images are sent again: auto follows what the publishers offer.",
        choices=RELIABILITIES,
    )
    max_megapixels: float = option(
        64.0,
        "Compressed images of more million pixels are refused before they are decoded.",
        low=0.01,
        high=1000.0,
    )
    thermal_range: str = option(
        AUTO_RANGE,
        "Which counts of 16-bit images (thermal cameras) become black and white: auto (the scene's, followed "
        "slowly), full (0 to 65535), or two counts as in 29000,31000.",
    )
    tracker: bool = option(
        False, "Follow the objects of each camera: Detection2D.id is the same in every frame."
    )
    ground_frame: str = option(
        "",
        "Publish detections_3d, the detections' places on the ground, in this frame (such as map or odom; z "
        "up); needs camera_info beside the images, and TF. Empty: do not.",
    )
    images_rectified: bool = option(
        False,
        "For detections_3d: the images are rectified (image_proc): use P and R of camera_info, not K and D.",
    )
    autostart: bool = option(True, "Configure and activate at start, without being asked to.")

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed.
        """
        check_fields(self)
        ThermalRange(self.thermal_range)
        frame = self.ground_frame
        if frame and (any(character.isspace() for character in frame) or not frame.strip("/")):
            raise ValueError(
                f"ground_frame is {frame!r}, which names no TF frame; use one such as map or odom"
            )

    @property
    def max_pixels(self) -> int:
        """How many pixels a compressed image may have."""
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True)
class LiveOptions:
    """What the node itself, not the detector, may change while it flies."""

    max_rate_hz: float = option(
        0.0,
        "Maximum processing rate of each camera, images a second, at least 0.01; 0.0: as many as the machine "
        "can.",
        low=0.0,
        high=1000.0,
    )
    infer_without_listeners: bool = option(
        False, "Process images although nobody subscribes to the detections."
    )
    batch_window_s: float = option(
        0.005,
        "Several cameras and max_batch above 1: how long, in milliseconds, an image waits for those of the "
        "other cameras.",
        low=0.0,
        high=1000.0,
        name="batch_window_ms",
        shown=5.0,
        read=lambda milliseconds: milliseconds / 1e3,
    )
    log_frames: bool = option(False, "Log a line for each processed image: age, stage times, boxes.")
    period_s: float = option(
        1.0,
        "Seconds between two messages on /diagnostics.",
        low=0.1,
        high=60.0,
        name="diagnostic_updater.period",
    )
    use_fqn: bool = option(
        False,
        "On /diagnostics, call the node by its full name, with its namespace.",
        name="diagnostic_updater.use_fqn",
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not allowed.
        """
        check_fields(self)
        if 0 < self.max_rate_hz < SLOWEST_HZ:
            raise ValueError(
                f"max_rate_hz is {self.max_rate_hz:g}, which would silence the cameras; use 0.0 (no limit) "
                f"or at least {SLOWEST_HZ:g}"
            )


NODE_OPTIONS: tuple[Option, ...] = (
    *options_of(NodeOptions),
    *options_of(LiveOptions, live=True),
    *options_of(LoadOptions),
    *options_of(DetectOptions, live=True),
    *options_of(TrackerOptions, "tracker_"),
    *options_of(Ground, "ground_"),
    *options_of(Thresholds, "diagnostics.", live=True),
)
"""Each is a parameter of the node, a launch argument, and a paragraph of config/detect.yaml."""


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
class Settings:
    """What the values of all options mean together.

    Attributes:
        node: what is fixed while the node is configured.
        live: what may change.
        detector: how the model runs.
        tracker: how objects are followed; ``None``: they are not.
        ground: how detections are put on the ground; ``None``: they are not.
    """

    node: NodeOptions
    live: LiveOptions
    detector: DetectorOptions
    tracker: TrackerOptions | None
    ground: GroundSettings | None

    @classmethod
    def read(cls, given: Values) -> Settings:
        """Read values of options by their names; what is not given has its default.

        Raises:
            ValueError: a value is not allowed.
        """
        node = from_values(NodeOptions, given)
        ground = from_values(Ground, given, "ground_")
        return cls(
            node=node,
            live=from_values(LiveOptions, given),
            detector=from_values(DetectorOptions, given),
            tracker=tracker_options(given),
            ground=GroundSettings(node.ground_frame, node.images_rectified, ground)
            if node.ground_frame
            else None,
        )


def tracker_options(given: Values) -> TrackerOptions | None:
    """Read the tracker's options; ``None`` where nothing is to be tracked.

    Raises:
        ValueError: a value is not allowed.
    """
    tracking = from_values(TrackerOptions, given, "tracker_")
    return tracking if given.get("tracker", False) is True else None
