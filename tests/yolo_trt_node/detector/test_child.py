"""Child processes are isolated, and end within their limits whatever happens in them."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from yolo_trt_node.detector import child
from yolo_trt_node.detector.child import ChildLimits, ask
from yolo_trt_node.detector.specs import ModelError

ROOM = ChildLimits(timeout_s=120, memory_mb=2000)


def behave(kind: str, limits: ChildLimits = ROOM) -> dict:
    return ask("support.child_kinds", {"kind": kind}, limits, f"trying to {kind}")


def test_a_child_imports_nothing_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    (tmp_path / "sitecustomize.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(("", str(tmp_path))))

    path = behave("path")["path"]

    assert str(tmp_path) not in path
    assert all(os.path.isabs(entry) for entry in path)


def test_the_package_is_found_where_it_is_imported_from_the_current_folder(monkeypatch):
    folder = Path(child.__file__).parents[2]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(folder), "/usr/lib/python3"])

    assert child.import_path() == ["/usr/lib/python3", str(folder)]


def test_an_answer_comes_back_whatever_native_code_prints():
    assert behave("print") == {"done": "print"}


@pytest.mark.parametrize(
    ("kind", "text"), [("refuse", "it does not suit"), ("raise", "RuntimeError: something else")]
)
def test_what_is_raised_is_the_answer(kind, text):
    assert behave(kind) == {"error": text}


def test_a_child_that_never_ends_is_killed_and_the_limit_named():
    with pytest.raises(ModelError, match=r"trying to sleep: it took more than the 0.5 s that load_timeout_s"):
        behave("sleep", ChildLimits(0.5, 2000))


def test_a_child_that_wants_all_memory_is_told_so():
    limits = ChildLimits(120, 100)
    try:
        text = behave("touch memory", limits)["error"]
    except ModelError as error:
        text = str(error)
    assert "more than the 100 MB of memory that load_memory_mb allows" in text


@pytest.mark.parametrize(
    ("kind", "words"), [("crash", "signal 11 .*about to crash"), ("exit", "exit code 7")]
)
def test_a_child_that_dies_is_an_error_that_says_how(kind, words):
    with pytest.raises(ModelError, match=rf"trying to {kind}: .*without an answer: .*{words}"):
        behave(kind)


def test_waiting_ends_when_this_process_is_ending(monkeypatch):
    ending = threading.Event()
    monkeypatch.setattr(child, "CANCELED", ending)
    threading.Timer(0.2, ending.set).start()
    with pytest.raises(ModelError, match="the process is ending"):
        behave("sleep")


def test_a_child_ends_with_the_one_who_asked():
    code = (
        "import subprocess, sys; from yolo_trt_node.detector.child import command\n"
        "child = subprocess.Popen(command('support.child_kinds'), stdin=subprocess.PIPE)\n"
        'child.stdin.write(b\'{"kind": "sleep", "memory_mb": 2000}\\n\'); child.stdin.flush()\n'
    )
    paths = os.pathsep.join(entry for entry in sys.path if entry)
    # The child holds standard error: its end is seen there, and not before.
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        stderr=subprocess.PIPE,
        timeout=120,
        check=True,
    )
