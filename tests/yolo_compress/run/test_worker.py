"""A stage of one's own in a worker: done once, done again where its files were damaged, by one process."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console
from support.squares import make_recipe

from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.base import StageSection, Training
from yolo_compress.config.sections import Recipe
from yolo_compress.data.source import RunData
from yolo_compress.errors import UserError
from yolo_compress.run import plan, worker
from yolo_compress.run.recipe import claimed
from yolo_compress.run.record import LOCK, RECIPE, memo
from yolo_compress.stages import Stage, StageModel
from yolo_compress.training import StageContext


class Blurring(StageSection):
    """The section of a stage that no recipe has."""

    strength: float = 0.5
    train: Training | None = None

    def fit(self, recipe: Recipe) -> None:
        if not recipe.distill:
            raise ValueError("`blur` needs something to distill into")


class Blurred(Stage):
    """A stage that is this class and its section, and nothing else."""

    section: Blurring
    done = 0

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        Blurred.done += 1
        return load_model(checkpoints[0]), {"blur": self.section.strength}

    def describe(self) -> str:
        return f"blurred by {self.section.strength}"


@pytest.fixture
def recipe(tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """A recipe whose data is there and whose exports are a few bytes."""
    source = RunData(dataset, "squares", "fingerprint")
    monkeypatch.setattr(worker, "prepare_source", lambda *_: source)
    monkeypatch.setattr(worker, "export_onnx", lambda model, path, *_, **__: files.write(path, b"onnx"))
    monkeypatch.setattr(worker, "count_macs", lambda *_: 10**9)
    monkeypatch.setattr(Blurred, "done", 0)
    return make_recipe(tmp_path / "out", dataset)


def do(recipe: Recipe, checkpoint: Path, strength: float = 0.5) -> tuple[Path, str]:
    """Do the stage in a new worker; return its folder and what was said."""
    shown = io.StringIO()
    stage = Blurred("blurred", Blurring(strength=strength), recipe)
    one = worker.StageWorker(recipe, Console(file=shown, width=500), lambda stage: recipe.output / stage.name)
    return one.do(stage, [checkpoint]), shown.getvalue()


def test_a_new_stage_is_its_own_class_and_nothing_else(recipe: Recipe, checkpoint: Path) -> None:
    folder, _ = do(recipe, checkpoint)
    record = json.loads((folder / "stage.json").read_text())
    assert (record["stage"], record["blur"]) == ("blurred", 0.5)
    assert "done before, skipped" in do(recipe, checkpoint)[1]
    assert Blurred.done == 1
    do(recipe, checkpoint, strength=0.7)
    assert Blurred.done == 2
    stage = Blurred("blurred", Blurring(), recipe, (Stage("dense", Blurring(), recipe),))
    assert (stage.kind, stage.describe()) == ("dense", "blurred by 0.5")


def test_a_new_stage_is_its_section_and_one_line_of_the_plan(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, dataset: Path
) -> None:
    class Longer(Recipe):
        blur: Blurring | None = None

    monkeypatch.setattr(plan, "STEPS", (*plan.STEPS, plan.Step("blur", "blurred", Blurred, ("", "dense"))))
    plain = make_recipe(tmp_path / "out", dataset).model_dump()
    assert "blurred" not in {stage.name for stage in plan.plan(Longer.model_validate(plain))}
    recipe = Longer.model_validate({**plain, "blur": {"strength": 0.1, "train": plain["distill"]["train"]}})
    assert recipe.epochs == make_recipe(tmp_path / "out", dataset).epochs + 1
    assert "blur" in Longer.stage_sections()
    *before, last = plan.plan(recipe)
    assert last.describe() == "blurred by 0.1"
    assert last.parents == (before[-1], before[0])
    plain["distill"] = plain["prune"] = plain["sparsify"] = None
    with pytest.raises(ValueError, match="`blur` needs something to distill into"):
        Longer.model_validate({**plain, "blur": {}})


@pytest.mark.parametrize("damage", ["missing", "cut", "another"])
def test_a_damaged_checkpoint_is_named_and_made_again(damage: str, recipe: Recipe, checkpoint: Path) -> None:
    folder, _ = do(recipe, checkpoint)
    path = folder / "model.pt"
    good = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(good[: len(good) // 2] if damage == "cut" else b"another")
    _, said = do(recipe, checkpoint)
    assert f"{path} is " in said
    assert "the stage is done again" in said
    assert path.read_bytes() == good
    assert Blurred.done == 2


@pytest.mark.parametrize("content", [None, b"", b"other"])
def test_a_damaged_export_is_made_again_without_the_stage(
    content: bytes | None, recipe: Recipe, checkpoint: Path
) -> None:
    folder, _ = do(recipe, checkpoint)
    path = folder / "model.onnx"
    path.unlink() if content is None else path.write_bytes(content)
    assert "exported again" in do(recipe, checkpoint)[1]
    assert path.read_bytes() == b"onnx"
    assert Blurred.done == 1
    assert "exported again" not in do(recipe, checkpoint)[1]


@pytest.mark.parametrize(
    "record", ["", "[]", "{}", '{"inputs": 1}', "[" * 20_000, '{"stage": "blurred", "params": "many"}']
)
def test_a_damaged_record_is_a_stage_not_done(record: str, recipe: Recipe, checkpoint: Path) -> None:
    folder, _ = do(recipe, checkpoint)
    (folder / "stage.json").write_text(record)
    do(recipe, checkpoint)
    assert json.loads((folder / "stage.json").read_text())["params"] > 0
    assert Blurred.done == 2


def test_a_stage_that_another_process_does_is_left_to_it(recipe: Recipe, checkpoint: Path) -> None:
    recipe.output.mkdir(parents=True)
    with files.locked(recipe.output / ".blurred.lock"), pytest.raises(UserError, match="another process"):
        do(recipe, checkpoint)
    do(recipe, checkpoint)


def test_a_run_has_its_folder_alone(recipe: Recipe) -> None:
    with claimed(recipe.output, RECIPE, recipe):
        (recipe.output / "model.pt.1-1.part").write_text("half")
        with (
            pytest.raises(UserError, match="another process works in"),
            claimed(recipe.output, RECIPE, recipe),
        ):
            pass
    with claimed(recipe.output, RECIPE, recipe):
        assert not list(recipe.output.glob("*.part"))
    assert (recipe.output / LOCK).is_file()


def test_a_memo_is_made_once_for_the_same_things(tmp_path: Path) -> None:
    made = []

    def make() -> dict[str, int]:
        made.append(len(made))
        return {"value": len(made)}

    path = tmp_path / "record.json"
    files.write_json(path, {"other": 1})
    assert memo(path, "entry", "a", make)["value"] == memo(path, "entry", "a", make)["value"] == 1
    assert memo(path, "entry", "b", make)["value"] == 2
    assert memo(path, "entry", "b", make, valid=lambda entry: False)["value"] == 3
    assert files.read_json(path)["other"] == 1
