"""What a stage of a compression is; each technique brings its own along, beside its code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolo_compress import files
from yolo_compress.config.base import Section, Training
from yolo_compress.config.sections import Recipe
from yolo_compress.training import StageContext
from yolo_compress.versions import versions

from ultralytics.nn.tasks import DetectionModel  # isort: skip

# A stage's model, and what only this stage's record says.
StageModel = tuple[DetectionModel, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a plan: what is done to which models.

    Attributes:
        name: dense, student, sparse, pruned or distilled.
        section: the recipe's settings of it.
        recipe: for what all stages share (seed, device, input size).
        parents: the stages whose models it reads; the first one's is the model that it changes.
    """

    name: str
    section: Section
    recipe: Recipe = field(repr=False)
    parents: tuple[Stage, ...] = ()

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        """Return the model that the stage makes, and what only its record says.

        Args:
            context: where it works, on which data, and where progress is shown.
            checkpoints: the models of its parents, in their order.
        """
        raise TypeError(f"{type(self).__name__} does not say how its model is made")

    def describe(self) -> str:
        """Say in a few words what is done."""
        raise TypeError(f"{type(self).__name__} does not say what is done")

    @property
    def kind(self) -> str:
        """How the model came to its size: dense, pruned or student."""
        return self.parents[0].kind if self.parents else self.name

    @property
    def key(self) -> str:
        """Hash of everything that is known before anything is done: equal stages of two plans share it."""
        return files.digest_of([*self._settings(), [parent.key for parent in self.parents]])

    def inputs(self, checkpoints: Sequence[Path], data: str) -> str:
        """Hash of everything that the result depends on: settings, models, data and versions."""
        given = getattr(self.section, "model", None)
        return files.digest_of(
            [
                *self._settings(),
                files.sha256(Path(given)) if given else None,
                [files.sha256(checkpoint) for checkpoint in checkpoints],
                data,
                versions(),
            ]
        )

    def _settings(self) -> list[Any]:
        recipe = self.recipe
        return [
            self.name,
            self.section.in_force(),
            [recipe.seed, recipe.device, recipe.input_size, recipe.amp],
        ]


def epochs(training: Training) -> str:
    """Render how long a training is."""
    return "1 epoch" if training.epochs == 1 else f"{training.epochs} epochs"
