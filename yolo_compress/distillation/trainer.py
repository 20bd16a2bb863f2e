"""Distillation: the pruned student learns from the model that it was made of.

Channel-wise (Shu et al., 2021, arXiv 2011.13256) on the three feature maps that feed Detect: a recorder reads
the maps, connectors match the student's widths to the teacher's, and the loss is a pure function of both.
Beside it, as controls, the response at Detect's outputs and Ultralytics' own distillation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.nn import functional

from yolo_compress.checkpoints import load_model
from yolo_compress.config.base import required
from yolo_compress.config.techniques import Distill
from yolo_compress.errors import UserError
from yolo_compress.training import StageContext, StageTrainer, train

from ultralytics.nn.tasks import DetectionModel  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip

# COCO calls a box medium up to 96 x 96 pixels, in images whose side is about 640.
MEDIUM_SIDE, MEDIUM_SIDE_AT = 96, 640


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


def cwd_loss(
    student: torch.Tensor, teacher: torch.Tensor, temperature: float, prior: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the channel-wise distillation loss of one feature map.

    Each channel ``z`` is turned into a distribution over the positions ``i`` by a softmax, and the student's
    ``q`` is pulled to the teacher's ``p``: ``t^2 / (N C) sum KL(p || q)`` (arXiv 2011.13256, eq. 5). With
    a prior ``w`` over the positions of each image both are ``w_i exp(z_i / t) / sum_j w_j exp(z_j / t)``,
    which gives position ``i`` the share ``w_i`` where a channel says nothing; a uniform prior changes
    nothing. Adding a constant to a channel changes nothing either. Computed in fp32 whatever the input: the
    logarithm of an fp16 softmax underflows.

    Args:
        student: ``[N, C, H, W]``, any float type.
        teacher: the same shape; no gradient goes into it.
        temperature: ``t``; higher compares more of the background.
        prior: ``[N, H, W]``, positive, of any scale.

    Returns:
        A scalar in fp32, 0 where the maps are equal up to a constant a channel.
    """
    if student.shape != teacher.shape:
        raise ValueError(f"student {tuple(student.shape)} and teacher {tuple(teacher.shape)} differ in shape")
    with torch.autocast(student.device.type, enabled=False):
        log_prior = 0.0 if prior is None else prior.flatten(1).float().log()[:, None]
        log_student = functional.log_softmax(student.flatten(2).float() / temperature + log_prior, dim=2)
        log_teacher = functional.log_softmax(
            teacher.detach().flatten(2).float() / temperature + log_prior, dim=2
        )
        divergence = functional.kl_div(log_student, log_teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.shape[0] * student.shape[1])


def object_cells(
    boxes: torch.Tensor, image_index: torch.Tensor, images: int, height: int, width: int
) -> torch.Tensor:
    """Return which cells of a feature map a small or medium object touches.

    Small and medium are COCO's, below 96 x 96 pixels, scaled from COCO's images to the input: a box counts if
    its area is less than ``(96 / 640)^2`` of the input's.

    Args:
        boxes: ``[M, 4]``, centre and size as shares of the input, Ultralytics' ``xywh``.
        image_index: ``[M]``, the image that each belongs to.
        images: number of images ``N``.
        height: of the map, in cells.
        width: of the map, in cells.

    Returns:
        ``[N, height, width]``, bool.
    """
    counts = boxes[:, 2] * boxes[:, 3] < (MEDIUM_SIDE / MEDIUM_SIDE_AT) ** 2
    center, half, index = boxes[counts, :2], boxes[counts, 2:] / 2, image_index.flatten()[counts].long()
    low, high = (center - half).clamp(0, 1), (center + half).clamp(0, 1)

    def touched(axis: int, cells: int) -> torch.Tensor:
        edges = torch.arange(cells, device=boxes.device)
        begin, end = low[:, axis, None] * cells, high[:, axis, None] * cells
        return ((edges < end) & (edges + 1 > begin)).float()

    of_image = functional.one_hot(index, images).float()
    hits = torch.einsum("mn,mh,mw->nhw", of_image, touched(1, height), touched(0, width))
    return hits > 0


def object_prior(cells: torch.Tensor, share: float) -> torch.Tensor:
    """Return a distribution over positions in which the given cells have at least a share.

    Uniform within the cells and within the rest. The cells have ``max(share, cells / all)`` of it: a share of
    0 is the uniform prior, and so is an image without cells.

    Args:
        cells: ``[N, H, W]``, bool.
        share: from 0 to less than 1.

    Returns:
        ``[N, H, W]``, positive, each image's sum 1.
    """
    every = cells[0].numel()
    inside = cells.sum((1, 2), keepdim=True)
    total = (inside / every).clamp(min=share) * (inside > 0)
    each_inside, each_outside = total / inside.clamp(min=1), (1 - total) / (every - inside).clamp(min=1)
    return torch.where(cells, each_inside, each_outside)


def rebalanced(levels: Sequence[float], gaps: Sequence[float]) -> list[float]:
    """Return level weights in proportion to ``level x gap``, with the sum of ``levels``.

    Args:
        levels: the weights that the recipe names.
        gaps: mean divergence between student and teacher of each level, not weighted.
    """
    products = [level * gap for level, gap in zip(levels, gaps, strict=True)]
    if sum(products) == 0:
        return list(levels)
    return [sum(levels) * product / sum(products) for product in products]


def distillation_rate(epoch: int, epochs: int, warmup: int, off_last: int) -> float:
    """Return the factor of the distillation's weight in epoch ``epoch`` (from 0) of ``epochs``.

    It rises in equal steps over the ``warmup`` first epochs to 1, and is 0 in the ``off_last`` last ones.
    """
    return 0.0 if epoch >= epochs - off_last else min(1.0, (epoch + 1) / (warmup + 1))


def response_loss(
    student: dict[str, torch.Tensor], teacher: dict[str, torch.Tensor], temperature: float
) -> torch.Tensor:
    """Return the divergence between what two Detect layers say at each anchor.

    With the teacher's confidence ``m_a = max_c sigmoid(score_ac)`` of anchor ``a``, its class probabilities
    ``p`` and side distributions ``d`` (both softened by ``t``), and the student's ``q`` and ``e``:
    ``t^2 / sum(m) (sum_ac KL(p_ac || q_ac) + sum_a m_a / 4 sum_sides KL(d || e))``: classes as independent
    yes-or-no answers, boxes as in localization distillation (arXiv 2102.12252), where the teacher sees
    something. Computed in fp32.

    Args:
        student: ``scores`` ``[N, classes, anchors]`` and ``boxes`` ``[N, 4 x bins, anchors]``, logits.
        teacher: the same shapes; no gradient goes into it.
        temperature: ``t``.

    Returns:
        A scalar in fp32, 0 where the two agree.
    """
    with torch.autocast(student["scores"].device.type, enabled=False):
        scores_s, scores_t = student["scores"].float(), teacher["scores"].detach().float()
        confidence = scores_t.sigmoid().amax(1)
        targets = (scores_t / temperature).sigmoid()

        def yes_or_no(logits: torch.Tensor) -> torch.Tensor:
            return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum")

        classes = yes_or_no(scores_s / temperature) - yes_or_no(scores_t / temperature)
        sides_s, sides_t = (
            (p["boxes"].float().unflatten(1, (4, -1)) / temperature).log_softmax(2)
            for p in (student, teacher)
        )
        sides = functional.kl_div(sides_s, sides_t.detach(), reduction="none", log_target=True)
        boxes = (sides.sum((1, 2)) / 4 * confidence).sum()
    return temperature**2 * (classes + boxes) / confidence.sum()


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


def standardized(features: torch.Tensor, over: str) -> torch.Tensor:
    """Give each channel of ``[N, C, H, W]`` zero mean and unit variance.

    Args:
        features: any float type.
        over: ``batch``: the statistics of all images; ``instance``: those of each; ``none``: leave it.
    """
    if over == "none":
        return features
    if over == "instance":
        return functional.instance_norm(features)
    return functional.batch_norm(features, None, None, training=True)


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
