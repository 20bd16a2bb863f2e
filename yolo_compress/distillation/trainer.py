"""Distillation: the pruned student learns from the model that it was made of.

Channel-wise (Shu et al., 2021, arXiv 2011.13256) on the three feature maps that feed Detect; beside it, as
controls, the response at Detect's outputs and Ultralytics' own distillation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn

from yolo_compress.checkpoints import load_model
from yolo_compress.config.base import required
from yolo_compress.config.techniques import Distill
from yolo_compress.distillation.distillers import Distiller, FeatureRecorder, FrozenTeacher, distiller_of
from yolo_compress.distillation.losses import distillation_rate
from yolo_compress.training import StageContext, StageTrainer, train

from ultralytics.nn.tasks import DetectionModel  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip


def distill(student: Path, context: StageContext) -> DetectionModel:
    """Fine-tune a student by the method that the recipe names; for the rest see ``training.train``.

    Args:
        student: checkpoint of the pruned model.
        context: with a teacher.
    """
    settings = required(context.recipe.distill)
    if settings.method == "none":
        return train(StageTrainer, student, settings.train, context)
    if settings.method == "ultralytics":
        chosen = {} if settings.weight is None else {"dis": settings.weights[0]}
        teacher = str(context.teacher)
        return train(StageTrainer, student, settings.train, context, distill_model=teacher, **chosen)
    return train(DistillationTrainer, student, settings.train, context)


class DistillationCriterion:
    """Ultralytics' detection loss with the distillation loss as one more component.

    Attributes:
        rate: factor of the distillation's weight in the present epoch; at 0 the teacher is not asked.
    """

    def __init__(self, base: Any, distiller: nn.Module, name: str, student: DetectionModel) -> None:
        self._base, self._distiller, self._name = base, distiller, name
        self._recorder = FeatureRecorder(student)
        self.rate = 0.0

    def __call__(
        self, predictions: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss components, times the batch size as in Ultralytics, and their plain values."""
        loss, items = self._base(predictions, batch)
        distillation = loss.new_zeros(())
        if self.rate:
            distillation = self.rate * self._distiller(self._recorder.features, predictions, batch)
        total = torch.cat([loss, (distillation * batch["img"].shape[0]).reshape(1)])
        return total, {**items, self._name: distillation.detach()}


class DistillationTrainer(StageTrainer):
    """Fine-tunes a pruned student under a frozen teacher, channel-wise or by the response.

    Attributes:
        distiller: the loss, and what is trained for it.
    """

    distiller: Distiller

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the stock optimizer and let it train the connectors too."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        settings = required(self.job.recipe.distill)
        teacher = FrozenTeacher(load_model(str(self.job.teacher)), self.device)
        self.distiller = self.make_distiller(unwrap_model(model), teacher, settings).to(self.device)
        if parameters := list(self.distiller.parameters()):
            decay = next(g["weight_decay"] for g in optimizer.param_groups if g["param_group"] == "weight")
            optimizer.add_param_group({"params": parameters, "weight_decay": decay, "param_group": "weight"})
        return optimizer

    def make_distiller(self, student: DetectionModel, teacher: FrozenTeacher, settings: Distill) -> Distiller:
        """Return the loss to train with: what the recipe asks for; a subclass brings one of its own."""
        return distiller_of(student, teacher, settings)

    def _setup_train(self) -> None:
        super()._setup_train()
        distiller: nn.Module = self.distiller
        if distributed.is_initialized() and any(True for _ in distiller.parameters()):
            devices = None if self.device.type == "cpu" else [self.device]
            # The connectors are trained on every rank, so they must stay equal as the model does.
            distiller = nn.parallel.DistributedDataParallel(distiller, device_ids=devices)
        # Only now: the EMA is a copy of the model, and must copy neither recorder nor criterion.
        student: DetectionModel = unwrap_model(self.model)
        base = getattr(student, "criterion", None) or student.init_criterion()
        self._criterion = student.criterion = DistillationCriterion(
            base, distiller, self.distiller.loss_name, student
        )

    def on_train_epoch_start(self) -> None:
        """Follow the schedule."""
        super().on_train_epoch_start()
        settings = required(self.job.recipe.distill)
        rate = distillation_rate(self.epoch, self.epochs, settings.warmup_epochs, settings.off_last_epochs)
        # The weights of several are inside their sum.
        self._criterion.rate = rate * (settings.weights[0] if len(settings.methods) == 1 else 1.0)

    def on_train_epoch_end(self) -> None:
        """Show the losses and let the distiller conclude."""
        super().on_train_epoch_end()
        self.distiller.end_epoch(self.device)

    def extra_state(self) -> dict[str, Any]:
        """Return the connectors and the level weights."""
        return {**super().extra_state(), "distiller": self.distiller.state_dict()}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up connectors and level weights."""
        super().load_extra_state(state)
        self.distiller.load_state_dict(state["distiller"])
