"""Data sets are converted on the command line."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from typer.testing import CliRunner

from yolo_compress.cli import app
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError


def test_visdrone_is_converted_for_good(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / "VisDrone2019-DET-val" / folder).mkdir(parents=True)
    image = cv2.imencode(".jpg", np.full((50, 100, 3), 90, np.uint8))[1].tobytes()
    (tmp_path / "VisDrone2019-DET-val" / "images" / "a.jpg").write_bytes(image)
    (tmp_path / "VisDrone2019-DET-val" / "annotations" / "a.txt").write_text("10,10,20,20,1,4,0,0\n")
    done = CliRunner().invoke(app, ["data", "visdrone", str(tmp_path), str(tmp_path / "out")])
    assert done.exit_code == 0
    assert "data.yaml" in done.output
    (sample,) = read_split(tmp_path / "out" / "data.yaml", "val").samples
    np.testing.assert_allclose(sample.labels.rows, [[3, 0.2, 0.4, 0.2, 0.4]], atol=1e-6)


def test_what_is_no_visdrone_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    failed = CliRunner().invoke(app, ["data", "visdrone", str(tmp_path), str(tmp_path / "out")])
    assert isinstance(failed.exception, UserError)
    assert "no VisDrone split there" in str(failed.exception)
