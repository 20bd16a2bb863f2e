"""What the launch files do with their arguments, as functions of texts; `launch/` only declares and starts.

No launch is needed here, so that every rule has a test wherever the package is.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rclpy.exceptions import InvalidTopicNameException
from rclpy.validate_topic_name import validate_topic_name

from yolo_trt_node.dds import profile_environment
from yolo_trt_node.launch_arguments import DETECT_ARGUMENTS, DETECTIONS_TOPIC, IMAGE_TOPIC
from yolo_trt_node.node_options import NODE_OPTIONS
from yolo_trt_node.options import Value
from yolo_trt_node.params_file import known_values, read_sections, values_for

NO_MODEL = """\
no model given. Pass the path of an ONNX file:
    ros2 launch yolo_trt_node detect.launch.py model:=/path/to/model.onnx image_topic:=/camera/image_raw
A compressed model for your cameras: yolo-compress run RECIPE.yaml
A stock one to begin with: yolo export model=yolov8n.pt format=onnx"""

_BY_NAME = {option.name: option for option in NODE_OPTIONS}


@dataclass(frozen=True)
class DetectorPlan:
    """How the node is to be started.

    Attributes:
        params_file: absolute path of the parameter file.
        parameters: what arguments set over it.
        remappings: (inner name, topic) pairs.
        ros_arguments: what follows ``--ros-args``.
        environment: variables to add.
        note: a line for the log; empty for none.
        respawn: start it again whenever it ends.
    """

    params_file: str
    parameters: dict[str, Value]
    remappings: list[tuple[str, str]]
    ros_arguments: list[str]
    environment: dict[str, str]
    note: str
    respawn: bool


def plan_detector(
    given: Mapping[str, str], environment: Mapping[str, str], outer_namespace: str = ""
) -> DetectorPlan:
    """Decide how to start the node.

    Args:
        given: the value of every argument of `DETECT_ARGUMENTS`, and params_file.
        environment: what the node's process would have.
        outer_namespace: pushed by a launch file that includes this one.

    Raises:
        ValueError: an argument is missing or wrong; the message says what to pass.
    """
    given = {name: value.strip() for name, value in given.items()}
    node = full_name(outer_namespace, given["namespace"], given["node_name"])
    path = existing_file(given["params_file"], "params_file")
    try:
        from_file = known_values(values_for(read_sections(path), node, path), NODE_OPTIONS, path)
    except ValueError as error:
        raise ValueError(f"params_file:={error}") from None
    parameters = parameters_given(given)
    if "model" not in parameters and not from_file.get("model"):
        raise ValueError(NO_MODEL)
    profile, note = profile_environment(given["dds_profile"], environment)
    enclave = given["enclave"]
    if enclave and not enclave.startswith("/"):
        raise ValueError(f"enclave:={enclave} is no enclave: its name begins with a slash")
    # The node's own logger: a level for all of them would bury its messages in those of rcl.
    logger = node.strip("/").replace("/", ".")
    return DetectorPlan(
        params_file=path,
        parameters=parameters,
        remappings=remappings(given),
        ros_arguments=[
            *("--log-level", f"{logger}:={given['log_level']}"),
            *(("--enclave", enclave) if enclave else ()),
        ],
        environment=profile,
        note=note,
        respawn=boolean("use_respawn", given["use_respawn"]),
    )


def full_name(outer_namespace: str, namespace: str, name: str) -> str:
    """Return a node's full name; an absolute namespace stands alone, another lies in the outer one."""
    parts = [namespace] if namespace.startswith("/") else [outer_namespace, namespace]
    return "/" + "/".join(part.strip("/") for part in [*parts, name] if part.strip("/"))


def parameters_given(given: Mapping[str, str]) -> dict[str, Value]:
    """Return the node's parameters that launch arguments set.

    Raises:
        ValueError: a value is not allowed.
    """
    found: dict[str, Value] = {}
    transport = given.get("transport", "")
    if transport and given.get("image_transport"):
        raise ValueError("transport is short for image_transport: give one of them")
    texts = {**given, "image_transport": transport or given.get("image_transport", "")}
    for name, option in _BY_NAME.items():
        if not texts.get(name):
            continue
        if name == "cameras":
            found[name] = camera_list(texts[name])
        elif name == "model":
            found[name] = absolute(texts[name])
        else:
            found[name] = option.parse(texts[name])
    if given.get("use_sim_time"):
        found["use_sim_time"] = boolean("use_sim_time", given["use_sim_time"])
    return found


def remappings(given: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return where one camera's topics lie; several cameras' names say it themselves.

    Raises:
        ValueError: a text is no topic, or one camera's topic is given beside several cameras.
    """
    pairs = [("image", "image_topic", IMAGE_TOPIC), ("detections", "detections_topic", DETECTIONS_TOPIC)]
    if given["cameras"]:
        for _, name, default in pairs:
            if given[name] != default:
                raise ValueError(
                    f"{name} is for one camera: with cameras, the names in cameras say the topics"
                )
        return []
    return [(inner, topic(name, given[name])) for inner, name, _ in pairs]


def topic(name: str, text: str) -> str:
    """Check a launch argument that names a topic; ROS itself would end the node with a parser's error.

    Raises:
        ValueError: it cannot be one.
    """
    try:
        validate_topic_name(text)
    except (InvalidTopicNameException, ValueError) as error:
        raise ValueError(f"{name}:={text} cannot be a topic: {error}") from error
    return text


def camera_list(text: str) -> list[str]:
    """Read cameras, with or without the brackets and quotes that a parameter file has.

    Raises:
        ValueError: a name is empty or cannot be a topic.
    """
    names = [name.strip().strip("\"'") for name in text.removeprefix("[").removesuffix("]").split(",")]
    if not all(names):
        raise ValueError(f"cameras:={text} holds an empty name; write cameras:=front,down")
    return [topic("cameras", name) for name in names]


def boolean(name: str, text: str) -> bool:
    """Read a launch argument as true or false, in the spellings that launch's conditions take.

    Raises:
        ValueError: it is neither.
    """
    values = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in values:
        raise ValueError(f"{name}:={text} is neither true nor false")
    return values[text.lower()]


def positive(name: str, text: str) -> float:
    """Read a launch argument that is a number greater than 0.

    Raises:
        ValueError: it is not.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}:={text} is no number greater than 0")
    return value


def absolute(path: str) -> str:
    """Return a path as the caller's shell would have understood it."""
    return os.path.abspath(os.path.expanduser(path))


def existing_file(path: str, name: str) -> str:
    """Return the absolute path of a file that a launch argument names.

    Raises:
        ValueError: there is none.
    """
    found = absolute(path)
    if not os.path.isfile(found):
        raise ValueError(f"{name}:={path}: there is no file {found}")
    return found


@dataclass(frozen=True)
class ReplayPlan:
    """How a replay is to be started.

    Attributes:
        folder: of everything that it writes; made.
        detect: arguments of detect.launch.py.
        recorder: of record_bag.
        player: of play_images.
        environment: variables to add to both.
        answers: of each image topic the topic of its detections.
    """

    folder: Path
    detect: list[tuple[str, str]]
    recorder: list[str]
    player: list[str]
    environment: dict[str, str]
    answers: dict[str, str]


def plan_replay(given: Mapping[str, str], environment: Mapping[str, str]) -> ReplayPlan:
    """Decide how to start a replay, and make its folder.

    Args:
        given: the value of every argument of `REPLAY_ARGUMENTS`, and params_file.
        environment: what the processes would have.

    Raises:
        ValueError: an argument is missing or wrong; the message says what to pass.
    """
    given = {name: value.strip() for name, value in given.items()}
    if not given["bag"]:
        raise ValueError("no bag given: pass the path of a rosbag2 bag, bag:=/path/to/flight")
    bag = Path(given["bag"]).expanduser().absolute()
    asked_for = [name.strip() for name in given["image_topics"].split(",") if name.strip()]
    images, others = camera_topics(bag, asked_for)
    rate = positive("rate", given["rate"])
    timeout = positive("start_timeout", given["start_timeout"])
    parameters_given(given)  # before a folder is made
    profile, _ = profile_environment(given["dds_profile"], environment)
    folder = output_folder(given["output"], bag)

    namespace = given["namespace"].strip("/")
    base = f"/{namespace}" if namespace else ""
    # As the node names them: one camera's topics are its own, several cameras' lie under theirs.
    under = {image: base if len(images) == 1 else image for image in images}
    answers = {image: f"{name}/detections" for image, name in under.items()}
    recorded = list(answers.values())
    if given["annotated"] == "true":
        recorded += [f"{name}/annotated" for name in under.values()]
    known = {argument.name for argument in DETECT_ARGUMENTS} | {"params_file"}
    return ReplayPlan(
        folder=folder,
        detect=[
            *((name, value) for name, value in given.items() if name in known and value),
            ("image_topic", images[0]) if len(images) == 1 else ("cameras", ",".join(images)),
            ("use_sim_time", "true"),
            ("autostart", "true"),
        ],
        recorder=[
            str(folder / "bag"), *recorded, f"{base}/label_info", f"{base}/vision_info",
            # Where the ground projection is switched on.
            *(f"{name}/detections_3d" for name in under.values()),
            "--storage", given["storage"], "--summary", str(folder / "recorder.json"),
        ],
        player=[
            str(bag), "--topics", *images, *others, "--clock", "--rate", str(rate),
            "--wait-for-subscribers", "1", "--wait-for", *recorded, "--wait-timeout", str(timeout),
            "--summary", str(folder / "player.json"),
        ],
        environment=profile,
        answers=answers,
    )  # fmt: skip


def camera_topics(bag: Path, asked_for: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the bag's image topics to play, and its camera infos and transforms.

    Raises:
        ValueError: it cannot be read, or has no such images.
    """
    # Only a replay needs what reads bags.
    from yolo_trt_node.replay.bag_images import image_connections
    from yolo_trt_node.replay.bags import BagError, open_bag
    from yolo_trt_node.replay.messages import IMAGE_TYPES
    from yolo_trt_node.replay.sources import CAMERA_TYPES

    try:
        with open_bag(bag) as reader:
            images = [connection.topic for connection in image_connections(reader, asked_for)]
            others = [
                c.topic
                for c in reader.connections
                if c.msgtype in CAMERA_TYPES and c.msgtype not in IMAGE_TYPES
            ]
    except BagError as error:
        raise ValueError(f"bag: {error}") from error
    return list(dict.fromkeys(images)), list(dict.fromkeys(others))


def output_folder(text: str, bag: Path) -> Path:
    """Make the folder of the recording, which must be new.

    Raises:
        ValueError: it is not, or cannot be made.
    """
    stem = re.sub(r"\.(mcap|db3)$", "", bag.name)
    name = text or time.strftime(f"replay_{stem}_%Y%m%d_%H%M%S")
    folder = Path(name).expanduser().absolute()
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise ValueError(f"output:={name} exists already; name another folder or remove it") from error
    except OSError as error:
        raise ValueError(f"output:={name} cannot be made: {error}") from error
    return folder
