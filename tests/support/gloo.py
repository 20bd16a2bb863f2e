"""Trainers whose distributed training runs as two processes on a CPU, which Ultralytics offers for GPUs only.

Everything else is Ultralytics' own way: it writes its temporary file, launches it with torch.distributed.run,
and the processes load the trainer's class by name and construct it with Ultralytics' arguments.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed, nn

from yolo_compress.distillation.trainer import DistillationTrainer
from yolo_compress.sparsity.trainer import SparsityTrainer
from yolo_compress.training import StageTrainer

from ultralytics.utils import LOCAL_RANK, RANK  # isort: skip
from ultralytics.utils.torch_utils import unwrap_model  # isort: skip


class _Parallel(nn.parallel.DistributedDataParallel):
    """Ultralytics names the device of a GPU, which a CPU has not."""

    def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
        super().__init__(module, **options)


class _OnTwoProcesses(StageTrainer):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.steps = 0
        self.world_size, self.ddp = 2, LOCAL_RANK == -1

    def _setup_ddp(self) -> None:
        distributed.init_process_group("gloo", rank=RANK, world_size=2)
        nn.parallel.DistributedDataParallel = _Parallel

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if RANK == 1 and self.epoch + 1 == int(os.environ.get("FAIL_IN_EPOCH", "0")):
            raise RuntimeError("this rank fails")

    def final_eval(self) -> None:
        """Leave what this rank ended with."""
        state = {
            "model": unwrap_model(self.model).state_dict(),
            "extra": self.extra_state(),
            "steps": self.steps,
        }
        torch.save(state, self.save_dir / f"rank{RANK}.pt")

    def optimizer_step(self) -> None:
        self.steps += 1
        super().optimizer_step()


class DistributedSparsityTrainer(_OnTwoProcesses, SparsityTrainer):
    """Sparsity training."""


class DistributedDistillationTrainer(_OnTwoProcesses, DistillationTrainer):
    """Distillation."""
