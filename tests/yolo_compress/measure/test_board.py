"""Models are timed on a board, and what a board answers is not trusted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.time_model import Agent, AgentLimits

from yolo_compress.errors import UserError
from yolo_compress.measure.board import measure_on_board, time_on_board
from yolo_trt_node import time_model


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    folder = tmp_path / "agent"
    folder.mkdir()
    with Agent(("127.0.0.1", 0), AgentLimits(model_mb=1, load_timeout_s=120), folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def address(agent: Agent) -> str:
    return f"http://127.0.0.1:{agent.server_port}"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_toy_detector(tmp_path / "toy.onnx")


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]) -> list[dict[str, Any]]:
    """Let the board answer this, and note what it is asked."""
    asked: list[dict[str, Any]] = []

    def time_file(request: dict[str, Any], *_: Any) -> dict[str, Any]:
        asked.append({**request, "content": Path(request["model"]).read_bytes()})
        return {"backend": "b", "precision": "p", "device": "d", "quartiles_ms": [1, 3], **answer}

    monkeypatch.setattr(time_model, "time_file", time_file)
    return asked


def test_a_model_is_timed_over_there(agent: Agent, model: Path) -> None:
    found = time_on_board(model, address(agent), backend="onnxruntime", rounds=2, threads=1)
    assert found.quartiles_ms[0] <= found.median_ms <= found.quartiles_ms[1]
    assert (found.backend, found.precision) == ("onnxruntime", "fp32")


def test_the_whole_file_arrives_and_the_address_says_how_to_time_it(
    agent: Agent, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answering(monkeypatch, {"median_ms": 2.0})
    latencies = measure_on_board(
        [model, model], f"{address(agent)}/?precision=fp16&backend=tensorrt", backend="openvino"
    )
    assert [(latency.ms, latency.ratio) for latency in latencies] == [(2.0, 1.0)] * 2
    assert asked[0]["content"] == model.read_bytes()
    assert (asked[0]["precision"], asked[0]["backend"]) == ("fp16", "tensorrt")


@pytest.mark.parametrize(
    "answer",
    [{"median_ms": 0}, {"median_ms": "soon"}, {"median_ms": None}, {"median_ms": 1, "quartiles_ms": [1]}],
)
def test_an_answer_that_is_no_time_is_no_board(
    agent: Agent, model: Path, monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any]
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(UserError, match="no time_model"):
        time_on_board(model, address(agent))


def test_the_board_s_reason_is_told(agent: Agent, model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not time the model: rounds is 1"):
        time_on_board(model, address(agent), rounds=1)
    (tmp_path / "large.onnx").write_bytes(bytes(3 << 20))
    with pytest.raises(UserError, match="--model-mb"):
        time_on_board(tmp_path / "large.onnx", address(agent))


def test_a_board_that_is_not_there_is_told_with_how_to_start_it(model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listened to
        with pytest.raises(UserError, match=r"time_model` there.*ssh -L"):
            time_on_board(model, f"http://127.0.0.1:{taken.getsockname()[1]}")


@pytest.mark.parametrize(
    "board", ["", "board", "https://b:1", "http://", "http://b:port", "http://b/there", "http://me@b:1"]
)
def test_an_address_that_is_none_is_refused(model: Path, board: str) -> None:
    with pytest.raises(UserError, match="use http://HOST:8765"):
        time_on_board(model, board)
