"""The GPU benchmark on the fake TensorRT: it prints its page, and fails where boxes are wrong."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support import fake_gpu
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import Detections

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def benchmark():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield importlib.import_module("gpu")
        sys.modules.pop("gpu")
        sys.modules.pop("detector")


def found(*boxes, score=0.9, kind=0):
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4), np.full(count, score, np.float32), np.full(count, kind)
    )


BOX = (10, 10, 30, 30)


def test_equal_boxes_agree(benchmark):
    agreement = benchmark.compare([found(BOX)], [found(BOX)], 0.25)

    assert (agreement.pairs, agreement.alone, agreement.pixels, agreement.score) == (1, 0, 0, 0)
    assert agreement.good


@pytest.mark.parametrize(
    "other",
    [
        found((10, 10, 30, 31.5)),
        found(BOX, score=0.88),
        found(BOX, kind=1),
        found(),
        found(BOX, (50, 50, 70, 70)),
    ],
)
def test_a_box_off_in_place_score_or_class_or_missing_does_not(benchmark, other):
    assert not benchmark.compare([found(BOX)], [other], 0.25).good
    assert not benchmark.compare([other], [found(BOX)], 0.25).good


def test_a_box_at_the_cut_may_miss(benchmark):
    assert benchmark.compare([found(BOX, score=0.255)], [found()], 0.25).good


def test_without_a_gpu_it_says_what_is_missing(tmp_path, monkeypatch):
    if Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    toy = write_toy_detector(tmp_path / "toy.onnx")

    run = subprocess.run([sys.executable, str(SCRIPT), str(toy)], capture_output=True, text=True)

    assert run.returncode == 1
    assert "pycuda" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("compared", [["graph", "kernel", "mapped"], []])
def test_builds_checks_and_times_every_model_in_every_way(benchmark, tmp_path, monkeypatch, capsys, compared):
    driver = fake_gpu.install(monkeypatch, "10.3.0")
    monkeypatch.setattr(driver, "host_memory_is_shared", True)
    models = [str(write_toy_detector(tmp_path / name)) for name in ("dense.onnx", "pruned.onnx")]
    page = tmp_path / "gpu.md"
    arguments = [*models, "--camera", "160x90", "--frames", "2", "--rounds", "2", "--output", str(page)]
    arguments += ["--precision", "fp32", "--engine-cache", str(tmp_path / "engines"), "--compare", *compared]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments, "--score", "0.1"])

    benchmark.main()
    kept = driver.allocations()
    fake_gpu.remove()

    heading, _, *rows = [line for line in page.read_text().splitlines() if line.startswith("|")]
    assert [os.path.basename(model) in row for model, row in zip(models, rows, strict=True)] == [True, True]
    assert all("fp32 (250 of 250 layers)" in row for row in rows)
    for name in compared:
        assert benchmark.WAYS[name].name in heading
    assert len({line.count("|") for line in (heading, *rows)}) == 1
    assert page.read_text() in capsys.readouterr().out
    assert kept == 0
