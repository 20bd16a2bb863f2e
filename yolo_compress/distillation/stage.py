"""Distillation as a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from yolo_compress.config.techniques import Distill
from yolo_compress.distillation.trainer import distill
from yolo_compress.stages import Stage, StageModel, epochs
from yolo_compress.training import StageContext


class DistilledStage(Stage):
    """Trains the smaller model under the one that it was made of."""

    section: Distill

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        """Train the student; the second checkpoint is the context's teacher."""
        return distill(checkpoints[0], context), {}

    def describe(self) -> str:
        """Say how, and how long."""
        methods = " + ".join(self.section.methods)
        how = "fine-tuning" if self.section.method == "none" else f"distillation ({methods})"
        return f"{epochs(self.section.train)} of {how}"
