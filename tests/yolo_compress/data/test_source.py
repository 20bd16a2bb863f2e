"""Where a run finds its images."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from rich.console import Console
from support.squares import make_recipe, write_dataset

from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress.data.labelled import beside, read_split, spread
from yolo_compress.data.source import prepare_source

QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("count", "limit", "chosen"),
    [(10, 3, [1, 5, 8]), (4, 4, [0, 1, 2, 3]), (3, 9, [0, 1, 2]), (10, 1, [5]), (1000, 2, [250, 750])],
)
def test_chosen_images_are_spread_evenly(count: int, limit: int, chosen: list[int]) -> None:
    images = [Path(str(index)) for index in range(count)]
    assert spread(images, limit) == [images[index] for index in chosen]


def test_a_limit_holds_for_each_split_and_chooses_the_same_images_each_time(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "a data set", train=8, val=4)  # with spaces: lists hold a path a line
    recipe = make_recipe(tmp_path / "out", data, data={"yaml": data, "limit": 3})
    recipe.output.mkdir()
    first = prepare_source(recipe, recipe.output, QUIET)
    chosen = read_split(first.description, "train").images
    assert [path.resolve().name for path in chosen] == ["1.png", "4.png", "6.png"]
    assert all(path.is_file() for path in chosen)
    assert len(read_split(first.description, "val").images) == 3
    again = prepare_source(recipe, recipe.output, QUIET)
    assert read_split(again.description, "train").images == chosen
    assert again.fingerprint == first.fingerprint


def test_the_description_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dataset(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    recipe = make_recipe(tmp_path / "out", Path("data/squares.yaml"))
    recipe.output.mkdir()
    source = prepare_source(recipe, recipe.output, QUIET)
    assert Path(yaml.safe_load(source.description.read_text())["path"]).is_absolute()
    found = {path.resolve() for path in read_split(source.description, "val").images}
    assert found == set((tmp_path / "data" / "val" / "images").resolve().iterdir())
    assert source.name == "squares"


def test_the_fingerprint_follows_a_label_that_changes(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    recipe = make_recipe(tmp_path / "out", data)
    recipe.output.mkdir()
    before = prepare_source(recipe, recipe.output, QUIET).fingerprint
    os.utime(tmp_path / "data" / "val" / "labels" / "2.txt", (1, 1))
    assert prepare_source(recipe, recipe.output, QUIET).fingerprint != before


def test_a_run_with_generated_scenes_can_be_copied(tmp_path: Path) -> None:
    def fingerprint(folder: str, seed: int = 0) -> str:
        scenes = {"train": 2, "val": 1, "width": 96, "height": 96, "seed": seed}
        recipe = make_recipe(tmp_path / folder, Path(), data={"scenes": scenes})
        recipe.output.mkdir(exist_ok=True)
        return prepare_source(recipe, recipe.output, QUIET).fingerprint

    first = fingerprint("first")
    shutil.copytree(tmp_path / "first", tmp_path / "second", copy_function=shutil.copyfile)
    assert fingerprint("second") == first
    assert fingerprint("third", seed=3) != first


def test_visdrone_as_downloaded_is_trained_on_as_it_is(tmp_path: Path) -> None:
    picture = cv2.imencode(".jpg", np.full((50, 100, 3), 90, np.uint8))[1].tobytes()
    for split in ("train", "val"):
        for kind in ("images", "annotations"):
            (tmp_path / f"VisDrone2019-DET-{split}" / kind).mkdir(parents=True)
        (tmp_path / f"VisDrone2019-DET-{split}" / "images" / "a.jpg").write_bytes(picture)
        text = "10,10,20,20,1,4,0,0\n0,0,9,9,0,0,0,0\n90,40,20,20,1,10,1,0,\n"
        (tmp_path / f"VisDrone2019-DET-{split}" / "annotations" / "a.txt").write_text(text)
    data = tmp_path / "VisDrone.yaml"
    folders = "".join(f"{split}: VisDrone2019-DET-{split}/images\n" for split in ("train", "val"))
    data.write_text(f"{folders}names: {list(VISDRONE_CLASSES)}\n")
    recipe = make_recipe(tmp_path / "out", data)
    recipe.output.mkdir()
    source = prepare_source(recipe, recipe.output, QUIET)
    (listed,) = (recipe.output / "training_set" / "train.txt").read_text().splitlines()
    labels = np.loadtxt(beside(Path(listed), "labels"))
    np.testing.assert_allclose(labels, [[3, 0.2, 0.4, 0.2, 0.4], [9, 0.95, 0.9, 0.1, 0.2]])
    (sample,) = read_split(source.description, "val").samples
    assert sample.truth().ignored.tolist() == [[0, 0, 9, 9]]  # what a measurement leaves out
    assert not list(tmp_path.glob("VisDrone*/labels"))


def test_what_training_drops_is_not_in_its_list_and_is_told(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "train" / "labels" / "3.txt").write_text("7 .5 .5 .1 .1\n")
    recipe = make_recipe(tmp_path / "out", data)
    recipe.output.mkdir()
    told = Console(record=True, file=io.StringIO(), width=200)
    prepare_source(recipe, recipe.output, told)
    listed = (recipe.output / "training_set" / "train.txt").read_text().splitlines()
    assert [Path(line).resolve().name for line in listed] == [f"{i}.png" for i in range(8) if i != 3]
    assert "1 images of train are left out: a class beyond the 2" in told.export_text()
