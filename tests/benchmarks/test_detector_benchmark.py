"""The benchmark runs and prints every figure that it promises."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "detector.py"


@pytest.mark.skipif(importlib.util.find_spec("ultralytics") is None, reason="Ultralytics is not installed")
def test_an_untrained_model_on_small_frames():
    small = ["--camera", "320x180", "--size", "160", "--frames", "1", "--rounds", "1"]
    run = subprocess.run([sys.executable, str(SCRIPT), *small], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "input matched to the camera: 160x96, 0.60 of the square's pixels" in run.stdout
    for label in (
        "our total / bare backend call",
        "our pre- and post- / Ultralytics'",
        "matched input / square, inference",
        "preprocess ",
        "inference ",
        "postprocess ",
    ):
        figure = re.search(rf"^  {re.escape(label)}\s+(\d+\.\d\d)", run.stdout, re.MULTILINE)
        assert figure, run.stdout
        assert 0 < float(figure[1]) < 100
    assert re.search(r"nv12 \d+\.\d\d", run.stdout)
    assert "20,000 candidates of 500 objects" in run.stdout
