"""What a programmer meets who imports the packages."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yolo_trt_node.detector

import yolo_compress
import yolo_trt_node

ROOT = Path(__file__).parents[1]
OUTSIDER = """
from yolo_trt_node.detector import Detector, Frame
found = Detector.load("model.onnx").detect([])
reveal_type(found[0].boxes)
reveal_type(Detector.detect)
"""


def test_everything_that_is_offered_is_there():
    for name in yolo_trt_node.detector.__all__:
        assert hasattr(yolo_trt_node.detector, name)
    for name in yolo_compress.__all__:
        assert getattr(yolo_compress, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = yolo_compress.nothing


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, yolo_compress; from yolo_compress import UserError; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_packages_have_one_version():
    (xml,) = re.findall("<version>(.+)</version>", (ROOT / "yolo_trt_node/package.xml").read_text())
    assert yolo_compress.__version__ == yolo_trt_node.__version__ == xml


def test_users_see_the_detectors_types(tmp_path):
    (tmp_path / "outside.py").write_text(OUTSIDER)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"),
            *("--config-file", os.devnull, "--cache-dir", str(tmp_path / "cache"), "outside.py"),
        ],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "yolo_trt_node")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "error" not in done.stdout, done.stdout
    assert "numpy.ndarray" in done.stdout
    assert "Any" not in done.stdout.replace("tuple[Any, ...]", "")
    assert "list[yolo_trt_node.boxes.Detections]" in done.stdout


def test_types_are_announced_to_users():
    for package in (yolo_compress, yolo_trt_node):
        assert (Path(package.__file__).parent / "py.typed").is_file()
    assert '"py.typed"' in (ROOT / "pyproject.toml").read_text()
    assert '"py.typed"' in (ROOT / "yolo_trt_node/setup.py").read_text()


def test_the_recipes_are_installed_with_the_package_that_runs_them(monkeypatch):
    import setuptools

    given = {}
    monkeypatch.setattr(setuptools, "setup", lambda **keywords: given.update(keywords))
    monkeypatch.chdir(ROOT / "yolo_trt_node")
    exec(compile((ROOT / "yolo_trt_node/setup.py").read_text(), "setup.py", "exec"), {})
    files = [file for _, files in given["data_files"] for file in files]
    assert "config/detect.yaml" in files
    assert not [file for file in files if "compress" in file]
    assert given["version"] == yolo_trt_node.__version__
    assert "recipes/*.yaml" in (ROOT / "pyproject.toml").read_text()
