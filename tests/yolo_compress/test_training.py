from __future__ import annotations

import dataclasses
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from rich.console import Console

from yolo_compress.checkpoints import load_model, save_model, trained_model
from yolo_compress.config.base import Training
from yolo_compress.devices import check_device
from yolo_compress.errors import UserError
from yolo_compress.pruning.budget import count_params
from yolo_compress.pruning.pruner import prune_uniformly
from yolo_compress.training import StageContext, StageTrainer, train
from yolo_compress.training import trainer as training_module
from yolo_compress.training.bf16 import FullPrecisionLoss

from ultralytics.engine import trainer as trainer_module  # isort: skip
from ultralytics.utils import DEFAULT_CFG_DICT  # isort: skip


def training(**changes: object) -> Training:
    return Training.model_validate(
        {"epochs": 1, "batch": 4, "lr": 0.001, "warmup_epochs": 0, "augment": {"mosaic": 0}, **changes}
    )


DROPPED_INTERRUPT = """
import os, signal
from yolo_compress.interrupts import end_if_interrupted, interrupts_heard

class Loader:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        for _ in range(1000):
            pass

signal.signal(signal.SIGINT, signal.default_int_handler)
with interrupts_heard():
    end_if_interrupted()
    loader = Loader()
    del loader
    print("dropped")
    try:
        end_if_interrupted()
    except KeyboardInterrupt:
        print("heard")
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_ctrl_c_in_a_finaliser_is_not_lost() -> None:
    run = subprocess.run([sys.executable, "-c", DROPPED_INTERRUPT], capture_output=True, text=True)

    assert run.stdout.split() == ["dropped", "heard", "True"], run.stderr
    assert not run.stderr


def test_trainer_keeps_a_pruned_architecture(checkpoint: Path, context: StageContext, tmp_path: Path) -> None:
    pruned = prune_uniformly(load_model(checkpoint), 0.5, 8)
    save_model(pruned, tmp_path / "pruned.pt")
    trainer = StageTrainer.prepare(tmp_path / "pruned.pt", training(), context)
    trainer.train()
    assert (
        count_params(trained_model(trainer.last))
        == count_params(pruned)
        < count_params(load_model(checkpoint))
    )


def test_result_is_the_average_of_the_last_epoch_in_full_precision(
    checkpoint: Path, context: StageContext
) -> None:
    trainer = StageTrainer.prepare(checkpoint, training(epochs=2), context)
    trainer.train()
    assert trainer.epoch == 1
    result, average = trained_model(trainer.last).state_dict(), trainer.ema.ema.state_dict()
    assert all(torch.equal(result[key], average[key]) for key in average)
    assert all(value.dtype == torch.float32 for value in result.values() if value.is_floating_point())


def test_training_is_deterministic_given_the_seed(context: StageContext) -> None:
    """To the byte of the checkpoint, which decides whether later stages are done again."""
    files = []
    for number in range(2):
        trainer = StageTrainer.prepare("yolov8n.yaml", training(augment={"mosaic": 1.0}), context)
        trainer.train()
        files.append(context.folder / f"{number}.pt")
        save_model(trained_model(trainer.last), files[-1])
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ultralytics_arguments_are_set_and_not_left_to_its_defaults(
    checkpoint: Path, context: StageContext
) -> None:
    """Its defaults would choose the optimizer and the learning rate, and raise ``max_det`` to the data's."""
    trainer = StageTrainer.prepare(checkpoint, training(lr=0.003, batch=2, accumulate=4, epochs=2), context)
    assert (trainer.args.optimizer, trainer.args.lr0, trainer.args.max_det) == ("AdamW", 0.003, 500)
    assert trainer.args.nbs == trainer.args.batch == 2
    # Ours live in our own recipe: the stock trainer refuses what it does not know.
    assert set(vars(trainer.args)) - set(DEFAULT_CFG_DICT) == {"save_dir"}
    with pytest.raises(SyntaxError, match="strength"):
        StageTrainer.prepare(checkpoint, training(), context, strength=1.0)
    trainer.train()
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert {group["initial_lr"] for group in trainer.optimizer.param_groups} == {0.003}


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (3, 2), (4, 1), (9, 1)])
def test_an_epoch_ends_with_a_step_whatever_the_accumulation(
    accumulate: int, steps: int, checkpoint: Path, context: StageContext
) -> None:
    trainer = StageTrainer.prepare(checkpoint, training(batch=2, accumulate=accumulate), context)
    trainer.train()
    assert trainer.ema.updates == steps  # 8 images are 4 batches
    assert all(p.grad is None for p in trainer.model.parameters())


@pytest.mark.parametrize("instructions", [[], ["avx512_bf16"]])
def test_amp_on_a_cpu_is_bf16_where_the_processor_has_it_and_says_what_it_is(
    instructions: list[str], checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "bf16_instructions", lambda: instructions)
    recipe, shown = context.recipe.model_copy(update={"amp": True}), io.StringIO()
    own = dataclasses.replace(context, recipe=recipe, console=Console(file=shown, width=200))
    trainer = Spying.prepare(checkpoint, training(), own)
    trainer.train()
    said = "in bf16 (avx512_bf16)" if instructions else "in fp32, this processor has no bf16 arithmetic"
    assert said in shown.getvalue()
    assert trainer.seen == {torch.bfloat16 if instructions else torch.float32}
    # What must not lose bits does not.
    kept = [trainer.loss, *trainer.model.state_dict().values(), *trainer.ema.ema.state_dict().values()]
    kept += [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in kept if value.is_floating_point()} == {torch.float32}


def test_the_loss_is_summed_in_full_precision_under_autocast(checkpoint: Path) -> None:
    """In bf16, 256 + 1 is 256."""
    given = {"scores": torch.ones(300, dtype=torch.bfloat16), "feats": [torch.ones(1, dtype=torch.bfloat16)]}
    seen: list[torch.Tensor] = []

    def loss(
        predictions: dict[str, Any], batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        seen.extend([predictions["scores"], *predictions["feats"]])
        return predictions["scores"][None] @ predictions["scores"][:, None], {}

    with torch.autocast("cpu", torch.bfloat16):
        value, _ = FullPrecisionLoss(loss)(given, {})
    assert value.item() == 300
    assert {tensor.dtype for tensor in seen} == {torch.float32}


def test_ultralytics_own_distillation_runs_in_bf16(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_module, "bf16_instructions", lambda: ["avx512_bf16"])
    own = dataclasses.replace(context, recipe=context.recipe.model_copy(update={"amp": True}))
    trained = train(StageTrainer, checkpoint, training(), own, distill_model=str(checkpoint))
    assert all(torch.isfinite(value).all() for value in trained.state_dict().values())


class Spying(StageTrainer):
    """Notes the type that a convolution answers in."""

    def on_train_start(self) -> None:
        super().on_train_start()
        self.seen: set[torch.dtype] = set()
        self.model.model[0].conv.register_forward_hook(lambda _m, _i, out: self.seen.add(out.dtype))


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("count", "device", "batch", "says"),
    [
        (0, "0", 4, r"finds no CUDA device 0 here; there is cpu$"),
        (2, "1,2,3", 6, r"finds no CUDA device 2, 3 here; there is cpu, 0, 1$"),
        (2, "0,1", 5, r"batch: 5 images do not spread evenly over the 2 devices 0,1"),
        (2, "0,0", 4, r"'0,0' is none of cpu, mps, 0, or several"),
        (0, "mps", 4, r"'mps' is for Apple's GPUs, and torch finds none here"),
        (0, "gpu", 4, r"'gpu' is none of cpu, mps, 0, or several"),
        (0, "", 4, r"'' is none of cpu"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(
    count: int, device: str, batch: int, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, count)
    with pytest.raises(UserError, match=says):
        check_device(device, batch)


@pytest.mark.parametrize("device", ["cpu", "0", "1", "0,1", "cuda:1"])
def test_devices_that_are_there_are_accepted(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch, 2)
    check_device(device, 4)


def test_two_devices_are_ultralytics_distributed_training(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpus(monkeypatch, 2)
    monkeypatch.setattr(trainer_module, "select_device", lambda device: torch.device("cuda", 0))
    recipe = context.recipe.model_copy(update={"device": "0,1"})
    commands: list[list[str]] = []
    monkeypatch.setattr(trainer_module.subprocess, "run", lambda command, check: commands.append(command))
    trainer = StageTrainer.prepare(checkpoint, training(), dataclasses.replace(context, recipe=recipe))
    trainer.train()
    (command,) = commands
    assert command[command.index("--nproc_per_node") + 1] == "2"
    assert trainer.args.device == "0,1"


def test_a_full_memory_is_an_error_and_never_a_smaller_batch(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []

    def preprocess(_: StageTrainer, batch: dict[str, torch.Tensor]) -> None:
        batches.append(len(batch["img"]))
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(StageTrainer, "preprocess_batch", preprocess)
    with pytest.raises(
        UserError, match=r"memory of device cpu does not hold batches of 4 images of 64 pixels"
    ):
        train(StageTrainer, checkpoint, training(), context)
    assert batches == [4]


def test_too_little_room_on_the_disk_is_an_error_before_training(
    checkpoint: Path, context: StageContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = count_params(load_model(checkpoint))
    free = 4 * parameters * 8  # a checkpoint holds four numbers a parameter, and two of them lie side by side
    monkeypatch.setattr(shutil, "disk_usage", lambda _: mock.Mock(free=free))
    with pytest.raises(UserError, match=r"test: the training needs \d+ MB in .*stage, and \d+ MB are free"):
        train(StageTrainer, checkpoint, training(), context)
    assert not (context.folder / "history.json").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: mock.Mock(free=4 * parameters * 10 + 1))
    train(StageTrainer, checkpoint, training(), context)
    written = sum(f.stat().st_size for f in context.folder.rglob("*") if f.is_file())
    assert written < 4 * parameters * 4.5  # what the estimate takes a checkpoint for


def test_a_model_of_other_classes_gets_a_new_head_and_keeps_its_body(
    context: StageContext, tmp_path: Path
) -> None:
    from ultralytics.nn.tasks import DetectionModel

    other = DetectionModel("yolov8n.yaml", nc=5, verbose=False)
    save_model(other, tmp_path / "other.pt")
    trainer = StageTrainer.prepare(tmp_path / "other.pt", training(), context)
    trainer.setup_model()
    assert trainer.model.model[-1].nc == 2
    assert torch.equal(trainer.model.model[0].conv.weight, other.model[0].conv.weight)


@pytest.mark.parametrize(
    ("content", "says"),
    [(None, "there is no model"), (b"", "no checkpoint"), (b"PK\x03\x04 cut", "no checkpoint")],
)
def test_unusable_checkpoint_is_named(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as error:
        load_model(path)
    assert "broken.pt" in str(error.value)


def test_importing_writes_nothing_into_the_home(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("YOLO_")}
    environment["HOME"] = environment["XDG_CONFIG_HOME"] = str(tmp_path)
    subprocess.run(
        [sys.executable, "-c", "import yolo_compress.training, torchvision"],
        check=True,
        env=environment,
        timeout=120,
    )
    assert not any("ltralytics" in str(path) for path in tmp_path.rglob("*"))
