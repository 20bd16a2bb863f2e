"""How long a model takes from image to boxes on this machine, measured in a process of its own.

What `time_model` runs for a file that somebody sent: loaded, warmed and timed within limits.
"""

from __future__ import annotations

import importlib.metadata
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolo_trt_node.detector import child
from yolo_trt_node.detector.detector import Detector
from yolo_trt_node.detector.options import DetectorOptions, parse_shape
from yolo_trt_node.detector.speed import processor

_WARM_RUNS = 3
_BOARD = Path("/proc/device-tree/model")


def time_file(request: dict[str, Any], limits: child.ChildLimits, what: str) -> dict[str, Any]:
    """Let a child measure a model; see `time_detector` for the request and the answer.

    Raises:
        ModelError: the child went beyond a limit or crashed.
    """
    return child.ask(__name__, request, limits, what)


def time_detector(request: dict[str, Any]) -> dict[str, Any]:
    """Time `Detector.detect` on an image of noise, in this process.

    Args:
        request: ``model`` (path), ``rounds``, ``engine_cache`` (folder), and of the detector's options
            ``backend``, ``precision``, ``input_shape`` and ``threads``. The image has the input's own size,
            so that nothing is scaled.

    Returns:
        ``median_ms`` and ``quartiles_ms`` (lower, upper) of a call in milliseconds, ``rounds``, ``input``
        (height, width in pixels), ``backend``, its ``version``, ``precision`` in force, ``device`` in words,
        and ``engines`` in use.

    Raises:
        ModelError: the model does not load or run.
    """
    options = DetectorOptions(
        backend=request["backend"],
        precision=request["precision"],
        input_shape=request["input_shape"],
        threads=request["threads"],
        engine_cache=request["engine_cache"],
        # This process is the trial already, and `auto` is to mean the same at each measurement.
        load_timeout_s=0.0,
        backend_trial_s=0.0,
    )
    detector = Detector.load(request["model"], options)
    try:
        height, width = (
            (detector.card.height, detector.card.width)
            if options.input_shape in ("auto", "square")
            else parse_shape(options.input_shape)
        )
        shape = detector.prepare(height, width)
        image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        times = []
        for _ in range(_WARM_RUNS + request["rounds"]):
            started = time.perf_counter()
            detector.detect([image])
            times.append(1000 * (time.perf_counter() - started))
        times = times[_WARM_RUNS:]
        lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
        return {
            "median_ms": round(median, 4),
            "quartiles_ms": [round(lower, 4), round(upper, 4)],
            "rounds": len(times),
            "input": list(shape),
            "backend": detector.backend,
            "version": _version(detector.backend),
            "precision": detector.precision,
            "device": _device(),
            "engines": list(detector.engines),
        }
    finally:
        detector.close()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""  # apt's packages need not say


def _device() -> str:
    """Name the board where the system does, else the processor."""
    try:
        return _BOARD.read_bytes().decode("utf-8", "replace").strip("\0 \n") or processor()
    except OSError:
        return processor()


if __name__ == "__main__":
    child.answer_with(time_detector)
