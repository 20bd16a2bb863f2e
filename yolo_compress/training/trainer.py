"""Ultralytics' detection trainer with the overrides that every stage needs, and one way to run it.

A training ends each epoch with a checkpoint of everything that the next epoch depends on. ``train`` finds the
checkpoint that a killed process left and goes on from there.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import time
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from rich.console import Console
from torch import nn

from yolo_compress import files
from yolo_compress.checkpoints import trained_model
from yolo_compress.config.base import Training
from yolo_compress.devices import check_device
from yolo_compress.errors import UserError
from yolo_compress.interrupts import end_if_interrupted, interrupts_heard
from yolo_compress.training.bf16 import FullPrecisionLoss, bf16_instructions
from yolo_compress.training.job import HISTORY, JOB, TRAINING, Job, StageContext, arguments_of
from yolo_compress.training.progress import EpochProgress
from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION

from ultralytics.models.yolo.detect import DetectionTrainer  # isort: skip
from ultralytics.nn.tasks import DetectionModel, load_checkpoint  # isort: skip
from ultralytics.utils import DEFAULT_CFG, RANK  # isort: skip
from ultralytics.utils.torch_utils import init_seeds, unwrap_model  # isort: skip

AnyTrainer = TypeVar("AnyTrainer", bound="StageTrainer")


def train(
    trainer: type[AnyTrainer], model: str | Path, training: Training, context: StageContext, **arguments: Any
) -> DetectionModel:
    """Train a model, or go on with its interrupted training, and return the average at the end in fp32.

    Args:
        trainer: what trains.
        model: checkpoint or architecture to start from.
        training: the stage's section of the recipe.
        context: the rest; whoever changes any of all these between two attempts empties the folder first.
        arguments: more of Ultralytics' own arguments.

    Raises:
        UserError: the device is not there or its memory does not suffice, the disk has no room, or a process
            of a distributed training failed.
    """
    check_device(context.recipe.device, training.batch)
    last = context.folder / TRAINING / "weights" / "last.pt"
    done = _finished_epochs(last, context)
    if done < training.epochs:
        if done:
            context.console.print(f"{context.label}: resumed at epoch {done + 1}/{training.epochs}")
        worker = trainer.prepare(model, training, context, resume=str(last) if done else False, **arguments)
        try:
            with interrupts_heard():
                worker.train()
        except RuntimeError as error:
            if "out of memory" not in str(error).lower():
                raise
            raise UserError(
                f"{context.label}: the memory of device {context.recipe.device} does not hold batches of "
                f"{training.batch} images of {context.recipe.input_size} pixels; make `batch` of its "
                "training smaller and `accumulate` as much larger"
            ) from error
        except subprocess.CalledProcessError as error:
            raise UserError(
                f"{context.label}: the training on devices {context.recipe.device} failed; "
                "what its processes said stands above"
            ) from error
    return trained_model(last)


def _finished_epochs(checkpoint: Path, context: StageContext) -> int:
    """Return how many epochs an interrupted training has behind it, 0 where there was none."""
    if not checkpoint.is_file():
        return 0
    try:
        return int(load_checkpoint(checkpoint)[1]["epoch"]) + 1
    except Exception as error:  # unpickling a damaged file raises anything
        context.console.print(
            f"{context.label}: {checkpoint} of an interrupted training is damaged "
            f"({type(error).__name__}); training starts anew",
            soft_wrap=True,
        )
        return 0


class StageTrainer(DetectionTrainer):
    """Trains a model as it is: keeps its architecture, shows quiet progress, measures nothing on the way.

    Validation is off because every stage is measured at its end on the exported artefact, and because the
    epoch that scores best during sparsity training is the least sparse one. The result is the last epoch's
    average.

    Made by :meth:`prepare`. The constructor is Ultralytics', which calls it in each process of a distributed
    training; for the same reason events are followed by methods of their names, not by registered closures,
    which would have to be pickled.

    Attributes:
        job: recipe and label.
        console: where progress is shown.
        history: a row an epoch: its number from 1, the mean losses, learning rate, seconds.
    """

    def __init__(
        self,
        cfg: Any = DEFAULT_CFG,
        overrides: dict[str, Any] | None = None,
        _callbacks: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(cfg, overrides, _callbacks)
        self.job = Job.model_validate_json((self.save_dir.parent / JOB).read_text(encoding="utf-8"))
        # Ultralytics leaves one core idle; on two cores that is half the speed.
        torch.set_num_threads(self.job.recipe.threads)
        self.console = Console(highlight=False, markup=False, emoji=False, quiet=self.job.quiet)
        self.history: list[dict[str, float]] = []

    @classmethod
    def prepare(
        cls: type[AnyTrainer], model: str | Path, training: Training, context: StageContext, **arguments: Any
    ) -> AnyTrainer:
        """Write the job's file and return a trainer; for the arguments see :func:`train`."""
        context.folder.mkdir(parents=True, exist_ok=True)
        job = Job(
            recipe=context.recipe,
            label=context.label,
            teacher=context.teacher,
            accumulate=training.accumulate,
            quiet=context.console.quiet,
        )
        files.write(context.folder / JOB, job.model_dump_json(indent=2).encode())
        trainer = cls(overrides={**arguments_of(training, context), "model": str(model), **arguments})
        trainer.console = context.console
        return trainer

    # What a stage adds to its checkpoint.

    def extra_state(self) -> dict[str, Any]:
        """Return what a subclass needs besides model, average and optimizer: plain values and tensors."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`extra_state` returned at the end of the last finished epoch."""

    # Overrides of Ultralytics' trainer, in the order in which it calls them.

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """Take up the checkpoint's arguments, but stay where the run is now: its folder may have moved."""
        super().check_resume(overrides)
        if self.resume:
            self.args.save_dir = str(Path(overrides["project"]) / overrides["name"])

    def run_callbacks(self, event: str) -> None:
        """Call the method of the event's name, besides what others have registered."""
        super().run_callbacks(event)
        if event.startswith("on_") or event == "teardown":
            getattr(self, event, lambda: None)()

    def setup_model(self) -> dict[str, Any] | None:
        """Load the model, and see that the disk has room for its checkpoints.

        Raises:
            UserError: it has not.
        """
        checkpoint = super().setup_model()
        if RANK in (-1, 0):
            self._check_space()
        return checkpoint

    def _check_space(self) -> None:
        # The model, its average, and one or two moments a weight; the old checkpoint goes when the new one is
        # there; then model.pt and model.onnx.
        copies = 2 * (2 + (2 if self.args.optimizer == "AdamW" else 1)) + 2
        needed = copies * sum(p.numel() * p.element_size() for p in self.model.parameters())
        free = shutil.disk_usage(self.save_dir).free
        if free < needed:
            raise UserError(
                f"{self.job.label}: the training needs {needed / 1e6:,.0f} MB in {self.save_dir.parent}, and "
                f"{free / 1e6:,.0f} MB are free there; make room or choose another output folder"
            )

    def get_model(
        self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True
    ) -> DetectionModel:
        """Return the model to train.

        The stock trainer builds a new model from the yaml and copies what fits, which silently undoes
        pruning; here a model that already has the right number of classes is trained itself.
        """
        if weights is not None and weights.model[-1].nc == self.data["nc"]:
            return weights.float()
        return super().get_model(cfg, weights, verbose)

    def get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """Build the stock loader, without its own progress bars."""
        with contextlib.redirect_stdout(io.StringIO()):
            return super().get_dataloader(*args, **kwargs)

    def _setup_train(self) -> None:
        super()._setup_train()
        if self.args.amp and self.device.type == "cpu":
            self._train_in_bf16()
        elif self.args.amp and not self.amp and RANK in (-1, 0):
            self.console.print(
                f"{self.job.label}: in fp32, Ultralytics finds no mixed precision to rely on on {self.device}"
            )
        # Saves a tenth or more of the time on a CPU. Ultralytics does this on CUDA only; its average, which
        # was copied before, keeps the ordinary layout, and so does what is saved.
        if self.device.type == "cpu":
            self.model.to(memory_format=torch.channels_last)

    def _train_in_bf16(self) -> None:
        """Let convolutions compute in bf16 where the processor does, which Ultralytics has on CUDA only.

        Weights, optimizer, average and penalties stay fp32, and so does the loss: eight bits do not hold its
        sums over thousands of anchors.
        """
        bf16 = bf16_instructions()
        if bf16:
            self.amp = True  # for Ultralytics' autocast, whose type on a CPU is bf16; nothing scales the loss
            model = unwrap_model(self.model)
            model = getattr(model, "student_model", model)  # Ultralytics' own distillation wraps it
            model.criterion = FullPrecisionLoss(model.init_criterion())
        if RANK in (-1, 0):
            self.console.print(
                f"{self.job.label}: in bf16 ({', '.join(bf16)})"
                if bf16
                else f"{self.job.label}: in fp32, this processor has no bf16 arithmetic",
                soft_wrap=True,
            )

    def build_optimizer(self, model: nn.Module, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Build the stock optimizer; on a CPU, too, it changes all weights in one call."""
        optimizer = super().build_optimizer(model, *args, **kwargs)
        if isinstance(optimizer, torch.optim.AdamW) and self.device.type == "cpu":
            for group in optimizer.param_groups:
                group["fused"] = True
        return optimizer

    def on_train_start(self) -> None:
        """Show progress."""
        self._progress = EpochProgress(self.job.label, self.epochs, self.console)
        self._progress.start(len(self.train_loader))

    def on_train_epoch_start(self) -> None:
        """Draw what is random in this epoch from the seed and the epoch's number alone.

        So a resumed training draws as the uninterrupted one, on every rank and in every loading process.
        """
        self._epoch_started, self._batches = time.monotonic(), 0
        self._progress.start_epoch(self.epoch)
        # Other draws for an epoch that is done again because its loss became NaN.
        entropy = [self.args.seed, self.epoch, RANK + 1, self.nan_recovery_attempts]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        init_seeds(seed, self.args.deterministic)
        self.train_loader.generator.manual_seed(seed)
        self.train_loader.reset()  # it has drawn ahead
        # Out of memory is an error: by itself Ultralytics would halve the batch and go on in silence.
        self._oom_retries = 3

    def optimizer_step(self) -> None:
        """Step after ``accumulate`` batches, and with what there is at the end of an epoch.

        Ultralytics carries the gradients of an incomplete step into the next epoch; a checkpoint between the
        two would lose them. It is told to step after each batch instead.
        """
        self._batches += 1
        if self._batches % self.job.accumulate == 0 or self._batches == len(self.train_loader):
            super().optimizer_step()

    @property
    def steps_an_epoch(self) -> int:
        """Steps of the optimizer in an epoch."""
        return -(-len(self.train_loader) // self.job.accumulate)

    def on_train_batch_end(self) -> None:
        """Advance the progress display; end where a Ctrl-C was dropped."""
        end_if_interrupted()
        self._progress.step()

    def on_train_epoch_end(self) -> None:
        """Show the epoch's losses."""
        if RANK in (-1, 0):
            self._progress.finish_epoch(self.epoch, self.tloss)

    def validate(self) -> tuple[dict[str, float], None]:
        """Measure nothing, see the class."""
        return {}, None

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Do an epoch again whose loss is not finite, as Ultralytics does, but not in silence.

        Raises:
            UserError: it was the first epoch, or it failed three times.
        """
        what = f"{self.job.label}: the loss of epoch {epoch + 1} is not finite"
        remedy = "make `lr` of its training smaller"
        try:
            again = super()._handle_nan_recovery(epoch)
        except RuntimeError as error:
            raise UserError(f"{what} ({error}); {remedy}") from error
        if RANK in (-1, 0):
            if again:
                self.console.print(f"{what}; it is done again")
            elif not self.loss.isfinite():
                raise UserError(f"{what}; {remedy}")
        return again

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Write the history instead of Ultralytics' csv file: rows of repeated epochs do not stay in it."""
        self.history.append(
            {
                "epoch": self.epoch + 1,
                **{name: float(value) for name, value in self.tloss.items()},
                "lr": self.optimizer.param_groups[0]["lr"],
                "seconds": round(time.monotonic() - self._epoch_started, 3),
            }
        )
        files.write(self.save_dir.parent / HISTORY, json.dumps(self.history, indent=1).encode())

    def save_model(self) -> bool:
        """Write the checkpoint, in one step: there is always a whole one.

        Ultralytics' own holds the average and the optimizer in fp16 and the model not at all; from that a
        training goes on, but not as it would have.
        """
        average = deepcopy(self.ema.ema).to(memory_format=torch.contiguous_format)
        model = unwrap_model(self.model).state_dict()
        buffer = io.BytesIO()
        torch.save(
            {
                "epoch": self.epoch,
                "model": None,
                "ema": average,
                "updates": self.ema.updates,
                "weights": {k: v for k, v in model.items() if not k.startswith("teacher_model.")},
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "mosaic": list(self.train_loader.dataset.buffer),
                "history": self.history,
                "extra": self.extra_state(),
                "train_args": vars(self.args),
                "version": ULTRALYTICS_VERSION,
            },
            buffer,
        )
        files.write(self.last, buffer.getvalue())
        return True

    def _load_checkpoint_state(self, checkpoint: dict[str, Any]) -> None:
        """Take up everything that :meth:`save_model` wrote; also after Ultralytics met a loss that is NaN."""
        for saved, group in zip(
            checkpoint["optimizer"]["param_groups"], self.optimizer.param_groups, strict=True
        ):
            saved["fused"] = group.get("fused")  # of the device, not of the checkpoint
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.scaler.load_state_dict(checkpoint["scaler"])
        self.ema.ema.load_state_dict(checkpoint["ema"].state_dict())
        self.ema.updates = checkpoint["updates"]
        model = unwrap_model(self.model)
        model.load_state_dict({**model.state_dict(), **checkpoint["weights"]})
        dataset = self.train_loader.dataset
        dataset.buffer.clear()
        for index in checkpoint["mosaic"]:  # the images that mosaic takes its other three from
            dataset.load_image(index)
        self.history = checkpoint["history"]
        self.load_extra_state(checkpoint["extra"])

    def final_eval(self) -> None:
        """Measure nothing, see the class."""

    def teardown(self) -> None:
        """Take the progress display away, also after an error."""
        if hasattr(self, "_progress"):
            self._progress.stop()
