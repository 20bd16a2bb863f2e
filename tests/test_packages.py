"""Both wheels hold all that their commands need."""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support.toy_detector import paint_cells, write_toy_detector

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip")
OFFLINE = ("--quiet", "--no-deps", "--no-index")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheels")
    copies = tmp_path_factory.mktemp("sources")
    # As a clone has them: a build in the sources would leave its folders there.
    built = (
        "ros2_ws/build",
        "ros2_ws/install",
        "ros2_ws/log",
        ".venv*",
        "demo*",
        "runs",
        "site",
        "build",
        ".git",
        "*.egg-info",
    )
    left_out = [f"--exclude=./{name}" for name in built]
    subprocess.run(["tar", "-C", ROOT, *left_out, "-cf", copies / "all.tar", "."], check=True)
    subprocess.run(["tar", "-C", copies, "-xf", copies / "all.tar"], check=True)
    subprocess.run(
        [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "-w", folder, copies, copies / "yolo_trt_node"],
        check=True,
    )
    return {path.name.split("-")[0]: path for path in folder.glob("*.whl")}


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """An environment with the two wheels, and behind them what the tests' own has, without this checkout."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([*PIP, "--python", python, "install", *OFFLINE, *wheels.values()], check=True, env=bare())
    site = next(environment.glob("lib/python3.*/site-packages"))
    # A plain path, behind the wheels: the .pth files there, which lead to this checkout, are not read.
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def bare() -> dict[str, str]:
    """The environment without what leads to this checkout."""
    hidden = ("PYTHONPATH", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if name not in hidden}


def command(tool: Path, *words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tool, *map(str, words)], cwd=cwd, env=bare(), capture_output=True, text=True, check=False
    )


def test_recipes_and_models_lie_in_the_package_that_runs_them(wheels):
    names = set(zipfile.ZipFile(wheels["yolo_compress"]).namelist())
    assert {"yolo_compress/recipes/demo.yaml", "yolo_compress/models/demo_parent.pt"} <= names
    flown = zipfile.ZipFile(wheels["yolo_trt_node"]).namelist()
    assert not [name for name in flown if "/compress/" in name]
    assert [name for name in flown if name.endswith("config/detect.yaml")]


def test_the_node_is_a_dependency_by_name(wheels):
    with zipfile.ZipFile(wheels["yolo_compress"]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
        assert "Requires-Dist: yolo-trt-node" in wheel.read(metadata).decode()


def test_commands_work_from_the_wheels_alone(installed, tmp_path):
    from yolo_trt_node.replay import messages
    from yolo_trt_node.replay.bags import BagWriter, typestore

    say = "import yolo_compress, yolo_trt_node; print(yolo_compress.__file__, yolo_trt_node.__file__)"
    where = command(installed / "python", "-c", say, cwd=tmp_path)
    assert where.stdout.count(str(installed.parent)) == 2, where.stdout + where.stderr
    doctor = command(installed / "yolo-compress", "doctor", "demo", cwd=tmp_path)
    assert "demo_parent.pt" not in doctor.stderr
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr

    store = typestore()
    with BagWriter(tmp_path / "flight", store, "mcap") as writer:
        image = paint_cells(np.zeros((64, 64, 3), np.uint8), [(2, 2, "red")])
        data = messages.image(store, messages.header(store, 10**9, "nose"), image)
        writer.write("/image", messages.IMAGE_TYPE, data, 10**9)
    model = write_toy_detector(tmp_path / "toy.onnx")
    answered = command(installed / "bag_detect", "flight", "--model", model, "-o", "found", cwd=tmp_path)
    assert "1 detections in 1 images" in answered.stdout, answered.stderr
