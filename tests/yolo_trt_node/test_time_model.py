"""The agent that times models on a board: what it answers, what it refuses, and what it leaves behind."""

from __future__ import annotations

import http.client
import json
import threading
from typing import Any

import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import ModelError
from yolo_trt_node.time_model import Agent, AgentLimits, read_query

from yolo_trt_node import time_model

QUICK = "/time?backend=onnxruntime&input_shape=32x64&threads=1&rounds=3"


@pytest.fixture
def agent(tmp_path):
    folder = tmp_path / "agent"
    folder.mkdir()
    with Agent(("127.0.0.1", 0), AgentLimits(model_mb=1, load_timeout_s=120), folder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def post(
    agent: Agent, content: bytes, path: str = QUICK, method: str = "POST", **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", agent.server_port, timeout=150)
    given = {
        "Content-Type": "application/octet-stream",
        **{k.replace("_", "-"): v for k, v in headers.items()},
    }
    connection.request(method, path, content, given)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


@pytest.fixture
def untimed(monkeypatch):
    """Refusals must come before anything is loaded."""
    asked: list[dict] = []
    monkeypatch.setattr(time_model, "time_file", lambda request, *_: asked.append(request))
    yield
    assert not asked


def test_a_model_is_timed_by_the_detector_as_asked_and_nothing_of_it_stays(agent, tmp_path):
    toy = write_toy_detector(tmp_path / "toy.onnx")
    status, answer = post(agent, toy.read_bytes())
    assert status == 200, answer
    assert answer["median_ms"] > 0
    lower, upper = answer["quartiles_ms"]
    assert lower <= answer["median_ms"] <= upper
    assert (answer["backend"], answer["precision"], answer["input"]) == ("onnxruntime", "fp32", [32, 64])
    assert answer["rounds"] == 3
    assert answer["device"]
    assert not [path for path in agent.folder.rglob("*") if path.is_file()]


def test_what_is_no_model_is_refused_without_naming_folders_and_the_next_one_is_served(agent, tmp_path):
    status, answer = post(agent, b"no model")
    assert status == 422
    assert "the model" in answer["error"]
    assert str(tmp_path) not in answer["error"]
    assert post(agent, b"", "/", "GET")[0] == 200


def test_limits_of_the_child_are_the_agent_s(agent, monkeypatch):
    seen = []

    def slow(request, limits, what):
        seen.append(limits)
        raise ModelError(f"{what}: it took too long")

    monkeypatch.setattr(time_model, "time_file", slow)
    assert post(agent, b"x") == (422, {"error": "timing the model: it took too long"})
    assert (seen[0].timeout_s, seen[0].memory_mb) == (120, AgentLimits().load_memory_mb)


@pytest.mark.parametrize(
    ("path", "headers", "status", "words"),
    [
        ("/other", {}, 404, "POST to /time"),
        ("/time?backend=gpu", {}, 400, "backend"),
        (QUICK, {"Content_Type": "text/plain"}, 415, "Content-Type"),
        (QUICK, {"Origin": "http://elsewhere.example"}, 415, "web page"),
        (QUICK, {"Content_Length": "2000000"}, 413, "--model-mb"),
        (QUICK, {"Content_Length": "-1"}, 411, "Content-Length"),
    ],
)
def test_a_request_that_is_none_is_refused_with_the_reason(agent, untimed, path, headers, status, words):
    # The body that a header lies about is never waited for longer than the sender stays.
    content = b"x" * 2_000_000 if headers.get("Content_Length") == "2000000" else b"x"
    found, answer = post(agent, content, path, **headers)
    assert found == status
    assert words in answer["error"]


def test_one_model_is_timed_at_a_time(agent, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()

    def wait(request, *_):
        begun.set()
        assert go_on.wait(60)
        return {"median_ms": 1.0, "backend": "b", "precision": "p"}

    monkeypatch.setattr(time_model, "time_file", wait)
    answers = []
    first = threading.Thread(target=lambda: answers.append(post(agent, b"x")))
    first.start()
    try:
        assert begun.wait(60)
        status, answer = post(agent, b"x")
    finally:
        go_on.set()
        first.join()
    assert status == 503
    assert "another model" in answer["error"]
    assert answers[0][0] == 200


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("colour=red", "'colour' is unknown"),
        ("rounds=3&rounds=4", "there twice"),
        ("rounds=1", "between 2 and"),
        ("rounds=many", "whole number"),
        ("threads=1000", "threads"),
        ("precision=fp12", "precision"),
        ("input_shape=big", "input_shape"),
        ("&".join("rounds=3" for _ in range(30)), "fields"),
    ],
)
def test_a_query_that_asks_for_the_impossible_is_refused(query, words):
    with pytest.raises(ValueError, match=words):
        read_query(query)


def test_a_query_says_how_and_leaves_the_rest(monkeypatch):
    assert read_query("") == {
        "backend": "auto",
        "precision": "auto",
        "input_shape": "square",
        "threads": 0,
        "rounds": 30,
    }
    assert read_query("backend=tensorrt&precision=fp16&rounds=5")["precision"] == "fp16"


def test_only_this_machine_is_listened_to_unless_told_otherwise():
    assert time_model._parser().parse_args([]).host == "127.0.0.1"
    assert "no password" in time_model._who("127.0.0.1", 1)
    assert "trust" in time_model._who("0.0.0.0", 1)


def test_an_address_that_is_taken_is_one_line(agent, capsys, monkeypatch):
    monkeypatch.setattr(time_model.signal, "signal", lambda *_: None)
    assert time_model.main(["--port", str(agent.server_port)]) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
