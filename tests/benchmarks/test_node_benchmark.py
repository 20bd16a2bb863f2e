"""The node's benchmark runs over DDS and prints every figure that it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.toy_detector import write_toy_detector

pytest.importorskip("rclpy")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "node.py"


def test_a_toy_on_small_frames(tmp_path):
    model = write_toy_detector(tmp_path / "toy.onnx")
    small = ["--camera", "320x180", "--rounds", "1", "--count", "2", "--overload", "1", "--domain", "71"]

    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(model), *small], capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr
    for label in (
        "node / (echo + bare call), without load",
        "95th percentile of age, under load / without",
        "latency / theirs",
        "answers / theirs",
        "memory / theirs",
        "CPU an answer / theirs",
    ):
        figure = re.search(rf"^  {re.escape(label)}\s+(\d+\.\d\d)", run.stdout, re.MULTILINE)
        assert figure, run.stdout
        assert float(figure[1]) > 0
    assert re.search(r"boxes cost -?\d+\.\d ms more than none", run.stdout)
