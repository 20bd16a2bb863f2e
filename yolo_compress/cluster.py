"""The stages of a comparison on a cluster: one Ray task each, as soon as those that it needs are done.

Ray places the tasks and does them anew where a worker has died; a training that has begun goes on after its
last whole epoch. The machines see the same files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from yolo_compress.compare import Step, claim, steps, worker_of
from yolo_compress.config.loading import Arms
from yolo_compress.errors import UserError

# How often a stage is given to another worker after its own has died.
RETRIES = 3


def train_on_ray(arms: Arms, console: Console, address: str, gpus: float | None = None) -> None:
    """Do and measure every stage of a comparison that is not done yet; `run_comparison` then finds all done.

    Args:
        arms: the comparison; its folder is one that all workers see.
        console: for a line whenever a stage has ended.
        address: of the Ray cluster, ``auto`` for the one that this machine belongs to, ``local`` to start one
            on this machine alone.
        gpus: how many a stage takes; by default 1, or none where the recipe's device is the CPU. Ray shows
            each stage its own, so that the recipe's device stays ``0``.

    Raises:
        UserError: Ray is not there, or stages failed; the others are done nevertheless.
    """
    try:
        import ray
    except ImportError:
        raise UserError(
            "--ray needs the Python package ray, here and on the workers: pip install 'yolo-compress[ray]'"
        ) from None
    base = arms.base
    share = float(base.device != "cpu") if gpus is None else gpus
    ray.init(address=address, log_to_driver=False, ignore_reinit_error=True)
    # Once, before many look for them: the folder, and the data that are generated or linked into it.
    claim(arms)
    worker_of(arms, console)
    task = ray.remote(num_cpus=base.threads, num_gpus=share, max_retries=RETRIES)(_do)
    todo = steps(arms)
    futures: dict[Path, Any] = {}
    for step in todo:
        futures[step.folder] = task.remote(arms, step.folder, *(futures[need] for need in step.needs))
    waiting = {futures[step.folder]: step for step in todo}
    failed: list[str] = []
    ended = 0
    while waiting:
        (done, *_), _rest = ray.wait(list(waiting), num_returns=1)
        step = waiting.pop(done)
        ended += 1
        try:
            said = f"done by {ray.get(done)}"
        except Exception as error:
            # Ray's own text repeats the traceback of the worker; the last line says what was wrong.
            said = f"failed: {str(error).strip().splitlines()[-1]}"
            failed.append(f"{_name(step)} {said}; {_log(step.folder)} has what it said")
        console.print(f"[{ended}/{len(todo)}] {_name(step)}: {said}", soft_wrap=True)
    if failed:
        raise UserError("\n".join(failed))


def _do(arms: Arms, folder: Path, *_needed: str) -> str:
    """Do one stage in a worker; return where that was."""
    import os
    import socket

    (step,) = (step for step in steps(arms) if step.folder == folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _log(folder).open("a", encoding="utf-8") as file:
        worker = worker_of(arms, Console(file=file, highlight=False, markup=False))
        if step.shown:
            worker.measured(step.stage)
        else:
            worker.do(step.stage)
    return f"{socket.gethostname()}, process {os.getpid()}"


def _name(step: Step) -> str:
    return f"seed {step.stage.recipe.seed}, {step.folder.name}"


def _log(folder: Path) -> Path:
    """Name the file with what a stage said; beside its folder, which is emptied when its inputs change."""
    return folder.with_name(f"{folder.name}.log")
