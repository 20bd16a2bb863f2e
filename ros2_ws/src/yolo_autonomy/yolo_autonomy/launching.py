"""The launch description of an adapter: its parameters and topics as arguments."""

from __future__ import annotations

from collections.abc import Sequence

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch_ros.actions import Node

from yolo_autonomy.parameters import Table, read_all, unknown

_COMMON = {
    "params_file": "YAML file of the node's parameters; arguments win over it.",
    "namespace": "Of the node and its relative topics.",
    "use_sim_time": "true where time comes from /clock, as in a replay.",
    "log_level": "Least severity logged: debug, info, warn, error.",
}


def adapter(executable: str, table: Table, topics: Sequence[str]) -> LaunchDescription:
    """Describe the launch of one adapter.

    Args:
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
        given = {name: str(text) for name, text in context.launch_configurations.items()}
        complaint = unknown((name for name in given if "." not in name), described)
        if complaint:
            raise RuntimeError(complaint)
        try:
            parameters = read_all(given, table)
        except ValueError as error:
            raise RuntimeError(str(error)) from error
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
                parameters=[*files, parameters],
                remappings=renamed,
                ros_arguments=level,
                output="screen",
            )
        ]

    arguments = [
        DeclareLaunchArgument(name, default_value="", description=words) for name, words in described.items()
    ]
    return LaunchDescription([*arguments, OpaqueFunction(function=start)])
