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
    small = ["--camera", "320x180", "--rounds", "1", "--count", "2", "--overload", "0.5", "--domain", "71"]
    # A stock echo stands for another node.
    peer = f"{sys.executable} {SCRIPT} --echo peer_image peer_detections"

    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--model", str(model), *small, "--busy", "1", "--peer-command", peer],
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stderr
    for label in (
        "node / (echo with thresholds + bare call)",
        "95th percentile, 30 Hz / 2 Hz",
        "memory, MB (RSS)",
        "private memory, MB",
        "start to active, s",
        "latency / peer's",
        "answers / peer's",
        "CPU an answer / peer's",
    ):
        figure = re.search(rf"^  {re.escape(label)}\s+(\d+\.\d\d)", run.stdout, re.MULTILINE)
        assert figure, run.stdout
        assert float(figure[1]) >= 0
    for label in (
        "echo with thresholds",
        "echo without",
        "bare call, 2 Hz",
        "bare call, 30 Hz",
        "peer, 30 Hz",
    ):
        assert re.search(rf"^  {label}\s+\d+\.\d ms", run.stdout, re.MULTILINE), run.stdout
    assert re.search(r"^  page faults an answer\s+\d+\.\d\d\s+wanted: under 100", run.stdout, re.MULTILINE)
    assert re.search(r"boxes cost -?\d+\.\d ms more than none", run.stdout)
