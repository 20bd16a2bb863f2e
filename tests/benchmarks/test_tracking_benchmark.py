"""The tracking benchmark counts rightly, and prints every figure that it promises."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tracking.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("tracking_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def labelled(benchmark, ids, classes=None):
    """Objects by their places in a row, as wide as the gaps between them; `None`: not there."""
    here = [(k, number) for k, number in enumerate(ids) if number is not None]
    boxes = np.array([(40 * k, 0, 40 * k + 20, 20) for k, _ in here], np.float64).reshape(-1, 4)
    kinds = [0] * len(here) if classes is None else [classes[k] for k, _ in here]
    return benchmark.Labelled(boxes, np.array(kinds, np.int32), np.array([n for _, n in here], np.int64))


def score(benchmark, truth, tracked):
    return benchmark.identity_score(
        [labelled(benchmark, row) for row in truth], [labelled(benchmark, row) for row in tracked]
    )


class TestIdentityScore:
    def test_perfect_whatever_the_names(self, benchmark):
        found = score(benchmark, [[1, 2]] * 5, [[70, 3]] * 5)
        assert (found.idf1, found.switches, found.objects) == (1.0, 0, 10)

    def test_a_name_that_changes_half_way_explains_half(self, benchmark):
        found = score(benchmark, [[1]] * 10, [[5]] * 6 + [[6]] * 4)
        assert found.idf1 == pytest.approx(2 * 6 / 20)
        assert found.switches == 1

    def test_swapped_names(self, benchmark):
        found = score(benchmark, [[1, 2]] * 10, [[1, 2]] * 7 + [[2, 1]] * 3)
        assert found.idf1 == pytest.approx(0.7)
        assert found.switches == 2

    def test_missed_and_false_ones_count_on_either_side(self, benchmark):
        found = score(benchmark, [[1, 2, None]] * 4, [[1, None, 9]] * 4)
        assert found.idf1 == pytest.approx(2 * 4 / 16)
        assert found.switches == 0

    def test_one_name_for_two_objects_counts_for_one_of_them(self, benchmark):
        found = score(benchmark, [[1, None]] * 3 + [[None, 2]] * 5, [[4, None]] * 3 + [[None, 4]] * 5)
        assert found.idf1 == pytest.approx(2 * 5 / 16)

    def test_a_wrong_class_is_no_match(self, benchmark):
        truth, tracked = labelled(benchmark, [1], [3]), labelled(benchmark, [1], [4])
        assert benchmark.identity_score([truth], [tracked]).idf1 == 0

    def test_an_id_is_kept_where_boxes_lie_on_each_other(self, benchmark):
        boxes = np.array([(0, 0, 20, 20), (3, 0, 23, 20)], np.float64)
        kinds = np.zeros(2, np.int32)
        truth = [benchmark.Labelled(boxes, kinds, np.array([1, 2]))] * 2
        nearer = benchmark.Labelled(boxes[::-1], kinds, np.array([7, 8]))
        tracked = [benchmark.Labelled(boxes, kinds, np.array([7, 8])), nearer]
        assert benchmark.identity_score(truth, tracked).switches == 0

    def test_overlap(self, benchmark):
        a = np.array([[0, 0, 10, 10.0]])
        b = np.array([[5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 10, 10.0]])
        np.testing.assert_allclose(benchmark.iou(a, b), [[1 / 3, 0, 1]])


def test_compensating_the_camera_beats_the_baseline_on_a_flight():
    small = ["--flights", "1", "--seconds", "3", "--size", "640x360", "--rates", "10"]
    run = subprocess.run([sys.executable, str(SCRIPT), *small], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    figures = {
        way: (float(idf1), int(switches))
        for way, idf1, switches in re.findall(
            r"^  (\S.*?\S) +(\d\.\d{3}) +(\d+) +\d+$", run.stdout, re.MULTILINE
        )
    }
    baseline = figures["greedy IoU with the last box"]
    for way in ("no camera motion", "camera motion compensated"):
        assert figures[way][0] > baseline[0] + 0.1
        assert figures[way][1] < baseline[1] / 2
    assert figures["camera motion compensated"][0] > 0.7
    assert re.search(r"association alone +\d+\.\d\d", run.stdout)
    assert re.search(r"with camera motion +\d+\.\d\d", run.stdout)
