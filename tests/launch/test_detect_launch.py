"""What ``ros2 launch yolo_trt_node detect.launch.py`` does with its arguments.

The launch file runs under the real launch system, in a process of its own; a stand-in for the node tells what
reached it, as ROS understood it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Not `launch`: the repository's own folder of that name would do as an (empty) package.
pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with ROS 2, not from PyPI")

from launch import LaunchContext
from launch.launch_description_sources import PythonLaunchDescriptionSource
from support.launching import RUNNER, install_package
from yolo_trt_node.launch_arguments import DETECT_ARGUMENTS

ROOT = Path(__file__).resolve().parents[2]
LAUNCH_FILE = ROOT / "launch" / "detect.launch.py"
ARGUMENTS = {"params_file", *(argument.name for argument in DETECT_ARGUMENTS)}
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
ENVIRONMENT_THAT_MATTERS = (
    *PROFILE_VARIABLES,
    "CYCLONEDDS_URI",
    "FASTDDS_BUILTIN_TRANSPORTS",
    "RMW_IMPLEMENTATION",
)

# Node options that a real node would have; what it sees goes, one JSON line a start, into a file.
STAND_IN = """#!{python}
import json, os, signal, sys
profiles = {{name: os.environ.pop(name, None) for name in {variables!r}}}
import rclpy
rclpy.init(args=sys.argv)
node = rclpy.create_node("unnamed", automatically_declare_parameters_from_overrides=True)
seen = dict(
    name=node.get_fully_qualified_name(),
    parameters={{name: p.value for name, p in node.get_parameters_by_prefix("").items()}},
    image=node.resolve_topic_name("image"),
    detections=node.resolve_topic_name("detections"),
    enclaves=node.get_node_names_and_namespaces_with_enclaves(),
    level=node.get_logger().get_effective_level().name,
    rcl_level=rclpy.logging.get_logger_effective_level("rcl").name,
    profiles=profiles,
    cwd=os.getcwd(),
)
with open({report!r}, "a") as file:
    file.write(json.dumps(seen) + "\\n")
if os.environ.get("STAND_IN_DIES"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


class Launcher:
    """Runs the launch file against an installed package whose node is the stand-in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = folder / "install"
        self.report = folder / "report.jsonl"
        self.launch_file = LAUNCH_FILE
        self.environment = {
            name: value for name, value in os.environ.items() if name not in ENVIRONMENT_THAT_MATTERS
        }
        self.environment["AMENT_PREFIX_PATH"] = f"{self.prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}"
        self.environment["ROS_LOG_DIR"] = str(folder / "log")
        self.environment["HOME"] = str(folder)
        script = STAND_IN.format(python=sys.executable, variables=PROFILE_VARIABLES, report=str(self.report))
        share = install_package(self.prefix, {"detector_node": script})
        self.profile = str(share / "config" / "dds" / "fastdds_large_frames.xml")

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", RUNNER, str(self.launch_file), *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def starts(self) -> list[dict]:
        return (
            [json.loads(line) for line in self.report.read_text().splitlines()]
            if self.report.exists()
            else []
        )

    def node(self, *arguments: str) -> dict:
        """Launch, and return what the node saw."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        (seen,) = self.starts()
        return seen

    def refusal(self, *arguments: str) -> str:
        """Launch with wrong arguments, and return the one error message."""
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 1, output
        assert "Traceback" not in output
        assert not self.starts(), "the node was started"
        marker = "Caught exception in launch (see debug for traceback): "
        assert output.count(marker) == 1, output
        return output.split(marker)[1]


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_every_argument_is_described_and_has_a_default():
    description = PythonLaunchDescriptionSource(str(LAUNCH_FILE)).get_launch_description(LaunchContext())

    arguments = {argument.name: argument for argument in description.get_launch_arguments()}

    assert set(arguments) == ARGUMENTS
    for name, argument in arguments.items():
        assert argument.description.endswith((".", "]")), f"{name}: {argument.description!r}"
        assert argument.default_value is not None, (
            f"{name} has no default: --show-args would call it required"
        )


def test_without_model_the_launch_says_what_to_pass(launcher):
    message = launcher.refusal()

    assert "no model given" in message
    assert "model:=/path/to/model.onnx" in message
    assert "yolo export" in message


def test_defaults_reach_the_node(launcher):
    (launcher.folder / "drone.onnx").touch()

    seen = launcher.node("model:=drone.onnx")

    assert seen["name"] == "/yolo_detector"
    assert seen["image"] == "/camera/image_raw"
    assert seen["detections"] == "/detections"
    assert seen["parameters"]["model"] == str(launcher.folder / "drone.onnx")
    assert seen["parameters"]["backend"] == "auto"
    assert seen["parameters"]["autostart"] is True
    assert seen["parameters"]["use_sim_time"] is False
    assert seen["parameters"]["classes"] == [""]
    assert seen["level"] == "INFO"


def test_a_tilde_in_the_models_path_is_the_home_folder(launcher):
    assert launcher.node("model:=~/a b.onnx")["parameters"]["model"] == str(launcher.folder / "a b.onnx")


def test_a_model_whose_name_looks_like_a_number_stays_a_text(launcher):
    launcher.environment["HOME"] = "/"

    assert launcher.node("model:=/8")["parameters"]["model"] == "/8"


def test_topics_and_names_are_remapped(launcher):
    seen = launcher.node(
        "model:=m.onnx",
        "namespace:=uav1",
        "node_name:=eye",
        "image_topic:=front/image",
        "detections_topic:=/all",
    )

    assert seen["name"] == "/uav1/eye"
    assert seen["image"] == "/uav1/front/image"
    assert seen["detections"] == "/all"


def test_cameras_by_name_or_topic_reach_the_node_as_texts(launcher):
    by_name = launcher.node("model:=m.onnx", "cameras:=front, on,_7", "transport:=compressed")["parameters"]
    launcher.report.unlink()
    as_in_a_file = launcher.node("model:=m.onnx", "cameras:=['/front/image', \"/down/image\"]")["parameters"]

    assert by_name["cameras"] == ["front", "on", "_7"]
    assert by_name["image_transport"] == "compressed"
    assert as_in_a_file["cameras"] == ["/front/image", "/down/image"]


def test_with_several_cameras_nothing_is_remapped(launcher):
    seen = launcher.node("model:=m.onnx", "cameras:=front,down", "namespace:=uav1")

    assert seen["image"] == "/uav1/image"
    assert seen["detections"] == "/uav1/detections"


def test_an_including_launch_file_can_push_a_namespace(launcher):
    launcher.launch_file = launcher.folder / "fleet.launch.py"
    launcher.launch_file.write_text(
        "from launch import LaunchDescription\n"
        "from launch.actions import GroupAction, IncludeLaunchDescription\n"
        "from launch.launch_description_sources import PythonLaunchDescriptionSource\n"
        "from launch_ros.actions import PushRosNamespace\n"
        "def generate_launch_description():\n"
        "    return LaunchDescription([GroupAction([PushRosNamespace('fleet'), IncludeLaunchDescription(\n"
        f"        PythonLaunchDescriptionSource({str(LAUNCH_FILE)!r}),\n"
        "        launch_arguments=dict(model='m.onnx', namespace='uav1', log_level='debug').items())])])\n"
    )

    seen = launcher.node()

    assert seen["name"] == "/fleet/uav1/yolo_detector"
    assert seen["level"] == "DEBUG"


def test_the_enclave_is_the_nodes(launcher):
    seen = launcher.node("model:=m.onnx", "enclave:=/drone/eye")

    assert ["yolo_detector", "/", "/drone/eye"] in seen["enclaves"]


def test_every_parameter_of_the_node_is_an_argument(launcher):
    given = ("tiling:=2x2", "tracker:=true", "score_threshold:=0.1", "classes:=car,8", "engine_cache:=1")

    seen = launcher.node("model:=m.onnx", *given, "diagnostics.min_rate_hz:=2")["parameters"]

    expected = {
        "tiling": "2x2", "tracker": True, "score_threshold": 0.1, "classes": ["car", "8"],
        "engine_cache": "1", "diagnostics.min_rate_hz": 2.0,
    }  # fmt: skip
    assert expected.items() <= seen.items()


def test_an_unknown_argument_is_an_error_that_names_the_nearest(launcher):
    message = launcher.refusal("model:=m.onnx", "imagetopic:=/x")

    assert "no argument imagetopic; did you mean image_topic?" in message


def test_log_level_is_the_nodes_own(launcher):
    seen = launcher.node("model:=m.onnx", "namespace:=uav1", "log_level:=debug")

    assert seen["level"] == "DEBUG"
    assert seen["rcl_level"] == "INFO"


@pytest.mark.parametrize("rule", ["/**", "yolo_detector", "/yolo_detector"])
def test_the_users_file_wins_over_defaults_and_arguments_win_over_the_file(launcher, rule):
    params_file = write(
        launcher.folder / "mine.yaml",
        f"{rule}:\n  ros__parameters:\n    model: /from/file.onnx\n    backend: onnxruntime\n"
        "    autostart: false\n    use_sim_time: true\n    max_det: 7\n    cameras: [front]\n",
    )

    kept = launcher.node(f"params_file:={params_file}")["parameters"]
    launcher.report.unlink()
    overruled = launcher.node(
        f"params_file:={params_file}",
        "model:=/given.onnx",
        "backend:=auto",
        "autostart:=True",
        "use_sim_time:=0",
    )["parameters"]

    expected = {
        "model": "/from/file.onnx",
        "backend": "onnxruntime",
        "autostart": False,
        "use_sim_time": True,
    }
    assert expected.items() <= kept.items()
    assert kept["cameras"] == overruled["cameras"] == ["front"]
    expected = {"model": "/given.onnx", "backend": "auto", "autostart": True, "use_sim_time": False}
    assert expected.items() <= overruled.items()
    assert kept["max_det"] == overruled["max_det"] == 7


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("use_sim_time:=maybe", "neither true nor false"),
        ("autostart:=yes please", "must be true or false"),
        ("use_respawn:=2", "neither true nor false"),
        ("params_file:=nowhere.yaml", "there is no file"),
        ("dds_profile:=nowhere.xml", "there is no file"),
        ("log_level:=loud", "Valid options are"),
        ("namespace:=uav-1", "Invalid namespace"),
        ("image_topic:=/camera-1/image", "cannot be a topic"),
        ("detections_topic:=", "cannot be a topic"),
        ("cameras:=front,,down", "empty name"),
        ("enclave:=detector", "begins with a slash"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_or_value(launcher, argument, words):
    message = launcher.refusal("model:=m.onnx", argument)

    name, value = argument.split(":=")
    assert words in message
    assert name in message or value in message


@pytest.mark.parametrize("argument", ["image_topic:=/nose", "detections_topic:=/found"])
def test_one_cameras_topics_beside_several_cameras_are_refused(launcher, argument):
    message = launcher.refusal("model:=m.onnx", "cameras:=front,down", argument)

    assert f"{argument.split(':')[0]} is for one camera" in message


@pytest.mark.parametrize(
    ("content", "words"), [("a: [1", "cannot be read as YAML"), ("model: m.onnx", "ros__parameters")]
)
def test_a_file_that_holds_no_parameters_is_refused(launcher, content, words):
    params_file = write(launcher.folder / "wrong.yaml", content)

    message = launcher.refusal("model:=m.onnx", f"params_file:={params_file}")

    assert params_file in message
    assert words in message


def test_the_shipped_dds_profile_reaches_the_node(launcher):
    assert launcher.node("model:=m.onnx")["profiles"] == dict.fromkeys(PROFILE_VARIABLES, launcher.profile)


def test_another_profile_can_be_named(launcher):
    own = write(launcher.folder / "own.xml", "<dds/>")

    assert launcher.node("model:=m.onnx", "dds_profile:=own.xml")["profiles"] == dict.fromkeys(
        PROFILE_VARIABLES, own
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (PROFILE_VARIABLES[0], "/my/profile.xml"),
        (PROFILE_VARIABLES[1], "/my/profile.xml"),
        ("FASTDDS_BUILTIN_TRANSPORTS", "UDPv4"),
    ],
)
def test_auto_leaves_the_users_choice_of_transport_alone(launcher, variable, value):
    launcher.environment[variable] = value

    seen = launcher.node("model:=m.onnx")

    assert seen["profiles"] == {name: launcher.environment.get(name) for name in PROFILE_VARIABLES}


def test_none_sets_no_profile(launcher):
    seen = launcher.node("model:=m.onnx", "dds_profile:=none")

    assert seen["profiles"] == dict.fromkeys(PROFILE_VARIABLES)


def test_a_killed_node_comes_back_if_asked_and_the_launch_ends_on_a_signal(launcher):
    launcher.environment["STAND_IN_DIES"] = "1"
    process = launcher.start("model:=m.onnx", "use_respawn:=true")
    try:
        end = time.monotonic() + 30
        while len(launcher.starts()) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=15)
    finally:
        process.kill()
        process.wait()

    assert len(launcher.starts()) >= 2, output
    assert "exit code -9" in output


def test_a_killed_node_stays_away_by_default(launcher):
    launcher.environment["STAND_IN_DIES"] = "1"

    seen = launcher.node("model:=m.onnx")

    assert seen["name"] == "/yolo_detector"
