"""The installed executables: what they are, a start that fails, and a clean end."""

import signal
import subprocess
from pathlib import Path

from ament_index_python.packages import get_package_prefix
from support.ros import NodeProcess, dds_environment


def executable(name: str) -> str:
    return str(Path(get_package_prefix("yolo_autonomy"), "lib", "yolo_autonomy", name))


def test_help_says_what_goes_in_and_out_and_starts_nothing():
    said = subprocess.run(
        [executable("target_selection"), "--help"], capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert said.startswith("target_selection: one object")
    assert "detections_3d" in said


def test_a_wrong_parameter_ends_the_start_with_one_line(bench):
    ended = subprocess.run(
        [executable("obstacle_cloud"), "--ros-args", "-p", "resolution:=0.0"],
        env=dds_environment(bench.domain), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert ended.stderr.strip() == "obstacle_cloud: resolution is 0; it must lie in 0.02 to 5"


def test_it_is_seen_by_others_and_ends_cleanly_on_a_signal(bench):
    node = NodeProcess([executable("target_selection")], dds_environment(bench.domain))
    try:
        assert bench.spin_until(lambda: "target_selection" in bench.peer.get_node_names(), 30.0), node.log
        assert node.stop(signal.SIGTERM) == 0, node.log
        assert "Traceback" not in node.log
    finally:
        if node.alive:
            node.close()
