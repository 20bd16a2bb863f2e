"""The benchmark of the training trains in both precisions and prints every figure that it promises."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "training.py"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ultralytics") is None, reason="Ultralytics is not installed"
)


def test_both_precisions_are_measured_in_turn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location("training_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "training_benchmark", benchmark)
    spec.loader.exec_module(benchmark)
    monkeypatch.setattr(sys, "argv", ["training.py", "--size=64", "--batch=2", "--images=6", "--rounds=1"])
    benchmark.main()
    shown = capsys.readouterr().out
    for precision in ("fp32", "bf16"):
        line = rf"^{precision} +([\d.]+) images/s +[\d.]+ images/s of processor time +loading .* \d+%$"
        assert [float(rate) > 0 for rate in re.findall(line, shown, re.MULTILINE)] == [True], shown
    assert re.search(r"^ratio \d+\.\d\d$", shown, re.MULTILINE)
