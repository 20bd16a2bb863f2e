"""The first load and the first run of a model file, in a process of its own under limits of time and memory.

A graph may never end, or want more memory than there is; in the node it would freeze a transition, or take
the whole process down. What has run once within the limits is remembered (`known`) and then loaded directly.
"""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from yolo_trt_node.detector import child, known
from yolo_trt_node.detector.backends import open_model
from yolo_trt_node.detector.card import ModelCard, ModelError, read_card
from yolo_trt_node.detector.onnx_file import fingerprint, read_header
from yolo_trt_node.detector.options import LoadOptions
from yolo_trt_node.detector.sanity import absurdity

_LOG = logging.getLogger(__name__)

# On a GPU a first load builds an engine, for minutes, and in a process of its own already.
_TRIED = ("onnxruntime", "openvino")
_TIMED_RUNS = 3


def first_load(path: Path, backend: str, card: ModelCard, options: LoadOptions) -> float | None:
    """Let a model load and run once, unless it is known to.

    Args:
        path: an ONNX file; engines are left alone.
        backend: what is to run it.
        card: what it says of itself.
        options: how it is to run; ``load_timeout_s`` 0 leaves the trial out.

    Returns:
        The seconds that an image took, about; ``None`` where nothing was tried.

    Raises:
        ModelError: it does not load or run, answers what no detector answers, or goes beyond a limit.
    """
    if (
        path.suffix != ".onnx"
        or backend not in _TRIED
        or options.onnxruntime_provider != "cpu"
        or options.load_timeout_s <= 0
    ):
        return None
    key = {
        "what": "loads and runs",
        "model": fingerprint(path, read_header(path)),
        "backend": backend,
        "version": str(getattr(sys.modules.get(backend), "__version__", "")),
        "input": [card.fixed_batch or 1, card.height, card.width],
        "precision": options.precision,
        "load_memory_mb": options.load_memory_mb,
    }
    place = known.folder(options.engine_cache)
    remembered = known.recall(place, key)
    if remembered is not None:
        return _run_s(remembered)
    _LOG.info(
        "%s is new here: it loads and runs once in a process of its own, in at most %g s and %d MB",
        path,
        options.load_timeout_s,
        options.load_memory_mb,
    )
    answer = child.ask(
        __name__,
        {
            "model": str(path.resolve()),
            "backend": backend,
            "precision": options.precision,
            "threads": options.threads,
        },
        child.ChildLimits(options.load_timeout_s, options.load_memory_mb),
        f"{path}: trying it on {backend}",
    )
    if "error" in answer:
        raise ModelError(f"{path}: {answer['error']}")
    known.note(place, key, answer)
    return _run_s(answer)


def _run_s(answer: dict[str, Any]) -> float | None:
    taken = answer.get("run_s")
    return taken if isinstance(taken, float) else None


def try_once(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model and run it once on a black image, in this process.

    Args:
        request: ``model`` (path), ``backend``, ``precision`` and ``threads``.

    Returns:
        ``seconds`` that it took, and ``run_s`` that a run takes.

    Raises:
        ModelError: it does not load or run, or answers what no detector answers.
    """
    started = time.monotonic()
    options = LoadOptions(
        precision=request["precision"], threads=request["threads"], onnxruntime_spinning="never"
    )
    model, _ = open_model(Path(request["model"]), backend=request["backend"], options=options)
    card = read_card(model.metadata, model.inputs, model.outputs)
    shape = (card.height, card.width)
    try:
        session = model.session(*shape)
        batch = np.zeros((card.fixed_batch or 1, 3, *shape), np.float32)
        predictions = session.infer(batch)
    except (ModelError, MemoryError):
        raise
    except Exception as error:
        raise ModelError(f"it loads but does not run: {str(error)[:1000]}") from error
    if not len(predictions):
        raise ModelError("it answers nothing to an image")
    if complaint := absurdity(predictions[0], card, shape):
        raise ModelError(f"it answers what no detector of its card answers: {complaint}")
    seconds, runs = time.monotonic() - started, []
    for _ in range(_TIMED_RUNS):
        started = time.monotonic()
        session.infer(batch)
        runs.append(time.monotonic() - started)
    return {"seconds": seconds, "run_s": min(runs)}


if __name__ == "__main__":
    child.answer_with(try_once)
