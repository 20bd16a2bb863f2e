"""Play a bag to the detector, record what it answers, and stop with a summary.

ros2 launch yolo_trt_node replay.launch.py bag:=flight/ model:=drone.onnx

Time is the bag's (/clock), and so are the log times of the recording. It needs no rosbag2. Images that come
faster than the machine answers are dropped, as in flight; rate:=0.5 plays at half the speed, and
`ros2 run yolo_trt_node bag_detect` answers every image.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

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
from yolo_trt_node.dds import profile_environment
from yolo_trt_node.replay.bag_detect import image_connections
from yolo_trt_node.replay.bags import STORAGES, BagError, open_bag
from yolo_trt_node.replay.messages import IMAGE_TYPES
from yolo_trt_node.replay.sources import CAMERA_TYPES
from yolo_trt_node.replay.summary import write_summary

PACKAGE = "yolo_trt_node"
# How long the last images may take.
DRAIN_S = 3.0
# What detect.launch.py is told; what is empty here is left to its default.
PASSED_ON = ("model", "params_file", "backend", "transport", "namespace", "log_level", "dds_profile")


def generate_launch_description() -> LaunchDescription:
    """Declare the arguments; what they mean together is settled when the launch runs."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                "bag",
                default_value="",
                description="The rosbag2 bag to play (sqlite3 or MCAP): its folder or file. Required.",
            ),
            DeclareLaunchArgument(
                "model",
                default_value="",
                description="Path of the ONNX model. Required, unless params_file names one.",
            ),
            DeclareLaunchArgument(
                "image_topics",
                default_value="",
                description="Image topics of the bag, separated by commas. One is answered on detections, "
                "several each on TOPIC/detections. Empty: all, and of raw and compressed twins the raw one.",
            ),
            DeclareLaunchArgument(
                "rate", default_value="1.0", description="How many times as fast as recorded."
            ),
            DeclareLaunchArgument(
                "output",
                default_value="",
                description="New folder for the recording (bag), summary.json and their sources. Empty: "
                "replay_BAG_DATE in the current folder.",
            ),
            DeclareLaunchArgument(
                "storage", default_value="mcap", choices=list(STORAGES), description="How it is recorded."
            ),
            DeclareLaunchArgument(
                "annotated",
                default_value="true",
                choices=["true", "false"],
                description="Record the images with the boxes drawn in, too. They are as large as the "
                "camera's (1920x1080: 6 MB), and cost the detector time.",
            ),
            DeclareLaunchArgument(
                "start_timeout",
                default_value="1800",
                description="How many seconds the detector may take until it listens. The first start on "
                "TensorRT builds an engine, which takes minutes.",
            ),
            DeclareLaunchArgument(
                "params_file",
                default_value=PathJoinSubstitution([FindPackageShare(PACKAGE), "config", "detect.yaml"]),
                description="As in detect.launch.py: YAML file of the node's parameters.",
            ),
            *(
                DeclareLaunchArgument(name, default_value="", description=f"As in detect.launch.py: {words}.")
                for name, words in (
                    ("backend", "what runs the network"),
                    ("transport", "raw, compressed or auto"),
                    ("namespace", "of the node and its relative topics"),
                )
            ),
            DeclareLaunchArgument(
                "log_level",
                default_value="info",
                description="As in detect.launch.py: least severity logged.",
            ),
            DeclareLaunchArgument(
                "dds_profile",
                default_value="auto",
                description="As in detect.launch.py, and for player and recorder too: auto, none or a path.",
            ),
            OpaqueFunction(function=start_replay),
        ]
    )


def start_replay(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """Check the arguments; start the detector, a recorder, and a player that waits for both.

    Raises:
        RuntimeError: an argument is missing or wrong; the message says what to pass.
    """
    bag = Path(argument(context, "bag")).expanduser().absolute()
    if not argument(context, "bag"):
        raise RuntimeError("no bag given: pass the path of a rosbag2 bag, bag:=/path/to/flight")
    asked_for = [name.strip() for name in argument(context, "image_topics").split(",") if name.strip()]
    images, others = camera_topics(bag, asked_for)
    rate = positive(context, "rate")
    timeout = positive(context, "start_timeout")
    folder = output_folder(argument(context, "output"), bag)
    try:
        profile, _ = profile_environment(argument(context, "dds_profile"), context.environment)
    except ValueError as error:
        raise RuntimeError(str(error)) from error

    namespace = argument(context, "namespace").strip("/")
    base = f"/{namespace}" if namespace else ""
    # As the node names them: one camera's topics are its own, several cameras' lie under theirs.
    under = {topic: base if len(images) == 1 else topic for topic in images}
    answers = {topic: f"{name}/detections" for topic, name in under.items()}
    recorded = list(answers.values())
    if argument(context, "annotated") == "true":
        recorded += [f"{name}/annotated" for name in under.values()]

    detector = IncludeLaunchDescription(
        PythonLaunchDescriptionSource([ThisLaunchFileDir(), "/detect.launch.py"]),
        launch_arguments=[
            *((name, argument(context, name)) for name in PASSED_ON if argument(context, name)),
            ("image_topic", images[0]) if len(images) == 1 else ("cameras", ",".join(images)),
            ("use_sim_time", "true"),
            ("autostart", "true"),
        ],
    )
    recorder = Node(
        package=PACKAGE,
        executable="record_bag",
        arguments=[
            str(folder / "bag"), *recorded, f"{base}/label_info", f"{base}/vision_info",
            # Where params_file switches the ground projection on.
            *(f"{name}/detections_3d" for name in under.values()),
            "--storage", argument(context, "storage"), "--summary", str(folder / "recorder.json"),
        ],
        parameters=[{"use_sim_time": True}],
        additional_env=profile,
        output="screen",
    )  # fmt: skip
    player = Node(
        package=PACKAGE,
        executable="play_images",
        arguments=[
            str(bag), "--topics", *images, *others, "--clock", "--rate", str(rate),
            "--wait-for-subscribers", "1", "--wait-for", *recorded, "--wait-timeout", str(timeout),
            "--summary", str(folder / "player.json"),
        ],
        additional_env=profile,
        output="screen",
    )  # fmt: skip
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
            said = write_summary(folder, answers)
        except OSError as error:
            if context.is_shutdown:
                return [LogInfo(msg=f"stopped before anything was played; {folder} is left")]
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


def argument(context: LaunchContext, name: str) -> str:
    """Return a launch argument's value without blanks around it."""
    return LaunchConfiguration(name).perform(context).strip()


def positive(context: LaunchContext, name: str) -> float:
    """Return a launch argument that is a number greater than 0."""
    text = argument(context, name)
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise RuntimeError(f"{name}:={text} is no number greater than 0")
    return value


def camera_topics(bag: Path, asked_for: list[str]) -> tuple[list[str], list[str]]:
    """Return the bag's image topics to play, and its camera infos and transforms."""
    try:
        with open_bag(bag) as reader:
            images = [connection.topic for connection in image_connections(reader, asked_for)]
            others = [
                c.topic
                for c in reader.connections
                if c.msgtype in CAMERA_TYPES and c.msgtype not in IMAGE_TYPES
            ]
    except BagError as error:
        raise RuntimeError(f"bag: {error}") from error
    return list(dict.fromkeys(images)), list(dict.fromkeys(others))


def output_folder(text: str, bag: Path) -> Path:
    """Make the folder of the recording, which must be new."""
    stem = re.sub(r"\.(mcap|db3)$", "", bag.name)
    name = text or time.strftime(f"replay_{stem}_%Y%m%d_%H%M%S")
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise RuntimeError(f"output:={name} exists already; name another folder or remove it") from error
    except OSError as error:
        raise RuntimeError(f"output:={name} cannot be made: {error}") from error
    return folder
