"""Start the detector on one camera topic, or on several.

ros2 launch yolo_trt_node detect.launch.py model:=drone.onnx image_topic:=/camera/image_raw
ros2 launch yolo_trt_node detect.launch.py model:=drone.onnx cameras:=front,down

The arguments that set a parameter of the node (model, backend, cameras, transport, autostart, use_sim_time)
are empty by default, which leaves the word to the parameter file; given, they win over it.

In a container, stop it with SIGINT (`docker run --stop-signal SIGINT`, or `stop_signal: SIGINT` in a compose
file): on SIGTERM, Docker's default, `ros2 launch` itself ends without ending its nodes.
"""

from __future__ import annotations

import os
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from launch_ros.utilities import make_namespace_absolute, prefix_namespace
from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name
from yolo_trt_node.dds import profile_environment

PACKAGE = "yolo_trt_node"
IMAGE_TOPIC = "/camera/image_raw"
DETECTIONS_TOPIC = "detections"
RESPAWN_DELAY_S = 2.0
# launch knows the types of parameters by these names only, not as list[str].
STRINGS = typing.List[str]  # noqa: UP006

NO_MODEL = """\
no model given. Pass the path of an ONNX file:
    ros2 launch yolo_trt_node detect.launch.py model:=/path/to/model.onnx image_topic:=/camera/image_raw
A compressed model for your cameras: yolo-compress run RECIPE.yaml
A stock one to begin with: yolo export model=yolov8n.pt format=onnx"""


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what they mean together is settled when the launch runs."""
    default_params = PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "detect.yaml"])
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "model",
                default_value="",
                description="Path of the ONNX model (~ and paths relative to the current folder are fine). "
                "Required, unless params_file names one.",
            ),
            DeclareLaunchArgument(
                "image_topic",
                default_value=IMAGE_TOPIC,
                description="Camera topic, sensor_msgs/Image or CompressedImage; a relative name is taken "
                "in the namespace.",
            ),
            DeclareLaunchArgument(
                "detections_topic",
                default_value=DETECTIONS_TOPIC,
                description="Topic of the detections, vision_msgs/Detection2DArray; a relative name is taken "
                "in the namespace, where label_info, vision_info and annotated are too.",
            ),
            DeclareLaunchArgument(
                "cameras",
                default_value="",
                description="Several cameras on one model, instead of image_topic and detections_topic: "
                "names such as front,down (front/image is answered on front/detections) or topics such as "
                "/front/image_raw,/down/image_raw (answered on TOPIC/detections). Empty: as in params_file, "
                "else one camera.",
            ),
            DeclareLaunchArgument(
                "transport",
                default_value="",
                description="What is read: raw, compressed (JPEG, PNG; of the topic or TOPIC/compressed) or "
                "auto: what is published. Empty: as in params_file, else auto.",
            ),
            DeclareLaunchArgument(
                "namespace",
                default_value="",
                description="Namespace of the node and its relative topics, such as uav1.",
            ),
            DeclareLaunchArgument(
                "node_name", default_value="yolo_detector", description="Name of the node."
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=default_params,
                description="YAML file of the node's parameters; the default one explains them all.",
            ),
            DeclareLaunchArgument(
                "backend",
                default_value="",
                description="What runs the network, such as onnxruntime; auto takes the best that loads. "
                "Empty: as in params_file, else auto.",
            ),
            DeclareLaunchArgument(
                "autostart",
                default_value="",
                description="true: the node configures and activates itself; false: a lifecycle manager or "
                "`ros2 lifecycle set` does. Empty: as in params_file, else true.",
            ),
            DeclareLaunchArgument(
                "use_sim_time",
                default_value="",
                description="true: time comes from /clock, for a simulation or `ros2 bag play --clock`. "
                "Empty: as in params_file, else false.",
            ),
            DeclareLaunchArgument(
                "use_respawn",
                default_value="false",
                description=f"true: start the node again, after {RESPAWN_DELAY_S:g} s, whenever it ends.",
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                choices=["debug", "info", "warn", "error", "fatal"],
                description="Least severity that the node logs.",
            ),
            DeclareLaunchArgument(
                "enclave",
                default_value="",
                description="Enclave of the node on a secured system (SROS 2), such as /yolo_detector; "
                "config/sros2/policy.xml in the package's share is its policy. Empty: as ROS chooses.",
            ),
            DeclareLaunchArgument(
                "dds_profile",
                default_value="auto",
                description="DDS profile of the node. auto: the shipped one for large images (Fast DDS or "
                "Cyclone DDS, as RMW_IMPLEMENTATION says), unless the environment names another; none: "
                "leave all as it is; or the path of an XML profile. The process of the camera needs the "
                "profile too: that cannot be done from here.",
            ),
            OpaqueFunction(function=start_detector),
        ]
    )


def start_detector(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments and start the node.

    Raises:
        RuntimeError: an argument is missing or wrong; the message says what to pass.
    """
    params_file = existing_file(argument(context, "params_file"), "params_file")
    parameters = given_parameters(context, read_parameters(params_file))
    try:
        profile, profile_note = profile_environment(argument(context, "dds_profile"), context.environment)
    except ValueError as error:
        raise RuntimeError(str(error)) from error

    enclave = argument(context, "enclave")
    if enclave and not enclave.startswith("/"):
        raise RuntimeError(f"enclave:={enclave} is no enclave: its name begins with a slash")
    namespace = argument(context, "namespace")
    name = argument(context, "node_name")
    # The node's own logger: a level for all of them would bury its messages in those of rcl.
    outer = context.launch_configurations.get("ros_namespace")
    full_name = f"{make_namespace_absolute(prefix_namespace(outer, namespace))}/{name}"
    logger = ".".join(part for part in full_name.split("/") if part)

    # A plain Node: launch needs no ROS node of its own for a detector that drives its own life cycle.
    node = Node(
        package=PACKAGE,
        executable="detector_node",
        name=name,
        namespace=namespace,
        parameters=[params_file, parameters] if parameters else [params_file],
        remappings=remappings(context),
        ros_arguments=[
            *("--log-level", f"{logger}:={argument(context, 'log_level')}"),
            *(("--enclave", enclave) if enclave else ()),
        ],
        additional_env=profile,
        output="screen",
        respawn=boolean("use_respawn", argument(context, "use_respawn")),
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [LogInfo(msg=profile_note), node] if profile_note else [node]


def argument(context: LaunchContext, name: str) -> str:
    """Return a launch argument's value without blanks around it."""
    return LaunchConfiguration(name).perform(context).strip()


def topic(context: LaunchContext, name: str) -> str:
    """Return a launch argument that names a topic.

    ROS itself would end the node with a parser's error where the name is wrong.
    """
    value = argument(context, name)
    try:
        validate_topic_name(value)
    except (InvalidTopicNameException, ValueError) as error:
        raise RuntimeError(f"{name}:={value} cannot be a topic. {error}") from error
    return value


def remappings(context: LaunchContext) -> list[tuple[str, str]]:
    """Return where one camera's topics lie; several cameras' names say it themselves."""
    pairs = [("image", "image_topic", IMAGE_TOPIC), ("detections", "detections_topic", DETECTIONS_TOPIC)]
    if argument(context, "cameras"):
        for _, name, default in pairs:
            if argument(context, name) != default:
                raise RuntimeError(
                    f"{name} is for one camera: with cameras, the names in cameras say the topics"
                )
        return []
    return [(inner, topic(context, name)) for inner, name, _ in pairs]


def camera_list(text: str) -> list[str]:
    """Read cameras, with or without the brackets and quotes that a parameter file has."""
    names = [name.strip().strip("\"'") for name in text.removeprefix("[").removesuffix("]").split(",")]
    if not all(names):
        raise RuntimeError(f"cameras:={text} holds an empty name; write cameras:=front,down")
    return names


def given_parameters(context: LaunchContext, from_file: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the node's parameters that launch arguments set.

    Args:
        context: of the launch.
        from_file: the parameter sections of params_file.
    """
    given: dict[str, Any] = {}
    model = argument(context, "model")
    if model:
        given["model"] = ParameterValue(absolute(model), value_type=str)
    elif not any(section.get("model") for section in from_file):
        raise RuntimeError(NO_MODEL)
    for name, parameter in (("backend", "backend"), ("transport", "image_transport")):
        text = argument(context, name)
        if text:
            given[parameter] = ParameterValue(text, value_type=str)
    cameras = argument(context, "cameras")
    if cameras:
        given["cameras"] = ParameterValue(
            camera_list(cameras), value_type=list[str]
        )  # launch takes no list[str]
    for name in ("autostart", "use_sim_time"):
        text = argument(context, name)
        if text:
            given[name] = boolean(name, text)
    return given


def boolean(name: str, text: str) -> bool:
    """Read a launch argument as true or false, in the spellings that launch's conditions take."""
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise RuntimeError(f"{name}:={text} is neither true nor false")
    return values[text.lower()]


def absolute(path: str) -> str:
    """Return a path as the caller's shell would have understood it."""
    return os.path.abspath(os.path.expanduser(path))


def existing_file(path: str, name: str) -> str:
    """Return the absolute path of a file that a launch argument names."""
    found = absolute(path)
    if not os.path.isfile(found):
        raise RuntimeError(f"{name}:={path}: there is no file {found}")
    return found


def read_parameters(path: str) -> list[dict[str, Any]]:
    """Return the ``ros__parameters`` sections of a parameter file, whichever nodes they are for.

    ROS itself would end the node with a parser's message that names neither the argument nor a remedy.
    """

    def sections(content: Any) -> Iterator[dict[str, Any]]:
        if isinstance(content, Mapping):
            for key, value in content.items():
                if key == "ros__parameters" and isinstance(value, Mapping):
                    yield dict(value)
                else:
                    yield from sections(value)

    try:
        found = list(sections(yaml.safe_load(Path(path).read_text())))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RuntimeError(f"params_file:={path} cannot be read as YAML: {error}") from error
    if not found:
        raise RuntimeError(
            f"params_file:={path} holds no parameters: they belong under a node's name (/** for any) and "
            "ros__parameters, as in the package's config/detect.yaml"
        )
    return found
