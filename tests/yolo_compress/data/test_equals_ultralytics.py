"""Our reader and Ultralytics' own: the same images, objects and classes of every layout that people have."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.datasets import LAYOUTS

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.data.labelled import beside, read_split
from yolo_compress.data.training_set import write_description, write_training_set
from yolo_compress.errors import UserError

from ultralytics.data.base import BaseDataset  # isort: skip
from ultralytics.data.utils import check_det_dataset, img2label_paths, verify_image_label  # isort: skip

Objects = dict[Path, list[list[float]]]


class _Loader:
    """What the stock loader's listing of images asks of its object."""

    prefix = ""
    fraction = 1.0


def theirs(given: Path) -> Objects:
    """Return what Ultralytics' own functions make of the split val: the objects by image."""
    data = check_det_dataset(str(given), autodownload=False, split="val")
    files = BaseDataset.get_img_files(_Loader(), data["val"])  # type: ignore[arg-type]
    points = data.get("kpt_shape", (0, 0))
    found: Objects = {}
    for image, label in zip(files, img2label_paths(files), strict=True):
        read = verify_image_label((image, label, "", False, data["nc"], *points, False))
        if read[0] is not None:
            found[Path(image)] = rows(read[1])
    if not found:
        raise RuntimeError("nothing left")
    return found


def rows(values: Any) -> list[list[float]]:
    return sorted(np.asarray(values, np.float64).round(5).tolist())


def ours(given: Path) -> Objects:
    return {sample.image: rows(sample.labels.rows) for sample in read_split(given, "val").samples}


@pytest.fixture(autouse=True, scope="module")
def quiet() -> None:
    logging.getLogger("ultralytics").setLevel(logging.CRITICAL)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_the_same_images_objects_and_classes(name: str, tmp_path: Path) -> None:
    given = LAYOUTS[name](tmp_path)
    before = {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")}
    try:
        found: Objects | str = ours(given)
    except UserError as error:
        found = str(error)
    # Ultralytics repairs images; we only read.
    assert {path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    try:
        expected: Objects | None = theirs(given)
    except Exception:  # it raises whatever it meets
        expected = None
    if expected is None:
        assert isinstance(found, str), "Ultralytics refuses what we take"
        assert str(tmp_path) in found  # the message names the file
    else:
        assert found == expected
    if isinstance(found, dict):
        names = check_det_dataset(str(given), autodownload=False)["names"]
        assert read_split(given, "val").names == tuple(names[index] for index in sorted(names))


@pytest.mark.parametrize(
    "name", ["polygons", "roboflow", "twice_the_same_row", "special_letters", "image_without_its_end", "pose"]
)
def test_the_trainer_is_handed_exactly_what_was_read(name: str, tmp_path: Path) -> None:
    given = LAYOUTS[name](tmp_path / "given")
    splits = {split: read_split(given, split) for split in ("train", "val")}
    content = write_training_set(splits, tmp_path / "run" / "images of it", "first")
    write_description(content, tmp_path / "run" / "data.yaml")
    handed = theirs(tmp_path / "run" / "data.yaml")
    assert list(handed.values()) == list(ours(given).values())
    listed = Path(content["val"]).read_text().splitlines()
    if name != "image_without_its_end":  # where Ultralytics has put a repaired copy in the link's place
        assert [Path(line).resolve() for line in listed] == [path.resolve() for path in splits["val"].images]
    assert all(Path(line).is_absolute() for line in listed)
    # Ultralytics puts its cache where the labels lie.
    assert (tmp_path / "run") in beside(Path(listed[0]), "labels").parents


def test_data_that_cannot_be_written_are_only_read(tmp_path: Path) -> None:
    given = LAYOUTS["plain"](tmp_path / "given")
    splits = {split: read_split(given, split) for split in ("train", "val")}
    before = sorted(tmp_path.joinpath("given").rglob("*"))
    write_description(write_training_set(splits, tmp_path / "run", "first"), tmp_path / "run" / "data.yaml")
    from ultralytics.cfg import get_cfg
    from ultralytics.data import build_yolo_dataset

    data = check_det_dataset(str(tmp_path / "run" / "data.yaml"), autodownload=False)
    settings = get_cfg(overrides={"imgsz": 32, "task": "detect"})
    dataset = build_yolo_dataset(settings, data["val"], 1, data, mode="val")
    assert len(dataset) == 3
    assert sorted(tmp_path.joinpath("given").rglob("*")) == before
    assert list((tmp_path / "run").rglob("*.cache"))


def test_a_training_set_is_written_once_and_anew_for_other_data(tmp_path: Path) -> None:
    given = LAYOUTS["plain"](tmp_path / "given")
    splits = {"val": read_split(given, "val")}
    write_training_set(splits, tmp_path / "run", "first")
    (kept := tmp_path / "run" / "val" / "labels.cache").touch()
    write_training_set(splits, tmp_path / "run", "first")
    assert kept.exists()
    shutil.rmtree(tmp_path / "given" / "labels")
    write_training_set({"val": read_split(given, "val")}, tmp_path / "run", "second")
    assert not kept.exists()
    assert not list((tmp_path / "run" / "val" / "labels").iterdir())
