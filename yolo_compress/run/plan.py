"""Which stages a recipe comes down to, and what they need of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from yolo_compress.config.sections import Recipe
from yolo_compress.dense import DenseStage, architecture
from yolo_compress.devices import check_device
from yolo_compress.distillation.stage import DistilledStage
from yolo_compress.pruning.budget import count_params
from yolo_compress.pruning.stage import PrunedStage
from yolo_compress.sparsity.stage import SparseStage
from yolo_compress.stages import Stage

# What training needs on the disk, in bytes a parameter: two checkpoints (the old one stays until the new one
# is whole) of weights, their average and two moments of the optimizer, all fp32.
TRAINING_BYTES = 2 * 16
# What a finished stage keeps: checkpoint and ONNX file, fp32.
KEPT_BYTES = 2 * 4


class Step(NamedTuple):
    """A line of the plan.

    Attributes:
        key: of the section in the recipe; the step is left out where that is.
        name: of the stage and its folder.
        stage: what does it.
        parents: names of the stages whose models it reads; "" is the one before.
    """

    key: str
    name: str
    stage: type[Stage]
    parents: tuple[str, ...] = ()


# In the order of the work.
STEPS = (
    Step("teacher", "dense", DenseStage),
    Step("sparsify", "sparse", SparseStage, ("",)),
    Step("prune", "pruned", PrunedStage, ("",)),
    Step("student", "student", DenseStage),
    Step("distill", "distilled", DistilledStage, ("", "dense")),
)


def plan(recipe: Recipe) -> tuple[Stage, ...]:
    """Return the stages of a recipe in order; the first is the dense model, the last the result."""
    stages: dict[str, Stage] = {}
    for step in STEPS:
        if section := getattr(recipe, step.key):
            before = next(reversed(stages), "")
            parents = tuple(stages[name or before] for name in step.parents)
            stages[step.name] = step.stage(step.name, section, recipe, parents)
    return tuple(stages.values())


def check_devices(stages: Sequence[Stage]) -> None:
    """See that this machine has the devices that stages train on.

    Raises:
        UserError: it has not.
    """
    for stage in stages:
        training = getattr(stage.section, "train", None)
        if training is not None:
            check_device(stage.recipe.device, training.batch)


def space_needed(stages: Sequence[Stage]) -> int:
    """Return about how many bytes doing these stages needs on the disk.

    Raises:
        UserError: a dense model cannot be loaded.
    """
    models = {
        (section.model, section.width): section
        for stage in stages
        for section in (stage.recipe.teacher, stage.recipe.student)
        if section is not None
    }
    params = max(count_params(architecture(section)) for section in models.values())
    return params * (TRAINING_BYTES + KEPT_BYTES * len(stages))
