"""What the adapters' launch files do with their arguments, under the real launch system."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("launch_ros", reason="launch_ros is not installed: it comes with ROS 2, not from PyPI")

from support.launching import RUNNER

FOLDER = Path(__file__).resolve().parents[2] / "ros2_ws" / "src" / "yolo_autonomy" / "launch"
NODES = {
    "target": "target_selection",
    "mavlink": "mavlink_target",
    "px4": "px4_target",
    "obstacles": "obstacle_cloud",
    "annotations": "image_annotations",
}

# A node that tells what reached it, as ROS understood it.
STAND_IN = """#!{python}
import json, sys
import rclpy
rclpy.init(args=sys.argv)
node = rclpy.create_node("unnamed", automatically_declare_parameters_from_overrides=True)
seen = dict(
    name=node.get_fully_qualified_name(),
    parameters={{name: p.value for name, p in node.get_parameters_by_prefix("").items()}},
    detections=node.resolve_topic_name("detections"),
)
open({report!r}, "w").write(json.dumps(seen))
"""


@pytest.fixture
def launch(tmp_path):
    """Launch a file; return the exit status, what was printed, and what the node saw."""
    prefix, report = tmp_path / "install", tmp_path / "report.json"
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / "yolo_autonomy").touch()
    scripts = prefix / "lib" / "yolo_autonomy"
    scripts.mkdir(parents=True)
    for name in NODES.values():
        (scripts / name).write_text(STAND_IN.format(python=sys.executable, report=str(report)))
        (scripts / name).chmod(0o755)
    environment = {
        **os.environ,
        "AMENT_PREFIX_PATH": f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}",
        "ROS_LOG_DIR": str(tmp_path / "log"),
    }

    def run(name, *arguments):
        command = [sys.executable, "-c", RUNNER, str(FOLDER / f"{name}.launch.py"), *arguments]
        ended = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        seen = json.loads(report.read_text()) if report.exists() else None
        return ended.returncode, ended.stdout + ended.stderr, seen

    return run


def test_there_is_a_line_for_each_launch_file():
    assert {path.name.removesuffix(".launch.py") for path in FOLDER.glob("*.py")} == set(NODES)


@pytest.mark.parametrize("name", NODES)
def test_each_starts_without_arguments(launch, name):
    status, output, seen = launch(name)
    assert status == 0, output
    assert seen["name"] == f"/{NODES[name]}"


def test_arguments_become_parameters_of_their_types_names_and_topics(launch):
    status, output, seen = launch(
        "target", "classes:=car,8", "track_id:=7", "keep_s:=2", "reacquire:=false", "point:=0.2,1",
        "use_sim_time:=true", "namespace:=drone", "detections_topic:=/front/detections",
    )  # fmt: skip
    assert status == 0, output
    assert seen["name"] == "/drone/target_selection"
    assert seen["detections"] == "/front/detections"
    given = {
        name: seen["parameters"][name] for name in ("classes", "track_id", "keep_s", "reacquire", "point")
    }
    assert given == {
        "classes": ["car", "8"], "track_id": "7", "keep_s": 2.0, "reacquire": False, "point": [0.2, 1.0],
    }  # fmt: skip
    assert seen["parameters"]["use_sim_time"] is True


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("clases:=car", "no argument clases"),
        ("keep_s:=soon", "keep_s:=soon is not a number"),
        ("reacquire:=perhaps", "reacquire:=perhaps is not true or false"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(launch, argument, text):
    status, output, seen = launch("target", argument)
    assert status == 1
    assert text in output
    assert seen is None
