"""Pruning as a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.progress import Progress

from yolo_compress.checkpoints import load_model
from yolo_compress.config.techniques import Prune
from yolo_compress.pruning.pruner import Bench, prune
from yolo_compress.stages import Stage, StageModel
from yolo_compress.training import StageContext


class PrunedStage(Stage):
    """Removes channels until the target is met."""

    section: Prune

    @property
    def kind(self) -> str:
        """Pruned, whatever was pruned."""
        return "pruned"

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        """Prune the model, measuring on the run's data where the recipe asks for it."""
        recipe, console = self.recipe, context.console
        bench = Bench(
            context.data,
            recipe.evaluate.split,
            recipe.device,
            recipe.threads,
            recipe.evaluate.latency_rounds,
        )
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("pruned", total=None)
            pruned = prune(
                load_model(checkpoints[0]),
                self.section,
                recipe.input_size,
                seed=recipe.seed,
                bench=bench,
                progress=lambda what, done, total: progress.update(
                    task, description=f"pruned: {what}", completed=done, total=total
                ),
            )
        console.print(f"pruned: {pruned.summary()}", soft_wrap=True)
        return pruned.model, pruned.record()

    def describe(self) -> str:
        """Say what is left, and by which importance."""
        target = self.section.target
        return f"to {target.share:.1%} of the {target.kind}, by {self.section.importance}"
