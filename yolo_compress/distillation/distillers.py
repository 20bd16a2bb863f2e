"""The distillation losses that a recipe can ask for, with the teacher and what is trained for them.

A recorder reads the maps that feed Detect, connectors match the student's widths to the teacher's, and the
losses themselves are pure functions of both (`losses`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributed, nn

from yolo_compress.config.techniques import Distill
from yolo_compress.distillation.losses import (
    cwd_loss,
    object_cells,
    object_prior,
    rebalanced,
    response_loss,
    standardized,
)
from yolo_compress.errors import UserError

from ultralytics.nn.tasks import DetectionModel  # isort: skip


class FeatureRecorder:
    """Keeps the feature maps that entered a model's Detect layer in its last forward pass."""

    def __init__(self, model: DetectionModel) -> None:
        self.features: list[torch.Tensor] = []
        model.model[-1].register_forward_pre_hook(self._record)

    def _record(self, _: nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        self.features = list(inputs[0])


class FrozenTeacher:
    """A trained detector that gives its feature maps and answers, and can be changed by nobody.

    No module itself: as a part of the student's module tree it would be unfrozen by Ultralytics' trainer,
    averaged into the EMA and written into every checkpoint.
    """

    def __init__(self, model: DetectionModel, device: torch.device) -> None:
        self.widths = detect_widths(model)
        self.classes = model.model[-1].nc
        self._model = model.to(device).eval().requires_grad_(False)
        if device.type == "cpu":
            self._model.to(memory_format=torch.channels_last)  # as the student, see StageTrainer
        # Detect is asked apart: at small inputs it is most of the work, and features do not need it.
        self._detect = self._model.model[-1]
        tap = nn.Identity()
        tap.f, tap.i, tap.type = self._detect.f, self._detect.i, "Identity"
        self._model.model[-1] = tap
        self._seen: tuple[torch.Tensor, list[torch.Tensor]] | None = None

    @torch.no_grad()
    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the maps that would feed Detect, for images ``[N, 3, H, W]`` in 0 to 1."""
        if self._seen is None or self._seen[0] is not images:  # two losses ask about the same batch
            self._seen = images, self._model(images)
        return self._seen[1]

    @torch.no_grad()
    def predictions(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return Detect's ``scores`` and ``boxes`` as logits, for images ``[N, 3, H, W]`` in 0 to 1."""
        return self._detect.forward_head(self.features(images), **self._detect.one2many)


class Connectors(nn.ModuleList):
    """One 1x1 convolution a level from the student's width to the teacher's, and a normalisation of both.

    The normalisation has no parameters: it takes the scale of the features out of the loss, so that the
    weight means the same for every teacher.
    """

    def __init__(self, student: Sequence[int], teacher: Sequence[int], normalize: str) -> None:
        super().__init__(nn.Conv2d(s, t, 1, bias=False) for s, t in zip(student, teacher, strict=True))
        self._normalize = normalize

    def forward(
        self, student: Sequence[torch.Tensor], teacher: Sequence[torch.Tensor]
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Return the pairs of equally shaped maps to compare, P3 to P5."""
        return [
            (standardized(connector(s), self._normalize), standardized(t, self._normalize))
            for connector, s, t in zip(self, student, teacher, strict=True)
        ]


def detect_widths(model: DetectionModel) -> list[int]:
    """Return the number of channels of each map that feeds Detect."""
    return [branch[0].conv.in_channels for branch in model.model[-1].cv2]


class Distiller(nn.Module):
    """A distillation loss, with what is trained for it; the teacher is held, but is no submodule.

    Attributes:
        loss_name: in the history.
    """

    loss_name: str

    def forward(
        self, features: list[torch.Tensor], predictions: dict[str, Any], batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the loss of a batch, a mean over its images.

        Args:
            features: the student's maps that entered Detect.
            predictions: what Detect made of them.
            batch: Ultralytics' batch: ``img`` ``[N, 3, H, W]``, ``bboxes``, ``batch_idx``.
        """
        raise TypeError("a distiller says what it compares")

    def end_epoch(self, device: torch.device) -> None:
        """Draw conclusions from the epoch that ended."""


class ChannelWise(Distiller):
    """The divergence between the maps that feed Detect, weighted by level and position.

    Attributes:
        levels: the level weights in force.
    """

    loss_name = "cwd_loss"

    def __init__(self, student: DetectionModel, teacher: FrozenTeacher, settings: Distill) -> None:
        super().__init__()
        widths = detect_widths(student)
        if not len(widths) == len(teacher.widths) == len(settings.levels):
            raise UserError(
                f"distill.method cwd: student and teacher have {len(widths)} and {len(teacher.widths)} "
                f"feature maps, and distill.levels weighs {len(settings.levels)}"
            )
        self._teacher, self._settings = teacher, settings
        self.connectors = Connectors(widths, teacher.widths, settings.normalize)
        self.levels: list[float] = list(settings.levels)
        self._divergences: list[torch.Tensor] = []

    def forward(
        self, features: list[torch.Tensor], predictions: dict[str, Any], batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the weighted sum over the levels."""
        images, share = batch["img"], self._settings.small_objects
        losses = []
        for student, teacher in self.connectors(features, self._teacher.features(images)):
            prior = None
            if share:
                cells = object_cells(batch["bboxes"], batch["batch_idx"], images.shape[0], *student.shape[2:])
                prior = object_prior(cells, share)
            losses.append(cwd_loss(student, teacher, self._settings.softening("cwd"), prior))
        divergences = torch.stack(losses)
        self._divergences.append(divergences.detach())
        return (divergences * divergences.new_tensor(self.levels)).sum()

    def end_epoch(self, device: torch.device) -> None:
        """Re-balance the levels by the mean divergences of the epoch, if the recipe asks for it."""
        if self._settings.adaptive and self._divergences:
            gaps = torch.stack(self._divergences).mean(0).to(device)
            if distributed.is_initialized():
                distributed.all_reduce(gaps)
            self.levels = rebalanced(self._settings.levels, gaps.tolist())
        self._divergences.clear()

    def get_extra_state(self) -> dict[str, Any]:
        """Return what belongs into the state besides the connectors."""
        return {"levels": self.levels}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`get_extra_state` returned."""
        self.levels = list(state["levels"])


class Response(Distiller):
    """The divergence between Detect's outputs."""

    loss_name = "logits_loss"

    def __init__(self, student: DetectionModel, teacher: FrozenTeacher, settings: Distill) -> None:
        super().__init__()
        if student.model[-1].nc != teacher.classes:
            raise UserError(
                f"distill.method logits compares classes, but the student has {student.model[-1].nc} and the "
                f"teacher {teacher.classes}"
            )
        self._teacher, self._settings = teacher, settings

    def forward(
        self, features: list[torch.Tensor], predictions: dict[str, Any], batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the loss over all anchors."""
        answers = self._teacher.predictions(batch["img"])
        return response_loss(predictions, answers, self._settings.softening("logits"))


class Several(Distiller):
    """The weighted sum of several losses under one teacher."""

    loss_name = "distill_loss"

    def __init__(self, distillers: Sequence[Distiller], weights: Sequence[float]) -> None:
        super().__init__()
        self._distillers = nn.ModuleList(distillers)
        self._weights = tuple(weights)

    def forward(
        self, features: list[torch.Tensor], predictions: dict[str, Any], batch: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Return the weighted sum."""
        losses = [distiller(features, predictions, batch) for distiller in self._distillers]
        return torch.stack([w * loss for w, loss in zip(self._weights, losses, strict=True)]).sum()

    def end_epoch(self, device: torch.device) -> None:
        """Let each draw its conclusions."""
        for distiller in self._distillers:
            assert isinstance(distiller, Distiller)
            distiller.end_epoch(device)


def distiller_of(student: DetectionModel, teacher: FrozenTeacher, settings: Distill) -> Distiller:
    """Return the loss that a recipe asks for, weighted."""
    kinds = {"cwd": ChannelWise, "logits": Response}
    distillers = [kinds[method](student, teacher, settings) for method in settings.methods]
    return distillers[0] if len(distillers) == 1 else Several(distillers, settings.weights)
