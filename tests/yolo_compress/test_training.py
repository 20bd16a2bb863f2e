from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from yolo_compress.config import Training
from yolo_compress.errors import UserError
from yolo_compress.pruning import count_params, prune_uniformly
from yolo_compress.training import Setting, StageTrainer, load_model, save_model


def training(**changes: object) -> Training:
    return Training.model_validate(
        {"epochs": 1, "batch": 4, "lr": 0.001, "warmup_epochs": 0, "augment": {"mosaic": 0}, **changes}
    )


def test_trainer_keeps_a_pruned_architecture(checkpoint: Path, setting: Setting, tmp_path: Path) -> None:
    pruned = prune_uniformly(load_model(checkpoint), 0.5, 8)
    save_model(pruned, tmp_path / "pruned.pt")
    trainer = StageTrainer.prepare(tmp_path / "pruned.pt", training(), setting)
    trainer.train()
    assert count_params(trainer.result()) == count_params(pruned) < count_params(load_model(checkpoint))


def test_result_is_the_average_of_the_last_epoch_in_full_precision(
    checkpoint: Path, setting: Setting
) -> None:
    trainer = StageTrainer.prepare(checkpoint, training(epochs=2), setting)
    trainer.train()
    assert trainer.epoch == 1
    result, average = trainer.result().state_dict(), trainer.ema.ema.state_dict()
    assert all(torch.equal(result[key], average[key]) for key in average)
    assert all(value.dtype == torch.float32 for value in result.values() if value.is_floating_point())


def test_training_is_deterministic_given_the_seed(setting: Setting) -> None:
    states = []
    for _ in range(2):
        trainer = StageTrainer.prepare("yolov8n.yaml", training(augment={"mosaic": 1.0}), setting)
        trainer.train()
        states.append(trainer.result().state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_model_of_other_classes_gets_a_new_head_and_keeps_its_body(
    setting: Setting, tmp_path: Path
) -> None:
    from ultralytics.nn.tasks import DetectionModel

    other = DetectionModel("yolov8n.yaml", nc=5, verbose=False)
    save_model(other, tmp_path / "other.pt")
    trainer = StageTrainer.prepare(tmp_path / "other.pt", training(), setting)
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
