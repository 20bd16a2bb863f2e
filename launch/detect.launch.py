"""Start the detector on one camera topic, or on several.

ros2 launch yolo_trt_node detect.launch.py model:=drone.onnx image_topic:=/camera/image_raw
ros2 launch yolo_trt_node detect.launch.py model:=drone.onnx cameras:=front,down

Every parameter of the node is an argument too (tiling:=2x2 tracker:=true score_threshold:=0.1). These are
empty by default, which leaves the word to the parameter file; given, they win over it.

In a container, stop it with SIGINT (`docker run --stop-signal SIGINT`, or `stop_signal: SIGINT` in a compose
file): on SIGTERM, Docker's default, `ros2 launch` itself ends without ending its nodes.
"""

from __future__ import annotations

import sys
import typing

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from launch_ros.substitutions import FindPackageShare
from yolo_trt_node.launch_arguments import DETECT_ARGUMENTS, PARAMS_FILE, refuse_unknown
from yolo_trt_node.launching import plan_detector

PACKAGE = "yolo_trt_node"
RESPAWN_DELAY_S = 2.0
# launch knows the types of parameters by these names only, not as list[str].
STRINGS = typing.List[str]  # noqa: UP006
NAMES = ("params_file", *(argument.name for argument in DETECT_ARGUMENTS))


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what they mean together is settled when the launch runs."""
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(
                    argument.name,
                    default_value=argument.default,
                    description=argument.text,
                    choices=list(argument.choices) or None,
                )
                for argument in DETECT_ARGUMENTS
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), *PARAMS_FILE.split("/")]),
                description="YAML file of the node's parameters; the default one explains them all.",
            ),
            OpaqueFunction(function=start_detector),
        ]
    )


def start_detector(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments and start the node.

    Raises:
        ValueError: an argument is missing or wrong; the message says what to pass.
    """
    refuse_unknown(sys.argv, "detect.launch.py", NAMES)
    given = {name: LaunchConfiguration(name).perform(context) for name in NAMES}
    outer = context.launch_configurations.get("ros_namespace", "")
    plan = plan_detector(given, context.environment, outer)
    # Texts as such: launch would read "8" as a number.
    parameters = {
        name: ParameterValue(value, value_type=str if isinstance(value, str) else STRINGS)
        if isinstance(value, str | list)
        else value
        for name, value in plan.parameters.items()
    }
    # A plain Node: launch needs no ROS node of its own for a detector that drives its own life cycle.
    node = Node(
        package=PACKAGE,
        executable="detector_node",
        name=given["node_name"].strip(),
        namespace=given["namespace"].strip(),
        parameters=[plan.params_file, parameters] if parameters else [plan.params_file],
        remappings=plan.remappings,
        ros_arguments=plan.ros_arguments,
        additional_env=plan.environment,
        output="screen",
        respawn=plan.respawn,
        respawn_delay=RESPAWN_DELAY_S,
    )
    return [LogInfo(msg=plan.note), node] if plan.note else [node]
