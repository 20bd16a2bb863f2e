"""Latency of models, measured against each other through the detector that flies."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from yolo_compress.data.labelled import read_image
from yolo_compress.errors import UserError
from yolo_compress.measure.detector import load_detector


@dataclass(frozen=True)
class Latency:
    """Time of one `Detector.detect` call, image in to boxes out.

    Attributes:
        ms: median in milliseconds; compare it with nothing measured at another time.
        ratio: median over the rounds of the time as a share of the first model's in the same round.
    """

    ms: float
    ratio: float


def measure_latency(
    models: Sequence[Path],
    images: Sequence[Path],
    *,
    rounds: int = 10,
    threads: int = 0,
    backend: str = "auto",
) -> list[Latency]:
    """Time models against each other, in turn within each round, each in a process of its own.

    Machines drift by more than models differ, so only times of one round are compared; and several engines in
    one process slow each other down.

    Args:
        models: ONNX detectors; the first is the one the ratios refer to.
        images: a few images, each detected once a round.
        rounds: how often each model has its turn.
        threads: CPU threads; 0 for one a core.
        backend: ``auto`` or the name of one of `yolo_trt_node.detector`'s backends.

    Raises:
        UserError: a model cannot be loaded, an image not be read, or the backend is not there.
    """
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    try:
        for model in models:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_latency_worker, args=(theirs, model, list(images), threads, backend), daemon=True
            )
            process.start()
            theirs.close()
            workers.append((process, ours))
            _answer(ours, model)  # warm before the next starts, so that loading disturbs nobody
        seconds: list[list[float]] = [[] for _ in models]
        for _ in range(rounds):
            for index, (_, connection) in enumerate(workers):
                connection.send(True)
                seconds[index].append(_answer(connection, models[index]))
    finally:
        for process, connection in workers:
            connection.close()
            process.join(timeout=5)
            if process.is_alive():
                process.kill()
                process.join()
    return [
        Latency(
            ms=1000 * statistics.median(own),
            ratio=statistics.median(o / first for o, first in zip(own, seconds[0], strict=True)),
        )
        for own in seconds
    ]


def _answer(connection: Connection, model: Path) -> float:
    try:
        answer = connection.recv()
    except EOFError as error:
        raise UserError(
            f"the process that measures the latency of {model} ended without an answer"
        ) from error
    if isinstance(answer, str):
        raise UserError(answer)
    return float(answer)


def _latency_worker(
    connection: Connection, model: Path, images: list[Path], threads: int, backend: str
) -> None:
    """Load a model, then answer each request with the mean seconds of a detection, until the pipe closes."""
    # Ctrl-C reaches the whole process group; the parent ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        frames = [read_image(path) for path in images]
        detector = load_detector(model, None, threads, backend)
        detector.set_options(replace(detector.options, score_threshold=None))
        for frame in frames:
            detector.detect([frame])
    except UserError as error:
        connection.send(str(error))
        return
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(0.0)
        while connection.recv():
            started = time.perf_counter()
            for frame in frames:
                detector.detect([frame])
            connection.send((time.perf_counter() - started) / len(frames))
