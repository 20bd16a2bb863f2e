"""Ultralytics' torch.distributed path, with our trainers."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from support.gloo import DistributedDistillationTrainer, DistributedSparsityTrainer
from support.squares import make_recipe

from yolo_compress.checkpoints import load_model, save_model
from yolo_compress.config.base import Training
from yolo_compress.distillation.trainer import DistillationTrainer
from yolo_compress.errors import UserError
from yolo_compress.pruning.pruner import prune_uniformly
from yolo_compress.sparsity.trainer import SparsityTrainer
from yolo_compress.training import StageContext, StageTrainer, train

from ultralytics.utils import DEFAULT_CFG_DICT  # isort: skip
from ultralytics.utils.dist import ddp_cleanup, generate_ddp_file  # isort: skip
from ultralytics.utils.patches import torch_load  # isort: skip

TRAINING = Training(epochs=2, batch=4, lr=0.01, warmup_epochs=0, augment={"mosaic": 0})


@pytest.fixture
def with_teacher(context: StageContext, dataset: Path, checkpoint: Path, tmp_path: Path) -> StageContext:
    recipe = make_recipe(tmp_path, dataset, distill={"adaptive": True, "train": TRAINING.model_dump()})
    return dataclasses.replace(context, recipe=recipe, teacher=checkpoint)


@pytest.mark.parametrize("kind", [StageTrainer, SparsityTrainer, DistillationTrainer])
def test_a_worker_gets_the_whole_trainer_from_what_ultralytics_pickles(
    kind: type[StageTrainer], with_teacher: StageContext, checkpoint: Path
) -> None:
    trainer = kind.prepare(checkpoint, TRAINING, with_teacher)
    file = generate_ddp_file(trainer)
    try:
        state = torch_load(Path(file).with_suffix(".pt"), map_location="cpu")
    finally:
        ddp_cleanup(trainer, file)
    assert state["trainer"] is kind  # by name, not as a copy
    worker: Any = state["trainer"](
        cfg={**DEFAULT_CFG_DICT, "save_dir": ""}, overrides=state["args"], _callbacks=state["callbacks"]
    )
    assert worker.job == trainer.job
    assert worker.save_dir == trainer.save_dir
    assert vars(worker.args) == vars(trainer.args)
    assert worker.model == str(checkpoint)


@pytest.fixture
def pruned(checkpoint: Path, tmp_path: Path) -> Path:
    path = tmp_path / "pruned.pt"
    save_model(prune_uniformly(load_model(checkpoint), 0.5, 8), path)
    return path


def assert_ranks_agree(folder: Path, pruned: Path, steps: int) -> list[dict[str, Any]]:
    ranks = [torch.load(folder / "training" / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]
    assert [rank["steps"] for rank in ranks] == [steps, steps]
    # BatchNorm's statistics are those of each rank's own images; everything that is trained is equal.
    before = dict(load_model(pruned).named_parameters())
    assert all(torch.equal(ranks[0]["model"][key], ranks[1]["model"][key]) for key in before)
    assert not torch.equal(ranks[0]["model"]["model.0.conv.weight"], before["model.0.conv.weight"])
    return ranks


def test_two_processes_train_one_sparse_model(with_teacher: StageContext, pruned: Path) -> None:
    result = train(DistributedSparsityTrainer, pruned, TRAINING, with_teacher)
    assert_ranks_agree(with_teacher.folder, pruned, steps=4)  # 8 images, 2 a rank and step, twice
    shapes = {k: v.shape for k, v in load_model(pruned).named_parameters()}
    assert {k: v.shape for k, v in result.named_parameters()} == shapes


def test_two_processes_distill_one_model_and_resume_when_one_has_failed(
    with_teacher: StageContext,
    pruned: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("FAIL_IN_EPOCH", "2")
    with pytest.raises(UserError, match=r"the training on devices cpu failed"):
        train(DistributedDistillationTrainer, pruned, TRAINING, with_teacher)
    assert "this rank fails" in capfd.readouterr().err
    monkeypatch.delenv("FAIL_IN_EPOCH")
    train(DistributedDistillationTrainer, pruned, TRAINING, with_teacher)
    one, other = assert_ranks_agree(with_teacher.folder, pruned, steps=2)  # the second epoch only
    # The connectors are no part of the model that Ultralytics keeps equal.
    one, other = one["extra"]["distiller"], other["extra"]["distiller"]
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one if key.endswith("weight"))
    levels = {tuple(state["_extra_state"]["levels"]) for state in (one, other)}
    assert len(levels) == 1
    assert levels != {(1.0, 1.0, 1.0)}
