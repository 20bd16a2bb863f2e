"""Latency measured on the board: ONNX files are sent to its `time_model`, which times them."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from yolo_trt_node.time_model import CONTENT_TYPE, PATH, PORT

from yolo_compress.errors import UserError
from yolo_compress.measure.latency import Latency

_CONNECT_S = 15.0
# The board has a limit of its own; on a GPU an engine is built first, for minutes.
_ANSWER_S = 7200.0
_MOST_BYTES = 1 << 16


@dataclass(frozen=True)
class BoardTime:
    """What a board answered for one model.

    Attributes:
        median_ms: of one `Detector.detect` call, image in to boxes out, in milliseconds.
        quartiles_ms: the lower and the upper one.
        backend: what ran it.
        precision: in force.
        device: the board, in words.
    """

    median_ms: float
    quartiles_ms: tuple[float, float]
    backend: str
    precision: str
    device: str


def time_on_board(model: Path, board: str, **options: str | int) -> BoardTime:
    """Let a board time a model.

    Args:
        model: an ONNX file.
        board: address of its `time_model`, ``http://HOST:8765``; a query (``?precision=fp16``) wins over
            ``options``.
        options: how to time it: ``backend``, ``precision``, ``input_shape``, ``threads``, ``rounds``.

    Raises:
        UserError: the address is none, nothing answers there, or the board refuses the model (its reason is
            given).
    """
    host, port, given = _address(board)
    path = f"{PATH}?{urlencode({**options, **given})}"
    connection = http.client.HTTPConnection(host, port, timeout=_CONNECT_S)
    try:
        connection.connect()
        connection.sock.settimeout(_ANSWER_S)
        headers = {"Content-Type": CONTENT_TYPE, "Content-Length": str(model.stat().st_size)}
        with model.open("rb") as body, contextlib.suppress(BrokenPipeError, ConnectionResetError):
            # A board that refuses may stop listening before all is sent; its answer is read all the same.
            connection.request("POST", path, body, headers)
        response = connection.getresponse()
        content = response.read(_MOST_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise UserError(
            f"the board at {board} does not answer: {error}. Start `ros2 run yolo_trt_node time_model` "
            f"there, and reach it by `ssh -L {port}:127.0.0.1:{port} BOARD` and --board http://127.0.0.1:{port}"
        ) from error
    finally:
        connection.close()
    answer = _read(content, board)
    if response.status != 200:
        reason = str(answer.get("error", f"status {response.status}"))[:2000]
        raise UserError(f"the board at {board} does not time the model: {reason}")
    try:
        lower, upper = (float(value) for value in answer["quartiles_ms"])
        found = BoardTime(
            float(answer["median_ms"]),
            (lower, upper),
            *(str(answer[key])[:200] for key in ("backend", "precision", "device")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _no_agent(board) from error
    if not (math.isfinite(found.median_ms) and found.median_ms > 0):
        raise _no_agent(board)
    return found


def measure_on_board(models: Sequence[Path], board: str, *, backend: str = "auto") -> list[Latency]:
    """Time models on a board, one after another.

    Send the model that ratios refer to each time anew: a board that has grown hot is slower for both.

    Args:
        models: ONNX detectors; the first is the one that the ratios refer to.
        board: see `time_on_board`.
        backend: ``auto`` or the name of one of `yolo_trt_node.detector`'s backends.

    Raises:
        UserError: see `time_on_board`.
    """
    times = [time_on_board(model, board, backend=backend).median_ms for model in models]
    return [Latency(ms=ms, ratio=ms / times[0]) for ms in times]


def _address(board: str) -> tuple[str, int, dict[str, str]]:
    """Return host, port and query of a board's address."""
    try:
        url = urlsplit(board)
        if url.scheme == "http" and url.hostname and url.path in ("", "/") and url.username is None:
            return url.hostname, PORT if url.port is None else url.port, dict(parse_qsl(url.query))
    except ValueError:
        pass  # a port that is no number
    raise UserError(
        f"the board's address is {board!r}; use http://HOST:{PORT}, with ?precision=fp16&input_shape=384x640 "
        "after it where you want these"
    )


def _read(content: bytes, board: str) -> dict[str, Any]:
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _no_agent(board)
    return answer


def _no_agent(board: str) -> UserError:
    return UserError(f"what answers at {board} is no time_model; check host and port")
