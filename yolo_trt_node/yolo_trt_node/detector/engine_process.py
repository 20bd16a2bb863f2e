"""The process that builds an engine, seen from the one that asks (`engine_builder` is what runs in it)."""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.child import CANCELED, command
from yolo_trt_node.detector.engine_builder import BuildSpec

_LOG = logging.getLogger(__name__)

BUILD_LOG_PERIOD_S = 10.0
"""Seconds between two lines of progress in the log."""
POLL_S = 0.2
"""Seconds between two looks at whether the process is to end."""


def cancel_builds() -> None:
    """End every build of this process, and refuse those to come: the process is about to end.

    Whoever waits for one gets a `ModelError`; the builders are killed, and leave nothing half-written.
    """
    CANCELED.set()


def refuse_if_canceled() -> None:
    """Return, unless the process is about to end.

    Raises:
        ModelError: it is.
    """
    if CANCELED.is_set():
        raise ModelError("the engine was not built: the process is ending")


def run_builder(
    model: Path, recipe: BuildSpec, version: str, *, destination: Path, timing_cache: Path
) -> dict[str, Any]:
    """Build in a child process, telling progress and elapsed time in the log.

    Args:
        model: the ONNX file.
        recipe: what to build.
        version: the TensorRT that builds, for messages.
        destination: file for the engine.
        timing_cache: file with the timings of earlier builds, which this one adds to.

    Raises:
        OSError: the engine could not be written.
        ModelError: the builder refused, failed, crashed or ran out of memory.
    """
    name = f"{recipe.backend} {version}"
    request = {
        "model": str(model.resolve()),
        "recipe": asdict(recipe),
        "destination": str(destination.resolve()),
        "timing_cache": str(timing_cache.resolve()),
    }
    started = time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        with subprocess.Popen(
            command("yolo_trt_node.detector.engine_builder"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as child:
            answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
            listener = threading.Thread(target=_listen, args=(child.stdout, answers), daemon=True)
            listener.start()
            try:
                outcome = _follow(child, json.dumps(request), answers, started)
            finally:
                child.kill()
                listener.join()
        if "built" in outcome:
            return dict(outcome["built"])
        if outcome.get("errno"):
            raise OSError(outcome["errno"], os.strerror(outcome["errno"]))
        if "error" in outcome:
            raise ModelError(f"{model}: {name} cannot build the engine: {outcome['error']}")
        errors.seek(0)
        tail = " | ".join(errors.read().strip().splitlines()[-5:])
    raise ModelError(
        f"{model}: the builder of {name} ended after {time.monotonic() - started:.0f} s without an "
        "engine: "
        f"{_ending(outcome['code'])}" + (f"; its last words: {tail}" if tail else "")
    )


def _follow(
    child: subprocess.Popen[str],
    request: str,
    answers: queue.SimpleQueue[dict[str, Any] | None],
    started: float,
) -> dict[str, Any]:
    """Talk to the builder until it is done; return its last answer, or its exit code where it gave none."""
    assert child.stdin is not None
    try:
        child.stdin.write(request + "\n")
        child.stdin.flush()
    except BrokenPipeError:
        return {"code": child.wait()}
    latest, told = "starting", started
    while True:
        refuse_if_canceled()
        try:
            answer = answers.get(timeout=POLL_S)
        except queue.Empty:
            now = time.monotonic()
            if now - told >= BUILD_LOG_PERIOD_S:
                told = now
                _LOG.info("building the engine, %.0f s so far: %s", now - started, latest)
            continue
        if answer is None:
            return {"code": child.wait()}
        if "progress" not in answer:
            return answer
        latest = answer["progress"]


def _listen(channel: IO[str] | None, answers: queue.SimpleQueue[dict[str, Any] | None]) -> None:
    for line in channel or ():
        answers.put(json.loads(line))
    answers.put(None)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "it was killed (signal 9), most likely for lack of memory; lower engine_workspace_mb, close what "
            "else runs, or add swap"
        )
    if code < 0:
        return f"it crashed with signal {-code} ({signal.strsignal(-code)})"
    return f"exit code {code}"
