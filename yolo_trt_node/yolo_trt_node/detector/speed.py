"""Which backend runs a model fastest on this machine: measured once, and remembered.

On one CPU OpenVINO takes 0.85 of ONNX Runtime's time for a file, on another it takes longer. Where both can
run a model, ``backend: auto`` therefore times them on its own shape, in a process of their own and one after
another (two thread pools at once slow each other down). All compute in the precision that the options allow.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolo_trt_node.detector import child, cpu, known
from yolo_trt_node.detector.backends import open_model
from yolo_trt_node.detector.card import ModelCard, ModelError
from yolo_trt_node.detector.onnx_file import fingerprint, read_header
from yolo_trt_node.detector.options import LoadOptions

_LOG = logging.getLogger(__name__)

CONTENDERS = ("onnxruntime", "openvino")
"""What is measured; the first keeps its place unless another is clearly faster."""

WORTH_S = 0.005
"""A model that answers sooner is not measured: there is nothing to win."""
_CLEARLY = 0.95
_ROUNDS = 3


def fastest(path: Path, card: ModelCard, options: LoadOptions) -> tuple[str, str]:
    """Return the backend for a model, and in one line why.

    Args:
        path: an ONNX file.
        card: what it says of itself.
        options: how it is to run; ``backend_trial_s`` is the time to measure for.

    Returns:
        The backend's name, and how long an image took on each; both empty where nothing could be measured.
    """
    installed = [name for name in CONTENDERS if importlib.util.find_spec(name) is not None]
    if len(installed) < 2:
        return "", ""
    key = {
        "what": "seconds an image",
        "model": fingerprint(path, read_header(path)),
        "versions": {name: importlib.metadata.version(name) for name in installed},
        "machine": [processor(), cpu.usable_cores()],
        "input": [card.fixed_batch or 1, card.height, card.width],
        "precision": options.precision,
        "threads": options.threads,
        "spinning": options.onnxruntime_spinning,
    }
    place = known.folder(options.engine_cache)
    found = known.recall(place, key)
    if found is None:
        _LOG.info("%s: measuring %s for %g s", path, " and ".join(installed), options.backend_trial_s)
        request = {
            "model": str(path.resolve()),
            "contenders": installed,
            "input": key["input"],
            "seconds": options.backend_trial_s,
            "options": {name: key[name] for name in ("precision", "threads", "spinning")},
        }
        limits = child.ChildLimits(options.load_timeout_s, options.load_memory_mb)
        try:
            found = child.ask(__name__, request, limits, f"{path}: measuring {' and '.join(installed)}")
        except ModelError as error:
            found = {"error": str(error)}
        if "error" in found:
            _LOG.warning("%s: auto could not measure: %s", path, found["error"])
            return "", ""
        known.note(place, key, found)
    return choose_backend(found)


def choose_backend(seconds: dict[str, Any]) -> tuple[str, str]:
    """Return the backend to take, and why, from the seconds an image that each took."""
    times = {name: float(seconds[name]) for name in CONTENDERS if isinstance(seconds.get(name), float)}
    if len(times) < 2:
        return "", ""
    first = next(iter(times))
    best = min(times, key=lambda name: times[name])
    if times[best] > _CLEARLY * times[first]:
        best = first
    told = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in times.items())
    return best, f"auto took {best}, as measured on this machine: {told} an image"


def time_backends(request: dict[str, Any]) -> dict[str, Any]:
    """Time the contenders on noise, in this process.

    Args:
        request: ``model``, ``contenders``, ``input`` (batch, height, width), ``seconds`` in all, and
            ``options`` (precision, threads, spinning).

    Returns:
        The median seconds of a run of each that can run the model.
    """
    options = LoadOptions(
        precision=request["options"]["precision"],
        threads=request["options"]["threads"],
        onnxruntime_spinning=request["options"]["spinning"],
    )
    count, height, width = request["input"]
    batch = np.random.default_rng(0).random((count, 3, height, width), np.float32)
    each_s = float(request["seconds"]) / len(request["contenders"]) / _ROUNDS
    found: dict[str, Any] = {}
    for name in request["contenders"]:
        try:
            model, _ = open_model(Path(request["model"]), backend=name, options=options)
            session = model.session(height, width)
            session.infer(batch)
            rounds = []
            for _ in range(_ROUNDS):
                until = time.perf_counter() + each_s
                times: list[float] = []
                while not times or time.perf_counter() < until:
                    started = time.perf_counter()
                    session.infer(batch)
                    times.append(time.perf_counter() - started)
                rounds.append(statistics.median(times))
            # Of the rounds the least: what disturbs a machine only ever adds.
            found[name] = min(rounds)
            session.close()
        except ModelError as error:
            _LOG.info("%s is left out: %s", name, error)
    return found


def processor() -> str:
    """Name the processor, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model", "Hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return f"{platform.machine()} with {os.cpu_count()} cores"


if __name__ == "__main__":
    child.answer_with(time_backends)
