"""What distillation compares, as pure functions of tensors: feature maps, answers, positions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

# COCO calls a box medium up to 96 x 96 pixels, in images whose side is about 640.
MEDIUM_SIDE, MEDIUM_SIDE_AT = 96, 640


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
