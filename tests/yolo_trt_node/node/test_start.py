"""What happens before the node is there."""

import subprocess
import sys

import pytest
from yolo_trt_node.node.start import own_arguments

# A signal at the moment of the first heavy import.
SCRIPT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "rclpy":
            os.kill(os.getpid(), signal.{name})
        return None

sys.meta_path.insert(0, Interrupt())
sys.argv = ["detector_node", *{arguments}]
from yolo_trt_node.node.start import main
main()
print("not reached")
"""


def run(arguments=(), name="SIGINT"):
    script = SCRIPT.format(name=name, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_the_imports_ends_the_process_without_a_traceback(name):
    ended = run(name=name)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_help_is_given_without_starting_a_node():
    ended = run(["--help"])
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: detector_node")
    assert "--ros-args -p model:=drone.onnx" in ended.stdout


def test_an_argument_that_is_none_is_refused():
    ended = run(["model:=drone.onnx"])
    assert ended.returncode == 2
    assert "there is no argument model:=drone.onnx" in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        ([], []),
        (["--ros-args", "-p", "a:=1", "--log-level", "info"], []),
        (["x", "--ros-args", "-r", "a:=b", "--", "y"], ["x", "y"]),
        (["--ros-args", "-r", "a:=b", "--ros-args", "--params-file", "f"], []),
    ],
)
def test_arguments_for_ros_are_told_from_our_own(arguments, own):
    assert own_arguments(arguments) == own
