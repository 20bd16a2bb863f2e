"""Child processes that import nothing from the current folder, held to a time and an amount of memory.

A model file may be a stranger's, and native code that reads it may never end, want all memory or crash. It is
therefore tried in a process of its own: one JSON object goes in by standard input, one comes back by standard
output. When standard input closes, the one who asked is gone, and the child ends.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from yolo_trt_node.detector.specs import ModelError

_LOG = logging.getLogger(__name__)

REPORT_PERIOD_S = 5.0
CANCELED = threading.Event()
"""Set when this process is about to end: whoever waits for a child gets a `ModelError`."""

_POLL_S = 0.02
_MIB = 1 << 20
_MAX_ANSWER = 1 << 20
# Room for what an interpreter and a runtime map before any model is loaded.
_OVERHEAD_MB = 512
_STACK_MB = 16


@dataclass(frozen=True)
class ChildLimits:
    """What a child may take.

    Attributes:
        timeout_s: seconds until it is killed.
        memory_mb: MiB of memory that it may hold.
    """

    timeout_s: float
    memory_mb: int


def command(module: str) -> list[str]:
    """Return the command line that runs a module as ``python -m`` would, but isolated.

    ``-I`` leaves out the current folder, ``PYTHONPATH`` and the user's site; what this process imports from
    is given explicitly, without the current folder. (``-P`` alone would do, from Python 3.11 on.)
    """
    code = (
        f"import sys; sys.path[:] = {import_path()!r}; import runpy; "
        f"runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    )
    return [sys.executable, "-I", "-c", code]


def import_path() -> list[str]:
    """Return what this process imports from, without the current folder and relative entries."""
    own = Path(__file__).resolve().parents[2]
    try:
        here: str | None = os.path.realpath(os.getcwd())
    except OSError:  # it was removed
        here = None
    kept = [entry for entry in sys.path if os.path.isabs(entry) and os.path.realpath(entry) != here]
    # Somebody who stands in the folder of this package imports it from there already; but it comes last.
    return kept if any(os.path.realpath(entry) == str(own) for entry in kept) else [*kept, str(own)]


def ask(module: str, request: dict[str, Any], limits: ChildLimits, what: str) -> dict[str, Any]:
    """Run a module in a child process until it answers.

    Args:
        module: its ``main`` reads one JSON line and answers by `answer_with`.
        request: what it is to do.
        limits: what it may take.
        what: what it does, for the log and for errors: "trying /models/a.onnx on onnxruntime".

    Returns:
        The answer.

    Raises:
        ModelError: it went beyond a limit (the message says which), crashed, or this process is ending.
    """
    started = time.monotonic()
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command(module), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        ) as child,
    ):
        answers: list[bytes] = []
        listener = threading.Thread(target=_listen, args=(child.stdout, answers), daemon=True)
        listener.start()
        try:
            excess = _watch(child, json.dumps({**request, "memory_mb": limits.memory_mb}), limits, what)
        finally:
            child.kill()
            listener.join()
        code = child.wait()
        errors.seek(0)
        tail = errors.read()[-4000:].decode("utf-8", "replace").strip().splitlines()[-3:]
    if excess:
        raise ModelError(f"{what}: {excess}")
    try:
        answer = json.loads(answers[0]) if answers else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ModelError(
            f"{what}: the process that tried it ended after {time.monotonic() - started:.0f} s without an "
            f"answer: {_ending(code)}" + (f"; its last words: {' | '.join(tail)}" if tail else "")
        )
    return answer


def _watch(child: subprocess.Popen[bytes], request: str, limits: ChildLimits, what: str) -> str:
    """Wait until the child is done or has taken too much; return in words what it took too much of."""
    assert child.stdin is not None
    # A child that ends at once is told by its exit code.
    with contextlib.suppress(BrokenPipeError):
        child.stdin.write(request.encode() + b"\n")
        child.stdin.flush()
    started = told = time.monotonic()
    while child.poll() is None:
        if CANCELED.wait(_POLL_S):
            raise ModelError(f"{what}: given up, the process is ending")
        now = time.monotonic()
        if now - started > limits.timeout_s:
            return (
                f"it took more than the {limits.timeout_s:g} s that load_timeout_s allows; raise it where "
                "the model is known and the machine slow"
            )
        if _resident_mb(child.pid) > limits.memory_mb + _OVERHEAD_MB:
            return _too_much_memory(limits.memory_mb)
        if now - told >= REPORT_PERIOD_S:
            told = now
            _LOG.info("%s: %.0f s so far, of at most %g s", what, now - started, limits.timeout_s)
    return ""


def _too_much_memory(memory_mb: int) -> str:
    return (
        f"it wants more than the {memory_mb} MB of memory that load_memory_mb allows; raise it where the "
        "model is known and the machine has them"
    )


def _resident_mb(process: int) -> float:
    try:
        pages = int(Path(f"/proc/{process}/statm").read_bytes().split()[1])
    except (OSError, IndexError, ValueError):
        return 0.0  # it has just ended
    return pages * resource.getpagesize() / _MIB


def _listen(channel: IO[bytes] | None, answers: list[bytes]) -> None:
    if channel is not None and (line := channel.readline(_MAX_ANSWER)):
        answers.append(line)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "it was killed (signal 9), most likely for lack of memory; close what else runs, or add swap"
    if code < 0:
        return f"it crashed with signal {-code} ({signal.strsignal(-code)})"
    return f"exit code {code}"


# --- In the child -------------------------------------------------------------------------------------------


def answer_with(make: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Serve one request of `ask`: read it, hold this process to its limits, answer, and end.

    Args:
        make: from the request the answer. What it raises becomes ``{"error": text}``.
    """
    # What native code prints must not come between: it goes to standard error.
    channel = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    request = json.loads(sys.stdin.buffer.readline())
    memory_mb = int(request.pop("memory_mb"))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with contextlib.suppress(OSError):
        # Should memory run out all the same, this process is to go, not the one who asked.
        Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, ValueError, IndexError):
        # Of private memory, not of addresses: runtimes reserve many times what they use. What is mapped by
        # now, and stacks of threads to come, grow with the number of cores and are no model's.
        mapped = int(Path("/proc/self/statm").read_bytes().split()[5]) * resource.getpagesize()
        room = memory_mb + _OVERHEAD_MB + _STACK_MB * (os.cpu_count() or 1)
        limit = mapped + room * _MIB
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    try:
        answer = make(request)
    except ModelError as error:
        answer = {"error": str(error)}
    except MemoryError:
        answer = {"error": _too_much_memory(memory_mb)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    text = str(answer.get("error", ""))
    if any(word in text for word in ("bad allocation", "bad_alloc", "Failed to allocate memory")):
        answer = {"error": _too_much_memory(memory_mb)}
    channel.write(json.dumps(answer)[: _MAX_ANSWER - 1].encode() + b"\n")
    channel.flush()
    # Native libraries have been seen to crash in a process's last moments, after the work is done.
    os._exit(0)


def _end_with_parent() -> None:
    # By the descriptor: a buffered read would hold the lock that the interpreter wants at its end.
    while os.read(0, 4096):
        pass
    os._exit(3)
