"""Images a second that a training on this processor does, in fp32 and in bf16, and where its time goes.

    python benchmarks/training.py                       YOLOv8n, 320 px, batch 8, one thread
    python benchmarks/training.py --threads 2 --images 128

Trains on generated scenes with the trainer that every stage uses, in both precisions in turn. The first
steps of each training, in which the processor's kernels are chosen, do not count. Besides the time on the
clock it prints that of the processor, which other programs on the machine do not lengthen; `ratio` is of the
latter. A processor without bf16 arithmetic trains in fp32 both times, and the ratio is about 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)
from yolo_compress.config.base import Training
from yolo_compress.config.sections import Recipe
from yolo_compress.data.source import prepare_source
from yolo_compress.training import StageContext, StageTrainer
from yolo_compress.training.bf16 import bf16_instructions

WARMUP_STEPS = 2


@dataclass
class Steps:
    """Seconds of a training's steps, on the clock and on the processor.

    Attributes:
        images: of all steps that count.
        loading: on the processor, for each batch: reading, decoding where nothing is cached, augmentation.
        stepping: on the processor, for each batch: forward, backward, optimizer, average.
        clock: of both together.
    """

    images: int = 0
    loading: list[float] = field(default_factory=list)
    stepping: list[float] = field(default_factory=list)
    clock: list[float] = field(default_factory=list)

    def images_a_second(self) -> float:
        """Return the rate on the clock."""
        return self.images / sum(self.clock)

    def images_a_processor_second(self) -> float:
        """Return the rate on the processor; with two threads a second on the clock has two of these."""
        return self.images / (sum(self.loading) + sum(self.stepping))

    def loading_share(self) -> float:
        """Return the loading's share of the processor's time."""
        return sum(self.loading) / (sum(self.loading) + sum(self.stepping))


class TimedTrainer(StageTrainer):
    """Notes what each step takes."""

    def on_train_epoch_start(self) -> None:
        """Begin to wait for the first batch."""
        super().on_train_epoch_start()
        self.steps = getattr(self, "steps", Steps())
        self._done = 0
        self._ended = time.perf_counter(), time.process_time()

    def on_train_batch_start(self) -> None:
        """The batch is there."""
        self._loaded = time.process_time()

    def on_train_batch_end(self) -> None:
        """The step is done."""
        super().on_train_batch_end()
        clock, processor = time.perf_counter(), time.process_time()
        self._done += 1
        if self._done > WARMUP_STEPS:
            self.steps.images += int(self.args.batch)
            self.steps.loading.append(self._loaded - self._ended[1])
            self.steps.stepping.append(processor - self._loaded)
            self.steps.clock.append(clock - self._ended[0])
        self._ended = clock, processor


def measure(setting: StageContext, model: str, training: Training, amp: bool) -> Steps:
    """Train for an epoch and return what its steps took."""
    recipe = setting.recipe.model_copy(update={"amp": amp})
    trainer = TimedTrainer.prepare(model, training, dataclasses.replace(setting, recipe=recipe))
    trainer.train()
    return trainer.steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="yolov8n.yaml", help="architecture or checkpoint")
    parser.add_argument("--size", type=int, default=320, help="side of the input in pixels")
    parser.add_argument("--batch", type=int, default=8, help="images a step")
    parser.add_argument("--threads", type=int, default=1, help="threads that train")
    parser.add_argument("--images", type=int, default=96, help="images an epoch, a multiple of the batch")
    parser.add_argument("--rounds", type=int, default=2, help="epochs in each precision, in turn")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        recipe = Recipe.model_validate(
            {
                "output": name,
                "threads": given.threads,
                "input_size": given.size,
                "data": {
                    "scenes": {"train": given.images, "val": 1, "width": given.size, "height": given.size}
                },
                "teacher": {"model": "yolov8n.pt"},
            }
        )
        console = Console(quiet=True)
        data = prepare_source(recipe, Path(name), console).description
        training = Training.model_validate({"epochs": 1, "batch": given.batch, "lr": 1e-3})
        setting = StageContext(recipe, data, Path(name) / "stage", "benchmark", console)
        rounds: dict[bool, list[Steps]] = {False: [], True: []}
        for _ in range(given.rounds):
            for amp, steps in rounds.items():
                steps.append(measure(setting, given.model, training, amp))

    def median(amp: bool, figure: Any) -> float:
        return statistics.median(figure(steps) for steps in rounds[amp])

    print(
        f"{given.model}, {given.size} px, batch {given.batch}, threads {given.threads}, images in memory; "
        f"bf16 instructions: {', '.join(bf16_instructions()) or 'none'}"
    )
    for amp, precision in ((False, "fp32"), (True, "bf16")):
        print(
            f"{precision}  {median(amp, Steps.images_a_second):6.1f} images/s   "
            f"{median(amp, Steps.images_a_processor_second):6.1f} images/s of processor time   "
            f"loading and augmentation {median(amp, Steps.loading_share):.0%}"
        )
    ratio = median(True, Steps.images_a_processor_second) / median(False, Steps.images_a_processor_second)
    print(f"ratio {ratio:.2f}")


if __name__ == "__main__":
    main()
