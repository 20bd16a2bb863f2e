"""``ros2 run yolo_trt_node time_model``: time ONNX files sent to this machine, for pruning to a time on it.

`yolo-compress prune --latency 0.6 --board http://THIS:8765` sends its candidates here. A file comes by POST
and is loaded and timed by the detector that flies, in a process of its own under limits of time and memory;
the answer is JSON. It listens to this machine alone unless told otherwise: it asks nobody for a password, and
whoever reaches it can make the machine work. Reach it by ``ssh -L 8765:127.0.0.1:8765 BOARD``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from yolo_trt_node.detector import LoadOptions, ModelError, child
from yolo_trt_node.detector.timing import time_file

_LOG = logging.getLogger(__name__)

PORT = 8765
PATH = "/time"
CONTENT_TYPE = "application/octet-stream"
_HOST = "127.0.0.1"
_MIB = 1 << 20
_CHUNK = 1 << 16
_MOST_ROUNDS = 1000
_MOST_CONNECTIONS = 8
# A sender that is silent for so long is gone; an upload that takes longer is no upload.
_SILENCE_S = 20.0
_UPLOAD_S = 900.0
# What is still read of a file that is refused, so that its sender hears the answer and no broken connection.
_DRAIN_BYTES = 64 * _MIB
_DRAIN_S = 5.0
# Engines of pruning's candidates are of no use later; beyond this they are thrown away.
_ENGINES_BYTES = 2048 * _MIB


class Refused(Exception):  # noqa: N818  (an answer, and no fault of the program)
    """A request that is not served; the text says why and what to do.

    Attributes:
        status: of HTTP.
    """

    def __init__(self, status: int, text: str) -> None:
        """Take the status and the reason."""
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class AgentLimits:
    """What a request may take.

    Attributes:
        model_mb: MiB of the ONNX file.
        load_timeout_s: seconds for loading (on a GPU: building the engine) and timing together.
        load_memory_mb: MiB of memory of the process that does so.
    """

    model_mb: int = 512
    load_timeout_s: float = 1800.0
    load_memory_mb: int = 8192


class Agent(ThreadingHTTPServer):
    """The server; one measurement at a time, since two would slow each other down."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], limits: AgentLimits, folder: Path) -> None:
        """Listen.

        Args:
            address: host and port; port 0 takes a free one.
            limits: what a request may take.
            folder: for the file that is measured, and for its engines.

        Raises:
            OSError: the address is not there or taken.
        """
        self.limits = limits
        self.folder = folder
        self.turn = threading.Lock()
        self._places = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without asking the network for this machine's full name, which can take seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a few connections at once and no more."""
        return self._places.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve one connection in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Note a connection that broke; the next one is served all the same."""
        _LOG.warning("the connection from %s broke: %s", client_address[0], sys.exc_info()[1])


class _Handler(BaseHTTPRequestHandler):
    server: Agent
    server_version = "time_model"
    sys_version = ""
    timeout = _SILENCE_S

    def do_GET(self) -> None:
        """Say what this is, for somebody who looks with a browser or curl."""
        limits = self.server.limits
        usage = f"POST an ONNX file ({CONTENT_TYPE}) to {PATH}?backend=auto&precision=auto&input_shape=square"
        self._answer(200, {"program": "time_model", "usage": usage, "model_mb": limits.model_mb})

    def do_POST(self) -> None:
        """Time the file in the body."""
        self._unread = 0
        try:
            request = self._request()
            if not self.server.turn.acquire(blocking=False):
                raise Refused(503, "another model is being timed; ask again when it is done")
            try:
                answer = self._timed(request)
            finally:
                self.server.turn.release()
        except Refused as refused:
            _LOG.warning("refused a request from %s: %s", self.client_address[0], refused)
            self._answer(refused.status, {"error": str(refused)})
            self._drain()
            return
        self._answer(200, answer)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request's line: what matters is logged where it happens."""

    def _request(self) -> dict[str, Any]:
        """Check everything that can be checked before the file is read."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or len(length) > 15 or int(length) == 0:
            raise Refused(411, "the request has no Content-Length: send the ONNX file as the body")
        self._unread = int(length)
        # A web page that somebody has open may not use their browser to reach this machine.
        if self.headers.get("Origin") or self.headers.get_content_type() != CONTENT_TYPE:
            raise Refused(
                415, f"send the ONNX file with Content-Type: {CONTENT_TYPE}, and not from a web page"
            )
        if self._unread > self.server.limits.model_mb * _MIB:
            raise Refused(
                413,
                f"the file has {self._unread / _MIB:.0f} MB, more than the {self.server.limits.model_mb} MB "
                "that are taken here; start time_model with a larger --model-mb",
            )
        url = urlsplit(self.path)
        if url.path != PATH:
            raise Refused(404, f"there is no {url.path[:100]} here; POST to {PATH}")
        try:
            return read_query(url.query)
        except ValueError as error:
            raise Refused(400, str(error)) from error

    def _timed(self, request: dict[str, Any]) -> dict[str, Any]:
        agent = self.server
        engines = agent.folder / "engines"
        if _size(engines) > _ENGINES_BYTES:
            shutil.rmtree(engines, ignore_errors=True)
        with contextlib.ExitStack() as undo:
            try:
                place = undo.enter_context(tempfile.TemporaryDirectory(dir=agent.folder))
                model = Path(place) / "model.onnx"
                self._receive(model)
            except TimeoutError as error:
                raise Refused(408, "the file did not arrive in time; send it again") from error
            except OSError as error:
                raise Refused(507, f"the file could not be stored here: {error.strerror}") from error
            _LOG.info("timing %.1f MB from %s", model.stat().st_size / 1e6, self.client_address[0])
            limits = child.ChildLimits(agent.limits.load_timeout_s, agent.limits.load_memory_mb)
            given = {**request, "model": str(model), "engine_cache": str(engines)}
            try:
                answer = time_file(given, limits, "timing the model")
            except ModelError as error:
                raise Refused(422, str(error)) from error
            if "error" in answer:
                raise Refused(422, str(answer["error"]).replace(str(model), "the model"))
        _LOG.info("%s ms by %s, %s", *(answer.get(key) for key in ("median_ms", "backend", "precision")))
        return answer

    def _receive(self, model: Path) -> None:
        until = time.monotonic() + _UPLOAD_S
        with model.open("wb") as stream:
            while self._unread:
                content = self.rfile.read1(min(_CHUNK, self._unread))
                if not content or time.monotonic() > until:
                    raise TimeoutError
                stream.write(content)
                self._unread -= len(content)

    def _drain(self) -> None:
        """Read on for a little, so that the refusal is not lost with the connection."""
        until, most = time.monotonic() + _DRAIN_S, _DRAIN_BYTES
        self.connection.settimeout(_DRAIN_S)
        with contextlib.suppress(OSError):
            while self._unread > 0 and most > 0 and time.monotonic() < until:
                content = self.rfile.read1(_CHUNK)
                if not content:
                    return
                self._unread -= len(content)
                most -= len(content)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text)
        self.wfile.flush()


def read_query(query: str) -> dict[str, Any]:
    """Read how a model is to be timed from a URL's query.

    Args:
        query: any of ``backend``, ``precision``, ``input_shape``, ``threads`` (as the node's parameters) and
            ``rounds``, as in ``backend=tensorrt&precision=fp16&input_shape=384x640``.

    Returns:
        All five, checked.

    Raises:
        ValueError: one is unknown, twice there, or not allowed; the message says which.
    """
    found: dict[str, Any] = {
        "backend": "auto",
        "precision": "auto",
        "input_shape": "square",
        "threads": 0,
        "rounds": 30,
    }
    given: set[str] = set()
    for name, text in parse_qsl(query, keep_blank_values=True, max_num_fields=20):
        if name not in found or name in given:
            raise ValueError(f"{name[:100]!r} is unknown or there twice; there are: {', '.join(found)}")
        given.add(name)
        if isinstance(found[name], int):
            if not (text.isascii() and text.isdecimal() and len(text) < 10):
                raise ValueError(f"{name} is {text[:100]!r}; use a whole number")
            found[name] = int(text)
        else:
            found[name] = text[:100]
    if not 2 <= found["rounds"] <= _MOST_ROUNDS:
        raise ValueError(f"rounds is {found['rounds']}, but must lie between 2 and {_MOST_ROUNDS}")
    # The options' own checks.
    LoadOptions(**{name: value for name, value in found.items() if name != "rounds"})
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until Ctrl-C; return the exit code."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    limits = AgentLimits(given.model_mb, given.load_timeout_s, given.load_memory_mb)
    with tempfile.TemporaryDirectory(prefix="time_model-") as folder:
        try:
            agent = Agent((given.host, given.port), limits, Path(folder))
        except (OSError, OverflowError) as error:
            print(f"time_model: cannot listen on {given.host}:{given.port}: {error}", file=sys.stderr)
            return 1
        with agent:
            _LOG.info("listening on http://%s:%d; Ctrl-C ends it", given.host, agent.server_port)
            _LOG.info("%s", _who(given.host, agent.server_port))
            try:
                agent.serve_forever()
            except KeyboardInterrupt:
                # The child that measures ends before its files are removed.
                child.CANCELED.set()
                agent.turn.acquire(timeout=10)
    return 0


def _who(host: str, port: int) -> str:
    if host in (_HOST, "localhost"):
        return (
            "only this machine reaches it, since it asks for no password. From another: "
            f"ssh -L {port}:{_HOST}:{port} THIS, then --board http://{_HOST}:{port} there"
        )
    return "whoever reaches this address can make this machine work: use it in a network that you trust"


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="time_model", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shown = AgentLimits()
    parser.add_argument(
        "--host",
        default=_HOST,
        help="address to listen on, 0.0.0.0 for all; default: %(default)s, this machine alone",
    )
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s; 0 takes a free one")
    parser.add_argument(
        "--model-mb", type=_positive, default=shown.model_mb, help="largest file in MiB; default: %(default)s"
    )
    parser.add_argument(
        "--load-timeout-s",
        type=float,
        default=shown.load_timeout_s,
        help="seconds that loading (on a GPU: building the engine) and timing may take; default: %(default)s",
    )
    parser.add_argument(
        "--load-memory-mb",
        type=_positive,
        default=shown.load_memory_mb,
        help="memory in MiB that they may take; default: %(default)s",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
