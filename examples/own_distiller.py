"""A distillation loss of one's own: python examples/own_distiller.py recipe.yaml student.pt teacher.pt."""

import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from yolo_compress import load_recipe
from yolo_compress.checkpoints import save_model
from yolo_compress.config.base import required
from yolo_compress.config.techniques import Distill
from yolo_compress.distillation.distillers import Connectors, Distiller, detect_widths
from yolo_compress.distillation.trainer import DistillationTrainer
from yolo_compress.training import StageContext, train


class SquaredDistance(Distiller):
    """The mean squared distance between the maps that feed Detect."""

    loss_name = "distance_loss"

    def __init__(self, student: Any, teacher: Any, settings: Distill) -> None:
        super().__init__()
        self._teacher = teacher
        self.connectors = Connectors(detect_widths(student), teacher.widths, settings.normalize)

    def forward(self, features: list[torch.Tensor], predictions: Any, batch: dict[str, Any]) -> torch.Tensor:
        """Return the sum over the levels of a batch's mean distance."""
        pairs = self.connectors(features, self._teacher.features(batch["img"]))
        return torch.stack([(mine - theirs).square().mean() for mine, theirs in pairs]).sum()


class MyTrainer(DistillationTrainer):
    """The project's trainer with that loss."""

    def make_distiller(self, student: Any, teacher: Any, settings: Distill) -> Distiller:
        """Return the loss to train with."""
        return SquaredDistance(student, teacher, settings)


def main(recipe: str, student: str, teacher: str) -> None:
    """Train the student by the recipe's section `distill`, on the data that `data.yaml` names."""
    loaded = load_recipe(Path(recipe))
    folder = loaded.output / "own"
    assert loaded.data.yaml is not None
    context = StageContext(loaded, loaded.data.yaml, folder, "own", Console(), teacher=Path(teacher))
    save_model(train(MyTrainer, student, required(loaded.distill).train, context), folder / "model.pt")
    print(f"written: {folder / 'model.pt'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
