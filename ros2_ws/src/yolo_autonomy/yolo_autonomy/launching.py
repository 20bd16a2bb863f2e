"""The launch description of an adapter: its parameters and topics as arguments."""

from __future__ import annotations

import sys
import typing
from collections.abc import Sequence

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue
from yolo_trt_node.launch_arguments import refuse_unknown

from yolo_autonomy.parameters import Table, read_all

# launch knows the types of parameters by these names only, not as list[str].
_STRINGS = typing.List[str]  # noqa: UP006

_COMMON = {
    "params_file": "YAML file of the node's parameters; arguments win over it.",
    "namespace": "Of the node and its relative topics.",
    "use_sim_time": "true where time comes from /clock, as in a replay.",
    "log_level": "Least severity logged: debug, info, warn, error.",
}


def adapter(launch_file: str, executable: str, table: Table, topics: Sequence[str]) -> LaunchDescription:
    """Describe the launch of one adapter.

    Args:
        launch_file: its name.
        executable: of this package; the node has the same name.
        table: its parameters, each an argument.
        topics: its relative topics; ``NAME_topic:=/other`` renames one.
    """
    described = {
        **{name: f"{words} Default: {default!r}." for name, (default, words) in table.items()},
        **{f"{topic}_topic": f"Another name for the topic {topic}." for topic in topics},
        **_COMMON,
    }

    def start(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        refuse_unknown(sys.argv, launch_file, list(described))
        given = {name: LaunchConfiguration(name).perform(context).strip() for name in described}
        parameters: dict[str, object] = {
            name: _as_text(value) for name, value in read_all(given, table).items()
        }
        if given["use_sim_time"].lower() in ("true", "1"):
            parameters["use_sim_time"] = True
        files = [given["params_file"]] if given["params_file"] else []
        renamed = [(topic, given[f"{topic}_topic"]) for topic in topics if given[f"{topic}_topic"]]
        level = ["--log-level", given["log_level"]] if given["log_level"] else []
        return [
            Node(
                package="yolo_autonomy",
                executable=executable,
                name=executable,
                namespace=given["namespace"],
                parameters=[*files, parameters] if parameters else files,
                remappings=renamed,
                ros_arguments=level,
                output="screen",
            )
        ]

    arguments = [
        DeclareLaunchArgument(name, default_value="", description=words) for name, words in described.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])


def _as_text(value: object) -> object:
    """Mark texts as such: launch would read "8" as a number."""
    if isinstance(value, str):
        return ParameterValue(value, value_type=str)
    if isinstance(value, list) and all(isinstance(entry, str) for entry in value):
        return ParameterValue(value, value_type=_STRINGS)
    return value
