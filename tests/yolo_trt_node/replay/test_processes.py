"""Child processes are watched, told about when they fail, and never left behind."""

import os
import signal
import subprocess
import sys

import pytest
from yolo_trt_node.replay.processes import NodeProcess, ProcessError, closing_all, dds_environment

PATIENT = """
import signal, sys, time
def stop(*_):
    print("stopping")
    sys.exit(7)
signal.signal(signal.SIGINT, stop)
print("ready", flush=True)
time.sleep(60)
"""


def start(script, log=None):
    return NodeProcess([sys.executable, "-c", script], {**os.environ, "PYTHONUNBUFFERED": "1"}, log)


def test_it_is_ready_when_it_says_so_and_ends_by_its_own_handler():
    process = start(PATIENT)
    process.wait_for_log("ready", 30)
    assert process.alive
    assert process.stop() == 7
    assert process.lines == ["ready", "stopping"]
    assert process.returncode == 7
    process.close()


def test_a_log_file_keeps_what_was_said(tmp_path):
    process = start("print('hello')", tmp_path / "log")
    assert process.wait(30) == 0
    process.close()
    assert (tmp_path / "log").read_text() == "hello\n"


def test_one_that_ends_instead_is_named_with_its_last_words(tmp_path):
    process = start("import sys; print('no camera'); sys.exit(3)", tmp_path / "log")
    with pytest.raises(ProcessError, match=r"(?s)ended with status 3; its last words .*log.*no camera"):
        process.wait_for_log("ready", 30)
    with pytest.raises(ProcessError):
        process.require_alive()
    process.close()


def test_another_that_ends_meanwhile_is_named_too():
    with closing_all() as running:
        running += [start("import time; time.sleep(60)"), start("import sys; sys.exit(4)")]
        with pytest.raises(ProcessError, match="status 4"):
            running[0].wait_for_log("ready", 30, running[1:])


def fail_beside(running, *scripts):
    """Start processes in a block that ends in an error."""
    running += [start(script) for script in scripts]
    for process in running:
        process.wait_for_log("ready", 30)
    raise ZeroDivisionError


def test_none_outlives_the_block():
    with pytest.raises(ZeroDivisionError), closing_all() as running:
        fail_beside(running, PATIENT)
    assert running[0].returncode == 7


def test_one_that_ignores_signals_is_killed(monkeypatch):
    monkeypatch.setattr("yolo_trt_node.replay.processes.STOP_PATIENCE_S", 0.2)
    deaf = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('ready'); time.sleep(60)"
    with pytest.raises(ZeroDivisionError), closing_all() as running:
        fail_beside(running, deaf)
    assert running[0].returncode == -signal.SIGKILL


def test_too_long_a_wait_shows_the_log():
    process = start("import time; print('still loading'); time.sleep(60)")
    try:
        process.wait_for_log("still", 30)
        with pytest.raises(ProcessError, match=r"(?s)did not say 'ready' within 0 s.*still loading"):
            process.wait_for_log("ready", 0)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0)
    finally:
        process.close()


def test_the_environment_is_a_domain_with_the_shipped_profile_unless_another_is_set():
    made = dds_environment(7, {"HOME": "/"})
    assert (made["ROS_DOMAIN_ID"], made["HOME"]) == ("7", "/")
    assert made["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/dds/fastdds_large_frames.xml")
    own = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"}
    assert dds_environment(7, own)["FASTRTPS_DEFAULT_PROFILES_FILE"] == "/mine.xml"
