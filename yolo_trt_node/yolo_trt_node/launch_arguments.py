"""The arguments of the launch files: their own, and one for each parameter of the node."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from yolo_trt_node.node_options import NODE_OPTIONS
from yolo_trt_node.options import Option, nearest

PARAMS_FILE = "config/detect.yaml"
"""Where the package's share has the default parameter file."""

IMAGE_TOPIC = "/camera/image_raw"
DETECTIONS_TOPIC = "detections"


@dataclass(frozen=True)
class Argument:
    """A launch argument.

    Attributes:
        name: as in ``NAME:=VALUE``.
        text: what it is for.
        default: its value where none is given.
        choices: the only values; empty for any.
    """

    name: str
    text: str
    default: str = ""
    choices: tuple[str, ...] = ()


def of_options(options: Sequence[Option], but: Sequence[str]) -> tuple[Argument, ...]:
    """Return a launch argument for each option."""

    def shown(option: Option) -> str:
        if isinstance(option.default, list):
            return ",".join(option.default) or "none"
        return str(option.default).lower() if isinstance(option.default, bool) else str(option.default)

    return tuple(
        Argument(
            option.name, f"{option.text} Empty: as in params_file, else {shown(option) or 'as empty there'}."
        )
        for option in options
        if option.name not in but
    )


_SHARED = (
    Argument("namespace", "Namespace of the node and its relative topics, such as uav1."),
    Argument(
        "log_level",
        "Least severity that the node logs.",
        "info",
        ("debug", "info", "warn", "error", "fatal"),
    ),
    Argument(
        "dds_profile",
        "DDS profile of the node. auto: the shipped one for large images (Fast DDS or Cyclone DDS, as "
        "RMW_IMPLEMENTATION says), unless the environment names another; none: leave all as it is; or the "
        "path of an XML profile. The process of the camera needs the profile too: that cannot be done from "
        "here.",
        "auto",
    ),
    Argument(
        "transport",
        "Short for image_transport: raw, compressed (JPEG, PNG; of the topic or TOPIC/compressed) or auto: "
        "what is published. Empty: as in params_file, else auto.",
    ),
)

DETECT_ARGUMENTS: tuple[Argument, ...] = (
    Argument(
        "model",
        "Path of the ONNX model (~ and paths relative to the current folder are fine). Required, unless "
        "params_file names one.",
    ),
    Argument(
        "image_topic",
        "Camera topic, sensor_msgs/Image or CompressedImage; a relative name is taken in the namespace.",
        IMAGE_TOPIC,
    ),
    Argument(
        "detections_topic",
        "Topic of the detections, vision_msgs/Detection2DArray; a relative name is taken in the namespace, "
        "where label_info, vision_info and annotated are too.",
        DETECTIONS_TOPIC,
    ),
    Argument(
        "cameras",
        "Several cameras on one model, instead of image_topic and detections_topic: names such as front,down "
        "(front/image gives front/detections) or topics such as /front/image_raw,/down/image_raw (they give "
        "TOPIC/detections). Empty: as in params_file, else one camera.",
    ),
    Argument("node_name", "Name of the node.", "yolo_detector"),
    Argument(
        "use_sim_time",
        "true: time comes from /clock, for a simulation or `ros2 bag play --clock`. Empty: as in "
        "params_file, else false.",
    ),
    Argument("use_respawn", "true: start the node again, after 2 s, whenever it ends.", "false"),
    Argument(
        "enclave",
        "Enclave of the node on a secured system (SROS 2), such as /yolo_detector; config/sros2/policy.xml "
        "in the package's share is its policy. Empty: as ROS chooses.",
    ),
    *_SHARED,
    *of_options(NODE_OPTIONS, but=("model", "cameras")),
)
"""The arguments of detect.launch.py, but for params_file, whose default only a launch can know."""

# What a replay decides itself.
_OF_THE_REPLAY = ("model", "cameras", "autostart")
REPLAY_ARGUMENTS: tuple[Argument, ...] = (
    Argument("bag", "The rosbag2 bag to play (sqlite3 or MCAP): its folder or file. Required."),
    Argument("model", "Path of the ONNX model. Required, unless params_file names one."),
    Argument(
        "image_topics",
        "Image topics of the bag, separated by commas. One gives detections, several each TOPIC/detections. "
        "Empty: all, and of raw and compressed twins the raw one.",
    ),
    Argument("rate", "How many times as fast as recorded.", "1.0"),
    Argument(
        "output",
        "New folder for the recording (bag), summary.json and their sources. Empty: replay_BAG_DATE in the "
        "current folder.",
    ),
    Argument("storage", "How it is recorded.", "mcap", ("mcap", "sqlite3")),
    Argument(
        "annotated",
        "Record the images with the boxes drawn in, too. They are as large as the camera's (1920x1080: 6 "
        "MB), and cost the detector time.",
        "true",
        ("true", "false"),
    ),
    Argument(
        "start_timeout",
        "How many seconds the detector may take until it listens. The first start on TensorRT builds an "
        "engine, which takes minutes.",
        "1800",
    ),
    *_SHARED,
    *of_options(NODE_OPTIONS, but=_OF_THE_REPLAY),
)
"""The arguments of replay.launch.py, but for params_file."""


def refuse_unknown(typed: Sequence[str], launch_file: str, known: Sequence[str]) -> None:
    """Refuse arguments that a launch file does not have; launch itself ignores them.

    Args:
        typed: the words of the command line. Those of a launch file that includes this one are its own.
        launch_file: name of this one.
        known: its arguments.

    Raises:
        ValueError: one is unknown; the message names the nearest that there is.
    """
    if not any(os.path.basename(word) == launch_file for word in typed):
        return
    for word in typed:
        name, given, _ = word.partition(":=")
        if given and name not in known:
            raise ValueError(f"{word}: {launch_file} has no argument {name}{nearest(name, known)}")
