"""Channel-wise distillation: the pruned student learns where the teacher's channels look.

Shu et al., 2021, arXiv 2011.13256, on the three feature maps that feed Detect. Three parts: a recorder reads
the maps, connectors match the student's widths to the teacher's, and the loss is a pure function of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from yolo_compress.config import Distill
from yolo_compress.training import Setting, StageTrainer, load_model

from ultralytics.nn.tasks import DetectionModel  # isort: skip


def cwd_loss(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return the channel-wise distillation loss of one feature map.

    Each channel is turned into a distribution over positions by a softmax, and the student's is pulled to the
    teacher's: ``t^2 / (N C) sum KL(teacher || student)`` (arXiv 2011.13256, equation 5). Adding a constant to
    a channel changes nothing. Computed in fp32 whatever the input: the logarithm of an fp16 softmax
    underflows.

    Args:
        student: ``[N, C, H, W]``, any float type.
        teacher: the same shape; no gradient goes into it.
        temperature: ``t``; higher compares more of the background.

    Returns:
        A scalar in fp32, 0 where the maps are equal up to a constant a channel.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
    with torch.autocast(student.device.type, enabled=False):
        log_student = functional.log_softmax(student.flatten(2).float() / temperature, dim=2)
        log_teacher = functional.log_softmax(teacher.detach().flatten(2).float() / temperature, dim=2)
        divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.shape[0] * student.shape[1])


class FeatureRecorder:
    """Keeps the feature maps that entered a model's Detect layer in its last forward pass."""

    def __init__(self, model: DetectionModel) -> None:
        self.features: list[torch.Tensor] = []
        model.model[-1].register_forward_pre_hook(self._record)

    def _record(self, _: nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        self.features = list(inputs[0])


class FrozenTeacher:
    """A trained detector that gives its feature maps and can be changed by nobody.

    No module itself: as a part of the student's module tree it would be unfrozen by Ultralytics' trainer,
    averaged into the EMA and written into every checkpoint.
    """

    def __init__(self, model: DetectionModel, device: torch.device) -> None:
        self.widths = detect_widths(model)
        self._model = model.to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            self._model.to(memory_format=torch.channels_last)  # as the student, see StageTrainer
        # Detect itself is not needed, and at small inputs it is most of the work.
        detect = self._model.model[-1]
        tap = nn.Identity()
        tap.f, tap.i, tap.type = detect.f, detect.i, "Identity"
        self._model.model[-1] = tap

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps that would feed Detect, for images ``[N, 3, H, W]`` in 0 to 1."""
        return self._model(images)


class Connectors(nn.ModuleList):
    """One 1x1 convolution a level from the student's width to the teacher's, both brought to unit variance.

    The normalisation has no parameters: it takes the scale of the features out of the loss, so that the
    weight means the same for every teacher.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int]) -> None:
        super().__init__(nn.Conv2d(s, t, 1, bias=False) for s, t in zip(student, teacher, strict=True))

    def forward(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the pairs of equally shaped maps to compare, P3 to P5."""
        return [
            (_standardise(connector(s)), _standardise(t))
            for connector, s, t in zip(self, student, teacher, strict=True)
        ]


def _standardise(features: torch.Tensor) -> torch.Tensor:
    """Give each channel of ``[N, C, H, W]`` zero mean and unit variance over the batch."""
    return functional.batch_norm(features, None, None, training=True)


def detect_widths(model: DetectionModel) -> list[int]:
    """Return the number of channels of each map that feeds Detect."""
    return [branch[0].conv.in_channels for branch in model.model[-1].cv2]


class DistillationCriterion:
    """Ultralytics' detection loss with the distillation loss as one more component."""

    def __init__(
        self,
        base: Any,
        teacher: FrozenTeacher,
        recorder: FeatureRecorder,
        connectors: Connectors,
        settings: Distill,
    ) -> None:
        self._base = base
        self._teacher, self._recorder, self._connectors = teacher, recorder, connectors
        self._settings = settings

    def __call__(
        self, predictions: Any, batch: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss components, times the batch size as in Ultralytics, and their plain values."""
        loss, items = self._base(predictions, batch)
        images = batch["img"]
        pairs = self._connectors(self._recorder.features, self._teacher.features(images))
        cwd = sum(cwd_loss(s, t, self._settings.temperature) for s, t in pairs) * self._settings.weight
        total = torch.cat([loss, (cwd * images.shape[0]).reshape(1)])
        return total, {**items, "cwd_loss": cwd.detach()}


class DistillationTrainer(StageTrainer):
    """Fine-tunes a pruned student under a frozen teacher."""

    def __init__(self, student: str | Path, teacher: str | Path, settings: Distill, setting: Setting) -> None:
        super().__init__(student, settings.train, setting)
        self._settings = settings
        self._teacher_path = teacher

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the stock optimizer and let it train the connectors too."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        self._teacher = FrozenTeacher(load_model(self._teacher_path), self.device)
        self.connectors = Connectors(detect_widths(model), self._teacher.widths).to(self.device)
        decay = next(g["weight_decay"] for g in optimizer.param_groups if g["param_group"] == "weight")
        optimizer.add_param_group(
            {"params": list(self.connectors.parameters()), "weight_decay": decay, "param_group": "weight"}
        )
        return optimizer

    def _setup_train(self) -> None:
        super()._setup_train()
        # Only now: the EMA is a copy of the model, and must copy neither recorder nor criterion.
        model: DetectionModel = self.model
        model.criterion = DistillationCriterion(
            model.init_criterion(), self._teacher, FeatureRecorder(model), self.connectors, self._settings
        )
