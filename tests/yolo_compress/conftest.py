"""Fixtures: a data set and a model so small that training on them takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from support.squares import make_model, make_recipe, write_dataset

from yolo_compress.checkpoints import save_model
from yolo_compress.training import StageContext


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("squares"))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "dense.pt"
    save_model(make_model(), path)
    return path


@pytest.fixture
def context(tmp_path: Path, dataset: Path) -> StageContext:
    recipe = make_recipe(tmp_path, dataset)
    return StageContext(recipe, dataset, tmp_path / "stage", "test", Console(quiet=True))
