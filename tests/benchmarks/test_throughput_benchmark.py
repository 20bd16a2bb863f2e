"""The benchmark of bag_detect prints both rates and their ratio."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from support.toy_detector import write_toy_detector

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("kind", [[], ["--jpeg"]])
def test_a_toy_on_small_frames(tmp_path, monkeypatch, capsys, kind):
    pytest.importorskip("onnxruntime")
    model = str(write_toy_detector(tmp_path / "toy.onnx"))
    small = ["--camera", "64x64", "--images", "3", "--rounds", "1", "--threads", "2"]
    monkeypatch.setattr(sys, "argv", ["throughput.py", model, *small, *kind])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / "throughput.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for label in ("bare backend", "bag_detect", "ratio"):
        assert float(re.search(rf"^  {label}\s+(\d+\.\d+)", printed, re.MULTILINE)[1]) >= 0
