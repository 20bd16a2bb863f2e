"""Every finding that would end a run, found beforehand with a remedy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.squares import make_recipe, write_dataset
from typer.testing import CliRunner

from yolo_compress.cli import app
from yolo_compress.doctor import examine
from yolo_compress.packages import Check, bad_pairs


def recipe_file(folder: Path, dataset: Path, **changes: object) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(make_recipe(folder / "out", dataset, **changes).model_dump(mode="json")))
    return path


def findings(path: Path, *overrides: str) -> list[Check]:
    return list(examine(path, overrides))


def of(found: list[Check], *statuses: str) -> str:
    return "\n".join(f"{f.what} -> {f.remedy}" for f in found if f.status in statuses)


def test_a_sound_machine_and_recipe_have_no_failure(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset))
    assert of(found, "FAIL") == ""
    fine = of(found, "OK", "WARN")
    for part in (
        "Python 3.",
        "ultralytics",
        "ONNX Runtime",
        "device cpu",
        "memory",
        "can be written",
        "data: train, 8 images, 2 classes, 16 objects",
        "data: val, 4 images",
        "teacher: yolov8n.yaml",
        "of the macs left (asked for 40.0%)",
        "an epoch",
    ):
        assert part in fine
    assert not (tmp_path / "out").exists()


def test_every_finding_that_is_not_ok_has_a_remedy(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset), "threads=4096", "device=mps")
    assert all(f.remedy for f in found if f.status != "OK")
    assert any(f.status != "OK" for f in found)


@pytest.mark.parametrize(
    ("installed", "says"),
    [
        ({"torch": "2.13.0+cpu", "torchvision": "0.28.0"}, ""),
        ({"torch": "2.13.0", "torchvision": "0.27.0"}, "torchvision 0.27.0 was not built for torch 2.13.0"),
        ({"torch": "2.2.1", "torchvision": "0.17.1", "numpy": "2.0.1"}, "built for NumPy 1"),
        ({"torch": "2.2.1", "torchvision": "0.17.1", "numpy": "1.26.4"}, ""),
        ({"opencv-python": "4.9", "opencv-python-headless": "4.9"}, "overwrite each other's files"),
        ({"ultralytics": "8.4.1", "ultralytics-opencv-headless": "8.4.2"}, "overwrite each other's files"),
    ],
)
def test_pairs_of_versions_known_to_fail_are_named(installed: dict[str, str], says: str) -> None:
    found = "\n".join(f.what for f in bad_pairs(installed))
    assert says in found
    assert bool(says) == bool(found)


@pytest.mark.parametrize("name", ["psutil", "torch", "packaging"])
def test_a_missing_package_is_a_failure_with_a_remedy_and_no_traceback(name: str) -> None:
    code = f"""
import importlib.metadata, sys
sys.modules[{name!r}] = None
known = importlib.metadata.version
def version(wanted):
    if wanted == {name!r}:
        raise importlib.metadata.PackageNotFoundError(wanted)
    return known(wanted)
importlib.metadata.version = version
from yolo_compress.cli import main
sys.argv = ["yolo-compress", "doctor"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"FAIL  {name} is not installed" in done.stdout
    assert f"-> pip install '{name}" in done.stdout.replace("install packaging", "install 'packaging")
    assert done.stderr == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset), "device=0")
    assert "device 0, but torch" in of(found, "FAIL")
    assert "set device: cpu" in of(found, "FAIL")


def test_a_wrong_key_is_told_with_what_is_allowed(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset), "prune.scop=global")
    assert "prune.scop: unknown key" in of(found, "FAIL")


def test_a_data_set_that_is_not_there_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset), "data.yaml=/nowhere/data.yaml")
    assert "cannot read the data set description" in of(found, "FAIL")


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("0 0.5 0.5 0.2\n", "a line is not `class x y width height`; such as "),
        ("7 0.5 0.5 0.2 0.2\n", "a class beyond the 2 of the data set (0 to 1); such as "),
    ],
)
def test_a_damaged_label_is_told_with_what_training_drops(label: str, says: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "train" / "labels" / "3.txt").write_text(label)
    found = of(findings(recipe_file(tmp_path, data)), "WARN")
    assert f"data: train: training drops 1 of 8 images: {says}" in found
    assert "3.txt, line 1" in found


def test_data_of_which_training_keeps_nothing_are_a_failure(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "train" / "labels").iterdir():
        path.write_text("7 0.5 0.5 0.2 0.2\n")
    found = of(findings(recipe_file(tmp_path, data)), "FAIL")
    assert "no image of the split 'train' can be used; 8 of 8: a class beyond the 2 of the data set" in found


def test_half_labelled_data_are_a_warning_with_counts(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "train" / "labels" / "3.txt").unlink()
    found = of(findings(recipe_file(tmp_path, data)), "WARN")
    assert "data: train: 1 of 8 images have no label file" in found


def test_objects_are_counted_by_class_and_size(dataset: Path, tmp_path: Path) -> None:
    found = of(findings(recipe_file(tmp_path, dataset)), "OK")
    assert "data: train: red 8, blue 8; 16 below 32 px, 0 to 96 px, 0 larger in the images" in found


def test_data_without_labels_is_a_failure_that_says_where_they_belong(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    for path in (tmp_path / "data" / "val" / "labels").iterdir():
        path.unlink()
    found = of(findings(recipe_file(tmp_path, data)), "FAIL")
    assert "no labels for any of the 4 images of the split 'val'" in found
    assert str(Path("val", "labels", "0.txt")) in found


def test_a_damaged_image_is_told_with_what_training_drops(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "val" / "images" / "1.png").write_bytes(b"no image")
    found = of(findings(recipe_file(tmp_path, data)), "WARN")
    assert "training drops 1 of 4 images: the image is damaged or no image; such as " in found
    assert "1.png" in found


def test_objects_too_small_for_the_input_are_a_warning(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", size=640)
    found = of(findings(recipe_file(tmp_path, data)), "WARN")
    assert "half of them below 2 px at input 64" in found
    assert "raise input_size" in found


def test_a_teacher_of_other_classes_that_is_not_trained_is_a_failure(
    checkpoint: Path, tmp_path: Path
) -> None:
    data = write_dataset(tmp_path / "data")
    data.write_text(data.read_text().replace("'blue'", "'blue', 'green'"))
    found = findings(recipe_file(tmp_path, data, teacher={"model": str(checkpoint)}))
    assert "knows 2 classes (red, blue)" in of(found, "FAIL")


def test_a_teacher_that_is_not_there_is_a_failure(dataset: Path, tmp_path: Path) -> None:
    found = findings(recipe_file(tmp_path, dataset), "teacher.model=/nowhere/best.pt")
    assert "there is no model at /nowhere/best.pt" in of(found, "FAIL")


def test_the_exit_code_tells_whether_a_run_would_fail(dataset: Path, tmp_path: Path) -> None:
    path = str(recipe_file(tmp_path, dataset))
    assert CliRunner().invoke(app, ["doctor", path]).exit_code == 0
    failed = CliRunner().invoke(app, ["doctor", path, "data.yaml=/nowhere/data.yaml"])
    assert failed.exit_code == 1
    assert "FAIL" in failed.output
    assert "-> correct data.yaml" in failed.output
