"""Trainings whose process is killed go on at their last finished epoch, and end as if nothing had been."""

from __future__ import annotations

import errno
import functools
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from support.squares import make_recipe
from support.trainings import EPOCHS, acting_in, killed_in, run_training

from yolo_compress import files
from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.errors import UserError, explained_disk_errors
from yolo_compress.pruning.pruner import prune_uniformly
from yolo_compress.run.recipe import run_recipe
from yolo_compress.training import StageTrainer

LOSSES = {"cwd": {"cwd_loss"}, "logits": {"logits_loss"}, "ultralytics": {"dis_loss"}}
LAST = Path("training") / "weights" / "last.pt"

# Trains one kind in a folder, returns the model; and the same without an interruption, done once a kind.
Training = Callable[..., torch.nn.Module]
Whole = Callable[[str], Path]


@pytest.fixture(scope="module")
def inputs(dataset: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    pruned = tmp_path_factory.mktemp("pruned") / "pruned.pt"
    save_model(prune_uniformly(load_model(checkpoint), 0.5, 8), pruned)
    return dataset, checkpoint, pruned


@pytest.fixture(scope="module")
def train_kind(inputs: tuple[Path, ...]) -> Training:
    def run(kind: str, folder: Path, shown: io.StringIO | None = None) -> torch.nn.Module:
        model = run_training(kind, folder, *inputs, Console(file=shown or io.StringIO(), width=400))
        save_model(model, folder / "model.pt")
        return model

    return run


@pytest.fixture(scope="module")
def whole(train_kind: Training, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    @functools.cache
    def folder_of(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("whole") / kind
        train_kind(kind, folder)
        return folder

    return folder_of


def history(folder: Path) -> list[dict[str, float]]:
    rows = json.loads((folder / "history.json").read_text())
    assert all(row.pop("seconds") > 0 for row in rows)
    return rows


def assert_ended_alike(kind: str, folder: Path, uninterrupted: Path) -> None:
    found, wanted = (load_model(path / "model.pt").state_dict() for path in (folder, uninterrupted))
    assert found.keys() == wanted.keys()
    assert [key for key in wanted if not torch.equal(found[key], wanted[key])] == []
    assert history(folder) == history(uninterrupted)
    assert [row["epoch"] for row in history(folder)] == list(range(1, EPOCHS + 1))
    names = {"epoch", "lr", "box_loss", "cls_loss", "dfl_loss"} | LOSSES.get(kind, set())
    assert all(set(row) == names for row in history(folder))


@pytest.mark.parametrize(("kind", "epoch"), [("dense", 3), ("sparse", 3), ("cwd", 2)])
def test_a_training_killed_with_sigkill_ends_as_the_uninterrupted_one(
    kind: str, epoch: int, inputs: tuple[Path, ...], train_kind: Training, whole: Whole, tmp_path: Path
) -> None:
    process = killed_in(epoch, kind, tmp_path, *inputs)
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert f"{kind}: epoch {epoch - 1}/{EPOCHS}" in process.stdout
    assert len(history(tmp_path)) == epoch - 1
    shown = io.StringIO()
    train_kind(kind, tmp_path, shown)
    assert f"{kind}: resumed at epoch {epoch}/{EPOCHS}" in shown.getvalue()
    assert f"{kind}: epoch {epoch - 1}/{EPOCHS}" not in shown.getvalue()
    assert_ended_alike(kind, tmp_path, whole(kind))
    if kind == "sparse":  # the record of the scales, before the training and after each epoch
        records = [json.loads((folder / "gammas.json").read_text()) for folder in (tmp_path, whole(kind))]
        assert records[0] == records[1]
        assert [entry["epoch"] for entry in records[0]["epochs"]] == list(range(EPOCHS + 1))


@pytest.mark.parametrize("kind", ["logits", "ultralytics"])
def test_a_training_stopped_by_ctrl_c_ends_as_the_uninterrupted_one(
    kind: str, train_kind: Training, whole: Whole, tmp_path: Path
) -> None:
    with acting_in(2, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        train_kind(kind, tmp_path)
    train_kind(kind, tmp_path)
    assert_ended_alike(kind, tmp_path, whole(kind))


@pytest.mark.parametrize("kind", ["cwd", "logits", "ultralytics"])
def test_the_checkpoint_of_a_distillation_holds_the_student_and_no_teacher(
    kind: str, inputs: tuple[Path, ...], whole: Whole
) -> None:
    student = load_model(inputs[-1]).state_dict()
    state = torch.load(whole(kind) / LAST, weights_only=False)
    for weights in (state["weights"], state["ema"].state_dict()):
        own = {
            k.removeprefix("student_model."): v for k, v in weights.items() if not k.startswith("projector.")
        }
        assert {k: v.shape for k, v in own.items()} == {k: v.shape for k, v in student.items()}
    # The weights learned: it is the student that is in there.
    assert not torch.equal(own["model.0.conv.weight"], student["model.0.conv.weight"])


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_damaged_checkpoint_is_named_and_training_starts_anew(
    keep: float, train_kind: Training, whole: Whole, tmp_path: Path
) -> None:
    content = (whole("dense") / LAST).read_bytes()
    (tmp_path / LAST).parent.mkdir(parents=True)
    (tmp_path / LAST).write_bytes(content[: int(len(content) * keep)])
    shown = io.StringIO()

    def stop() -> None:
        raise KeyboardInterrupt

    with acting_in(1, stop), pytest.raises(KeyboardInterrupt):
        train_kind("dense", tmp_path, shown)
    assert f"dense: {tmp_path / LAST} of an interrupted training is damaged" in shown.getvalue()
    assert "resumed" not in shown.getvalue()


def test_a_training_killed_after_its_last_epoch_is_not_repeated(
    train_kind: Training, whole: Whole, tmp_path: Path
) -> None:
    folder = shutil.copytree(whole("dense"), tmp_path / "moved")
    (folder / "model.pt").unlink()
    shown = io.StringIO()
    train_kind("dense", folder, shown)
    assert shown.getvalue() == ""
    assert_ended_alike("dense", folder, whole("dense"))


def test_a_disk_that_fills_up_is_told_and_loses_no_finished_epoch(
    train_kind: Training, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = 1_000_000  # a number that no file being written has had
    parts = [
        (tmp_path / LAST).with_name(f"last.pt.{os.getpid()}-{first + index}{files.PART}")
        for index in range(50)
    ]

    def fill() -> None:
        # Whatever the third checkpoint is written into is a device that is always full.
        monkeypatch.setattr(files, "_NUMBERS", itertools.count(first))
        for part in parts:
            part.symlink_to("/dev/full")

    with (
        acting_in(3, fill),
        pytest.raises(UserError, match=r"the disk of .* is full .*what was finished is kept") as error,
        explained_disk_errors(tmp_path),
    ):
        train_kind("dense", tmp_path)
    assert isinstance(error.value.__cause__, OSError)
    assert error.value.__cause__.errno == errno.ENOSPC
    left = [part for part in parts if part.is_symlink()]
    assert len(left) == len(parts) - 1  # the one that was written into is gone
    for part in left:
        part.unlink()
    shown = io.StringIO()
    train_kind("dense", tmp_path, shown)
    assert f"dense: resumed at epoch 3/{EPOCHS}" in shown.getvalue()
    assert_ended_alike("dense", tmp_path, whole("dense"))


def test_a_run_resumes_a_stage_of_the_same_inputs_only(dataset: Path, tmp_path: Path) -> None:
    def start(lr: float) -> str:
        train = {"epochs": 2, "batch": 2, "lr": lr, "augment": {"mosaic": 0}}
        recipe = make_recipe(tmp_path / "out", dataset, teacher={"model": "yolov8n.yaml", "train": train})
        shown = io.StringIO()
        with acting_in(2, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
            run_recipe(recipe, Console(file=shown, width=400))
        return shown.getvalue()

    assert "dense: epoch 1/2" in start(0.001)
    changed = start(0.002)
    assert "resumed" not in changed
    assert "dense: epoch 1/2" in changed
    again = start(0.002)
    assert "dense: resumed at epoch 2/2" in again
    assert "dense: epoch 1/2" not in again


KILLED_AT = """
import os, signal, sys
from yolo_compress.pruning import stage as pruning
from yolo_compress.run import worker
place, stage = sys.argv.pop(1), sys.argv.pop(1)
module = worker if hasattr(worker, place) else pruning
function = getattr(module, place)
def function_or_death(*arguments, **options):
    if stage in str(arguments) + str(options):
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments, **options)
setattr(module, place, function_or_death)
from yolo_compress.cli import main
main()
"""


def test_a_run_killed_between_its_trainings_repeats_none_of_them(dataset: Path, tmp_path: Path) -> None:
    recipe = make_recipe(tmp_path / "out", dataset)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))

    def killed_at(function: str, stage: str) -> str:
        process = subprocess.run(
            [sys.executable, "-c", KILLED_AT, function, stage, "run", str(tmp_path / "recipe.yaml")],
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        assert process.returncode == -signal.SIGKILL, process.stderr
        return process.stdout

    shown = killed_at("export_onnx", "sparse")
    assert "dense: epoch 1/1" in shown
    assert "sparse: epoch 1/1" in shown
    shown = killed_at("prune", "")
    assert "dense: done before, skipped" in shown
    assert "epoch 1/1" not in shown
    assert not list((tmp_path / "out").rglob("last.pt"))  # a finished stage keeps its model only
    output = io.StringIO()
    with acting_in(1, lambda: signal.raise_signal(signal.SIGINT), batch=1), pytest.raises(KeyboardInterrupt):
        run_recipe(recipe, Console(file=output, width=200))
    assert [line for line in output.getvalue().splitlines() if "skipped" in line] == [
        "dense: done before, skipped",
        "sparse: done before, skipped",
    ]
    assert (tmp_path / "out" / "pruned" / "stage.json").is_file()


@pytest.fixture
def spoil(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], list[int]]:
    """Return what makes the images of an epoch NaN, the first so many times; and tells when it did."""
    preprocess = StageTrainer.preprocess_batch

    def spoil(epoch: int, batches: int) -> list[int]:
        spoiled: list[int] = []

        def preprocess_and_spoil(self: StageTrainer, batch: Any) -> Any:
            batch = preprocess(self, batch)
            if self.epoch + 1 == epoch and len(spoiled) < batches:
                spoiled.append(self.epoch + 1)
                batch["img"].fill_(torch.nan)
            return batch

        monkeypatch.setattr(StageTrainer, "preprocess_batch", preprocess_and_spoil)
        return spoiled

    return spoil


def test_a_loss_that_is_not_finite_costs_its_epoch_and_is_told(
    train_kind: Training, whole: Whole, tmp_path: Path, spoil: Callable[[int, int], list[int]]
) -> None:
    spoiled, shown = spoil(2, 4), io.StringIO()
    result = train_kind("cwd", tmp_path, shown)
    assert spoiled == [2] * 4
    assert "cwd: the loss of epoch 2 is not finite; it is done again" in shown.getvalue()
    assert all(value.isfinite().all() for value in result.state_dict().values())
    found, wanted = history(tmp_path), history(whole("cwd"))
    assert [row["epoch"] for row in found] == [1, 2, 3]
    assert found[0] == wanted[0]
    assert found[1] != wanted[1]  # the same draws would fail again


@pytest.mark.parametrize(("epoch", "times"), [(1, 1), (2, 4)])
def test_a_loss_that_stays_not_finite_is_an_error_with_a_remedy(
    epoch: int, times: int, train_kind: Training, tmp_path: Path, spoil: Callable[[int, int], list[int]]
) -> None:
    spoiled = spoil(epoch, 100)
    with pytest.raises(UserError, match=rf"the loss of epoch {epoch} is not finite.*make `lr` .* smaller"):
        train_kind("none", tmp_path)
    assert len(spoiled) == 4 * times


def test_the_loss_scale_survives_and_changes_nothing_of_a_sparse_training(
    train_kind: Training, whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale is a power of two, so a trainer that unscales before it clips and shrinks is exact."""
    scales: list[tuple[int, float]] = []
    step = torch.amp.GradScaler.step

    def note(self: torch.amp.GradScaler, optimizer: torch.optim.Optimizer) -> None:
        scales.append((len(scales), self.get_scale()))
        step(self, optimizer)

    growing = functools.partial(torch.amp.GradScaler, "cpu", init_scale=256.0, growth_interval=2)
    monkeypatch.setattr(torch.amp.GradScaler, "step", note)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: growing())
    with acting_in(3, lambda: signal.raise_signal(signal.SIGINT)), pytest.raises(KeyboardInterrupt):
        train_kind("sparse", tmp_path)
    train_kind("sparse", tmp_path)
    # Two steps an epoch; the third epoch was begun twice, and in vain before its first step.
    assert scales == [(0, 256.0), (1, 256.0), (2, 512.0), (3, 512.0), (4, 1024.0), (5, 1024.0)]
    assert_ended_alike("sparse", tmp_path, whole("sparse"))
