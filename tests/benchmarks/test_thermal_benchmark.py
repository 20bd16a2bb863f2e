"""The thermal benchmark sends what a camera sends, and the default range keeps the grays."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "thermal.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("thermal_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_each_range_keeps_as_many_grays_as_it_should(benchmark, tmp_path):
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 64, axis=0)
    cv2.imwrite(str(tmp_path / "ramp.png"), np.repeat(ramp, 3, axis=2))
    samples = [SimpleNamespace(image=tmp_path / "ramp.png")]
    grays = {}
    for way in (benchmark.ORIGINAL, *benchmark.RANGES):
        (frame,) = benchmark.frames_of(samples, way)
        assert (frame.height, frame.width) == (64, 256)
        grays[way] = len(np.unique(frame.pixels))
    auto, full, fixed = benchmark.RANGES
    assert grays[benchmark.ORIGINAL] == grays[fixed] == 256
    assert grays[auto] > 200
    assert grays[full] < 16
