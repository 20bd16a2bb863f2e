"""Latency is measured in turn, in processes of their own."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from support.toy_detector import write_toy_detector

from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
from yolo_compress.measure.latency import measure_latency


def test_latency_is_measured_in_turn_and_the_first_model_is_the_measure(
    painted: Path, tmp_path: Path
) -> None:
    model = write_toy_detector(tmp_path / "toy.onnx")
    images = read_split(painted, "val").images[:2]
    first, second = measure_latency([model, model], images, rounds=3, threads=1)
    assert first.ratio == 1
    assert first.ms > 0
    assert second.ratio > 0


def test_latency_of_an_unusable_model_is_an_error_and_leaves_no_process(
    painted: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    good = write_toy_detector(tmp_path / "toy.onnx")
    with pytest.raises(UserError, match=r"broken\.onnx"):
        measure_latency(
            [good, tmp_path / "broken.onnx"], read_split(painted, "val").images, rounds=1, threads=1
        )
    assert not multiprocessing.active_children()
