"""How far a training is."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class EpochProgress:
    """Progress of one training: a live bar on a terminal, one line an epoch elsewhere."""

    def __init__(self, label: str, epochs: int, console: Console) -> None:
        self._label, self._epochs, self._console = label, epochs, console
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._started = time.monotonic()

    def start(self, batches: int) -> None:
        """Show an empty bar for ``batches`` batches an epoch."""
        self._batches = batches
        self._task = self._progress.add_task(self._label, total=batches * self._epochs, losses="")
        self._progress.start()

    def start_epoch(self, epoch: int) -> None:
        """Show epoch ``epoch`` (from 0) as begun; not always the next one."""
        self._progress.update(self._task, completed=epoch * self._batches)

    def step(self) -> None:
        """Advance by one batch."""
        self._progress.advance(self._task)

    def finish_epoch(self, epoch: int, losses: Mapping[str, torch.Tensor]) -> None:
        """Show the mean losses of epoch ``epoch`` (from 0)."""
        text = "  ".join(f"{name.removesuffix('_loss')} {float(value):.3f}" for name, value in losses.items())
        self._progress.update(self._task, losses=text)
        if not self._console.is_terminal:
            seconds = time.monotonic() - self._started
            self._console.print(f"{self._label}: epoch {epoch + 1}/{self._epochs}  {text}  {seconds:.0f} s")

    def stop(self) -> None:
        """Take the bar away."""
        self._progress.stop()
