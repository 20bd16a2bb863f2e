"""The package's executables as child processes: started with a DDS environment, watched, ended in order."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ament_index_python.packages import get_package_prefix

from yolo_trt_node.dds import AUTO_PROFILE, profile_environment

STOP_PATIENCE_S = 10.0
_SHOWN_LINES = 12


class ProcessError(RuntimeError):
    """A process that ended or did not get ready; the message has the end of its log."""


def executable(name: str) -> str:
    """Return the path of an executable of the installed package."""
    return str(Path(get_package_prefix("yolo_trt_node"), "lib", "yolo_trt_node", name))


def dds_environment(domain: int, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process on a DDS domain of its own, with the shipped profile.

    Args:
        domain: ``ROS_DOMAIN_ID``, 0 to 101.
        environment: what it would have; by default this process's.
    """
    base = dict(os.environ if environment is None else environment)
    profile, _ = profile_environment(AUTO_PROFILE, base)
    return {
        **base,
        **profile,
        "ROS_DOMAIN_ID": str(domain),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONUNBUFFERED": "1",
    }


class NodeProcess:
    """A running executable.

    It has a session of its own: Ctrl-C in the terminal is for the parent, which ends its children in order.

    Attributes:
        name: for messages.
        pid: its process id.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], log: Path | None = None
    ) -> None:
        """Start it.

        Args:
            command: the executable and its arguments.
            environment: its variables.
            log: where its output goes; by default into a file that vanishes with it.
        """
        self.name = Path(command[0]).name
        self._path = log
        self._file = tempfile.TemporaryFile() if log is None else log.open("w+b")  # noqa: SIM115
        self._text: str | None = None
        self._process = subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.pid = self._process.pid

    @property
    def log(self) -> str:
        """What it has said so far."""
        if self._text is not None:
            return self._text
        # By position: the child writes where this file's own pointer stands.
        number = self._file.fileno()
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace").rstrip("\n")

    @property
    def lines(self) -> list[str]:
        """The same, line by line."""
        return [line.rstrip() for line in self.log.split("\n")]

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status; ``None`` while it runs."""
        return self._process.poll()

    def failure(self) -> ProcessError:
        """Return an error with its status and its last words."""
        tail = "\n".join(self.lines[-_SHOWN_LINES:])
        where = f" ({self._path})" if self._path else ""
        return ProcessError(
            f"{self.name} ended with status {self.returncode}; its last words{where}:\n{tail}"
        )

    def require_alive(self) -> None:
        """Check that it runs.

        Raises:
            ProcessError: it does not.
        """
        if not self.alive:
            raise self.failure()

    def wait_for_log(self, text: str, patience_s: float, others: Sequence[NodeProcess] = ()) -> None:
        """Wait until it has said something.

        Args:
            text: part of what it says.
            patience_s: for so many seconds at most.
            others: processes that have to run meanwhile, too.

        Raises:
            ProcessError: it did not, or one of them ended.
        """
        end = time.monotonic() + patience_s
        while text not in self.log:
            for one in (self, *others):
                if not one.alive and text not in self.log:
                    raise one.failure()
            if time.monotonic() > end:
                said = "\n".join(one.log for one in (self, *others))
                raise ProcessError(
                    f"{self.name} did not say {text!r} within {patience_s:g} s. The logs say:\n{said}"
                )
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, patience_s: float) -> int:
        """Wait for it to end by itself, and return its exit status.

        Raises:
            subprocess.TimeoutExpired: it did not in that many seconds.
        """
        return self._process.wait(patience_s)

    def stop(self, number: int = signal.SIGINT, patience_s: float = STOP_PATIENCE_S) -> int:
        """Send it a signal, and return its exit status; see `wait`."""
        self.send_signal(number)
        try:
            return self.wait(patience_s)
        finally:
            self.close()

    def close(self) -> None:
        """End it; SIGKILL is the last resort, since it leaves DDS's shared memory behind. Harmless twice."""
        if self.alive:
            self.send_signal(signal.SIGINT)
            try:
                self.wait(STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._text is None:
            self._text = self.log
            self._file.close()


@contextmanager
def closing_all() -> Iterator[list[NodeProcess]]:
    """Give a list of processes, none of which outlives the block, however it is left; the last ends first."""
    running: list[NodeProcess] = []
    try:
        yield running
    finally:
        for process in reversed(running):
            process.close()
