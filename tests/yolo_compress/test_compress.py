"""A checkpoint to a target without a recipe: what is made of the few words, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.squares import make_model
from typer.testing import CliRunner

from yolo_compress.checkpoints import save_model
from yolo_compress.cli import app
from yolo_compress.compress import like, plan_in_words, recipe_for, written
from yolo_compress.config.loading import load_recipe
from yolo_compress.errors import UserError


def test_the_recipe_takes_the_checkpoint_and_does_what_won(
    checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    recipe = recipe_for(checkpoint, dataset, {"macs": 0.33}, epochs=8, device="cpu", overrides=["seed=3"])
    assert (recipe.teacher.model, recipe.teacher.train, recipe.data.yaml) == (str(checkpoint), None, dataset)
    assert recipe.sparsify
    assert recipe.prune
    assert recipe.distill
    assert (recipe.sparsify.mode, recipe.sparsify.train.epochs, recipe.distill.train.epochs) == ("fade", 2, 8)
    assert (recipe.prune.importance, recipe.prune.scope, recipe.prune.target.macs) == ("lamp", "global", 0.33)
    assert recipe.input_size == 640  # as the checkpoint says
    assert recipe.seed == 3
    (tmp_path / "saved.yaml").write_text(written(recipe))
    assert load_recipe(tmp_path / "saved.yaml") == recipe
    said = plan_in_words(recipe)
    for figure in ("3.01 M parameters", "33.0% of its macs", "2 epochs in which", "8 epochs of recovery"):
        assert figure in said


def test_like_is_the_work_of_another_model_at_the_same_classes(checkpoint: Path, tmp_path: Path) -> None:
    save_model(make_model(architecture="yolov8s.yaml"), tmp_path / "s.pt")
    work = like(tmp_path / "s.pt", "yolov8n.pt", 320)
    assert work == pytest.approx(4.07 / 14.27, rel=0.01)  # GMACs at 640, two classes
    assert like(tmp_path / "s.pt", str(checkpoint), 320) == work
    with pytest.raises(UserError, match="name a smaller model"):
        like(checkpoint, "yolov8s.pt", 320)
    with pytest.raises(UserError, match="neither a checkpoint nor an architecture"):
        like(checkpoint, "nothing.pt", 320)


@pytest.mark.parametrize("words", [[], ["--macs", "0.3", "--params", "0.3"]])
def test_how_small_is_said_once(words: list[str], checkpoint: Path, dataset: Path) -> None:
    done = CliRunner().invoke(app, ["compress", str(checkpoint), "--data", str(dataset), *words])
    assert isinstance(done.exception, UserError)
    assert "say how small" in str(done.exception)
