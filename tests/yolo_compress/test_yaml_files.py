"""YAML of strangers: one error each, quickly."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support.hostile import YAML_BOMBS, yaml_bombs

from yolo_compress.config.loading import load_recipe
from yolo_compress.data.labelled import read_split
from yolo_compress.errors import UserError
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
