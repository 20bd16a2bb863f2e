"""YAML of strangers: one error each, quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from support.hostile import YAML_BOMBS, yaml_bombs

from yolo_compress.config.loading import load_comparison, load_recipe
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
from yolo_compress.run.recipe import run_recipe
from yolo_compress.yaml_files import read_yaml


@pytest.mark.parametrize("name", [*YAML_BOMBS, "UTF-16", "bytes"])
def test_every_bomb_is_one_error_that_names_the_file(name: str, tmp_path: Path) -> None:
    path = yaml_bombs(tmp_path)[name]
    started = time.monotonic()
    with pytest.raises(UserError) as told:
        load_recipe(path)
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 3000
    assert time.monotonic() - started < 60


def test_aliases_that_stay_small_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("\ufeffa: &a {b: [1, 2]}\nc: *a\nd: {<<: *a, e: 3}\n")
    assert read_yaml(path, "it") == {"a": {"b": [1, 2]}, "c": {"b": [1, 2]}, "d": {"b": [1, 2], "e": 3}}


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read it .*x\.yaml: No such file"):
        read_yaml(tmp_path / "x.yaml", "it")


@pytest.mark.parametrize("name", ["anchors", "contains itself", "nested", "large", "bytes", "list", "open"])
def test_a_data_set_s_description_is_read_with_the_same_care(name: str, tmp_path: Path) -> None:
    path = yaml_bombs(tmp_path)[name]
    with pytest.raises(UserError) as told:
        read_split(path, "val")
    assert str(path) in str(told.value)
    assert len(str(told.value)) < 3000


@pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "x" * 300 + ".yaml"])
@pytest.mark.parametrize("key", ["extends", "output", "teacher.model", "data.yaml"])
def test_a_name_that_no_file_can_have_is_one_error(
    name: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = {"epochs": 1, "batch": 1, "lr": 0.1}
    recipe = {
        "output": "out",
        "data": {"yaml": "d.yaml"},
        "teacher": {"model": "yolov8n.yaml", "train": train},
    }
    section, _, last = key.rpartition(".")
    (recipe[section] if section else recipe)[last] = name  # type: ignore[index]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"input_size": 64, **recipe}))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError):
        run_recipe(load_recipe(path), Console(quiet=True))


@pytest.mark.parametrize("entry", ["a\0b", "x" * 5000])
def test_a_split_that_no_folder_can_be_called_is_one_error(entry: str, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"val": entry, "names": ["a"]}))
    with pytest.raises(UserError, match="which is no path"):
        read_split(path, "val")


def test_what_is_missing_inside_a_list_is_named(tmp_path: Path) -> None:
    (tmp_path / "compare.yaml").write_text("base: b.yaml\noutput: o\narms: {a: {}}\nverdicts: [[a]]\n")
    with pytest.raises(UserError, match=r"verdicts\.0\.1: missing"):
        load_comparison(tmp_path / "compare.yaml")
