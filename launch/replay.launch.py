"""Play a bag to the detector, record what it answers, and stop with a summary.

ros2 launch yolo_trt_node replay.launch.py bag:=flight/ model:=drone.onnx

Time is the bag's (/clock), and so are the log times of the recording. It needs no rosbag2. Images that come
faster than the machine answers are dropped, as in flight; rate:=0.5 plays at half the speed, and
`ros2 run yolo_trt_node bag_detect` answers every image.
"""

from __future__ import annotations

import sys

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    IncludeLaunchDescription,
    LogInfo,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessExit, OnProcessIO
from launch.events import Shutdown, matches_action
from launch.events.process import ProcessExited, ProcessIO, ShutdownProcess
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare
from yolo_trt_node.launch_arguments import PARAMS_FILE, REPLAY_ARGUMENTS, refuse_unknown
from yolo_trt_node.launching import plan_replay
from yolo_trt_node.replay.summary import write_summary

PACKAGE = "yolo_trt_node"
# How long the last images may take.
DRAIN_S = 3.0
NAMES = ("params_file", *(argument.name for argument in REPLAY_ARGUMENTS))


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
                for argument in REPLAY_ARGUMENTS
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), *PARAMS_FILE.split("/")]),
                description="As in detect.launch.py: YAML file of the node's parameters.",
            ),
            OpaqueFunction(function=start_replay),
        ]
    )


def start_replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments; start the detector, a recorder, and a player that waits for both.

    Raises:
        ValueError: an argument is missing or wrong; the message says what to pass.
    """
    refuse_unknown(sys.argv, "replay.launch.py", NAMES)
    given = {name: LaunchConfiguration(name).perform(context) for name in NAMES}
    plan = plan_replay(given, context.environment)
    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/detect.launch.py"]),
        launch_arguments=plan.detect,
    )
    recorder = Node(
        package=PACKAGE,
        executable="record_bag",
        arguments=plan.recorder,
        parameters=[{"use_sim_time": True}],
        additional_env=plan.environment,
        output="screen",
    )
    player = Node(
        package=PACKAGE,
        executable="play_images",
        arguments=plan.player,
        additional_env=plan.environment,
        output="screen",
    )
    ended: set[str] = set()

    def when_ended(event: ProcessExited, context: LaunchContext) -> list[LaunchDescriptionEntity]:
        complete = ended == {"player", "recorder"}
        if event.action is player:
            ended.add("player")
        elif event.action is recorder:
            ended.add("recorder")
        elif complete:
            return []  # the detector, which is stopped last
        if context.is_shutdown:
            return finish(context)
        if event.returncode or event.action not in (player, recorder):
            return [failure(f"{event.process_name} ended before the replay was over")]
        if event.action is player:
            # Its last images are still being answered; then the recorder may go.
            stop = EmitEvent(event=ShutdownProcess(process_matcher=matches_action(recorder)))
            return [TimerAction(period=DRAIN_S, actions=[stop])]
        return finish(context)

    def finish(context: LaunchContext) -> list[LaunchDescriptionEntity]:
        """Say what it came to, once player and recorder have both written their parts."""
        if ended != {"player", "recorder"}:
            return []
        try:
            said = write_summary(plan.folder, plan.answers)
        except OSError as error:
            if context.is_shutdown:
                return [LogInfo(msg=f"stopped before anything was played; {plan.folder} is left")]
            raise RuntimeError(f"replay failed: no summary: {error}") from error
        lines = [LogInfo(msg=line) for line in said.splitlines()]
        return [*lines, EmitEvent(event=Shutdown(reason="the replay is over"))]

    def when_said(event: ProcessIO) -> list[LaunchDescriptionEntity]:
        if b"configure failed" in event.text:
            return [failure("the detector could not be configured; its log above says why")]
        return []

    return [
        RegisterEventHandler(OnProcessExit(on_exit=when_ended)),
        RegisterEventHandler(OnProcessIO(on_stdout=when_said, on_stderr=when_said)),
        detector,
        recorder,
        player,
    ]


def failure(reason: str) -> LaunchDescriptionEntity:
    """End the launch with an exit status that scripts notice."""

    def fail(_: LaunchContext) -> None:
        raise RuntimeError(f"replay failed: {reason}")

    return OpaqueFunction(function=fail)
