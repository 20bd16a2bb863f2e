"""The benchmark runs, prints every figure that it promises, and says when a limit is missed."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "pruning.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="Ultralytics is not installed"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False
    )


def test_the_published_model_meets_its_limits() -> None:
    """YOLOv8m with 10 classes: 6.5 M parameters, 25.5 GMACs at 1024. The time is the machine's."""
    done = run("--max-seconds", "600")
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"parameters +25\.862 M -> 6\.479 M", done.stdout)
    assert re.search(r"at 1024 +101\.00 GMACs -> 25\.43 GMACs", done.stdout)
    assert re.search(r"pruned in +\d+\.\d s on 2 threads", done.stdout)
    assert re.search(r"\d\.\de[-+]\d+ px .*\d\.\de[-+]\d+ in score", done.stdout)
    assert done.stdout.endswith("all limits met\n")


def test_a_missed_limit_is_the_exit_code() -> None:
    done = run("--model", "yolov8n.yaml", "--max-params", "0.1", "--max-seconds", "600")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.endswith("a limit was MISSED\n")
