"""Sparsity training as a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from yolo_compress.config.techniques import Sparsify
from yolo_compress.sparsity.trainer import sparsify
from yolo_compress.stages import Stage, StageModel, epochs
from yolo_compress.training import StageContext


class SparseStage(Stage):
    """Trains with a penalty on the scales that pruning ranks."""

    section: Sparsify

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        """Train the model."""
        return sparsify(checkpoints[0], context)

    def describe(self) -> str:
        """Say how, and how long."""
        how = (
            "in which the channels that go fade"
            if self.section.mode == "fade"
            else "with a penalty on BatchNorm scales"
        )
        return f"{epochs(self.section.train)} {how}"

    def _settings(self) -> list[Any]:
        settings = super()._settings()
        if self.section.mode == "fade":  # it does what the later stages say
            later = [self.recipe.prune, self.recipe.distill if self.section.distill else None]
            settings.append([None if other is None else other.in_force() for other in later])
        return settings
