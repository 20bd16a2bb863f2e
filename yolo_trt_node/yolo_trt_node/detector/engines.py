"""TensorRT engines: where they are kept, when they may be used again, and how they come about.

An engine fits one model, one TensorRT, one GPU, one precision and one input shape; all of that is its key.
Beside each engine lies a card (JSON) with the key in words, the model's metadata and the engine's checksum.
An engine whose card is missing or says something else is built again.

An engine file is code: TensorRT runs what it holds. The cache is therefore private to the user, and an engine
that somebody else could have written is refused.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yolo_trt_node.detector import engine_process
from yolo_trt_node.detector.card import ModelError
from yolo_trt_node.detector.engine_builder import BuildSpec, write_durably
from yolo_trt_node.detector.engine_process import POLL_S, refuse_if_canceled, run_builder
from yolo_trt_node.detector.onnx_file import OnnxHeader, fingerprint

_LOG = logging.getLogger(__name__)

ENGINE_CARD_FORMAT_VERSION = 1
SUFFIXES = (".engine", ".plan", ".trt")
"""File names that mean a TensorRT engine."""

# Where a Jetson keeps its power mode.
_NVPMODEL = Path("/var/lib/nvpmodel/status")
_HEADER_LIMIT = 16 << 20


@dataclass(frozen=True)
class EngineRequest:
    """An engine wanted: the recipe, and what it is for.

    Attributes:
        model: the ONNX file.
        header: what that file says of itself.
        recipe: what to build.
        version: the TensorRT that builds and runs it.
        gpu: name of the GPU that it is for.
        multiprocessors: how many that GPU has; 0 where it is not here. All Orins call themselves Orin, and
            an engine is tuned for the number that the module, and its power mode, leave on.
        cut: the file without its suppression, which is built in its place.
    """

    model: Path
    header: OnnxHeader
    recipe: BuildSpec
    version: str
    gpu: str
    multiprocessors: int = 0
    cut: bytes | None = None

    def key(self) -> dict[str, Any]:
        """Return everything that must agree for an engine to be used again."""
        return {
            "format_version": ENGINE_CARD_FORMAT_VERSION,
            "model_sha256": fingerprint(self.model, self.header),
            "version": self.version,
            "gpu": self.gpu,
            "multiprocessors": self.multiprocessors,
            "cut": "" if self.cut is None else hashlib.sha256(self.cut).hexdigest(),
            **asdict(self.recipe),
            "batches": list(self.recipe.batches),
        }


@dataclass(frozen=True)
class SerializedEngine:
    """A serialised engine, ready for TensorRT.

    Attributes:
        path: the file it came from.
        plan: the bytes that TensorRT deserialises.
        sha256: checksum of the whole file.
        metadata: the model's own metadata, as in the ONNX file.
        made_by: the card's facts (backend, version, GPU, precision ...), empty for a foreign engine.
    """

    path: Path
    plan: memoryview
    sha256: str
    metadata: Mapping[str, str]
    made_by: Mapping[str, Any]


def default_folder() -> Path:
    """Return the cache folder: ``yolo_trt_node/engines`` under ``XDG_CACHE_HOME`` or ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "yolo_trt_node" / "engines"


class EngineCache:
    """A folder of engines, shared by all processes of one user."""

    def __init__(self, folder: Path | None = None, *, trust: bool = False) -> None:
        """Use a folder; it is created, private to the user, when the first engine is built.

        Args:
            folder: the folder; `default_folder` where none is given.
            trust: take engines although others could have written them.
        """
        self.folder = (folder or default_folder()).expanduser()
        self.trust = trust

    def get(self, order: EngineRequest) -> SerializedEngine:
        """Return an engine: the one in the cache, or a new one. Two who ask at once build once.

        Raises:
            ModelError: the engine cannot be built, or the folder cannot be used; the message says which and
                why.
        """
        key = order.key()
        path = self._path(order, key)
        self._create()
        with self._locked(path):
            if path.exists():
                found = self._usable(path, key)
                if isinstance(found, SerializedEngine):
                    _LOG.info("using the engine %s", path)
                    return found
                _LOG.warning("building %s again: %s", path, found)
            self._build(order, key, path)
            built = self._usable(path, key)
        if not isinstance(built, SerializedEngine):
            raise ModelError(f"the engine {path} was built, but cannot be used: {built}")
        return built

    def discard(self, engine: SerializedEngine, reason: str) -> None:
        """Remove an engine that TensorRT does not take, so that `get` builds it again."""
        _LOG.warning("%s is of no use (%s) and is removed", engine.path, reason)
        with self._locked(engine.path):
            engine.path.unlink(missing_ok=True)
            _runtime_path(engine.path).unlink(missing_ok=True)

    def _create(self) -> None:
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ModelError(_folder_trouble(self.folder, error)) from error
        if not self.trust:
            _refuse_if_others_write(self.folder, "the engine cache")

    def _path(self, order: EngineRequest, key: Mapping[str, Any]) -> Path:
        recipe = order.recipe
        batch = "-".join(map(str, sorted(set(recipe.batches))))
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
        name = f"{order.model.stem}_{recipe.height}x{recipe.width}_b{batch}_{recipe.precision}_{digest}"
        return self.folder / (re.sub(r"[^\w.-]", "_", name) + ".engine")

    def _usable(self, path: Path, key: Mapping[str, Any]) -> SerializedEngine | str:
        """Return the engine, or the reason why it cannot be used."""
        if not self.trust:
            _refuse_if_others_write(path, "the engine")
        try:
            card = json.loads(_card_path(path).read_text())
            differing = [name for name in key if card["key"].get(name) != key[name]]
            if differing:
                return f"it was made for another {', '.join(differing)}"
            content = path.read_bytes()
            checksum = hashlib.sha256(content).hexdigest()
            if checksum != card["sha256"]:
                return "it is damaged (its checksum is not the card's)"
            return SerializedEngine(
                path, memoryview(content), checksum, dict(card["metadata"]), dict(card["key"])
            )
        except FileNotFoundError as error:
            return f"{error.filename} is missing"
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return f"its card cannot be read ({type(error).__name__}: {error})"

    def _build(self, order: EngineRequest, key: Mapping[str, Any], path: Path) -> None:
        device = f"{order.gpu}-{order.multiprocessors}" if order.multiprocessors else order.gpu
        safe = re.sub(r"[^\w.-]", "_", f"{order.recipe.backend}-{order.version}-{device}")
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        _LOG.info(
            "building the engine %s from %s with %s %s for %s%s; it is kept for the next start",
            path,
            order.model,
            order.recipe.backend,
            order.version,
            order.gpu,
            _power_mode(),
        )
        try:
            model = order.model
            if order.cut is not None:
                model = path.with_name(f"{path.name}.{os.getpid()}.onnx.part")
                write_durably(model, order.cut)
            result = run_builder(
                model,
                order.recipe,
                order.version,
                destination=part,
                timing_cache=self.folder / f"{safe}.timing",
            )
            card = {
                "key": dict(key),
                "sha256": hashlib.sha256(part.read_bytes()).hexdigest(),
                "bytes": part.stat().st_size,
                "model": str(order.model),
                "build_seconds": result["seconds"],
                "built_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "metadata": dict(order.header.metadata),
            }
            card_part = path.with_name(f"{path.name}.{os.getpid()}.json.part")
            card_part.write_text(json.dumps(card, indent=2))
            # Should the process end between the two, card and engine disagree and the engine is built again.
            card_part.replace(_card_path(path))
            part.replace(path)
        except OSError as error:
            raise ModelError(_folder_trouble(self.folder, error)) from error
        finally:
            for leftover in self.folder.glob(f"{path.name}.{os.getpid()}.*part"):
                leftover.unlink(missing_ok=True)
        _LOG.info("built %s in %.0f s (%.1f MB)", path.name, result["seconds"], path.stat().st_size / 1e6)

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold the lock of one engine; whoever comes second waits, and says so."""
        lock = path.with_suffix(".lock")
        try:
            file = os.fdopen(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        except OSError as error:
            raise ModelError(_folder_trouble(self.folder, error)) from error
        with file:
            started, told = time.monotonic(), 0.0
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    now = time.monotonic()
                    if now - told >= engine_process.BUILD_LOG_PERIOD_S:
                        told = now
                        _LOG.info(
                            "waiting for another process that builds %s (%.0f s)", path.name, now - started
                        )
                    refuse_if_canceled()
                    time.sleep(POLL_S)
            yield


def read_engine_file(path: Path, *, trust: bool) -> SerializedEngine:
    """Read an engine that the user names: one of ours (card beside it), or of Ultralytics (JSON header).

    Raises:
        ModelError: neither says what is in it, or others could have written it.
    """
    if not trust:
        _refuse_if_others_write(path, "the engine")
        _refuse_if_others_write(path.parent, "the folder of the engine")
    content = path.read_bytes()
    checksum = hashlib.sha256(content).hexdigest()
    if _card_path(path).is_file():
        try:
            card = json.loads(_card_path(path).read_text())
            if card["sha256"] == checksum:
                return SerializedEngine(
                    path, memoryview(content), checksum, dict(card["metadata"]), dict(card["key"])
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"{_card_path(path)} is damaged ({type(error).__name__}: {error})") from error
        raise ModelError(f"{path} is damaged: its checksum is not that of its card; build it again")
    header = _ultralytics_header(content)
    if header is None:
        raise ModelError(
            f"{path} does not say what is in it: it has neither a card ({_card_path(path).name}) nor "
            "Ultralytics' header; give the ONNX file instead, the engine is then built and cached"
        )
    length, metadata = header
    return SerializedEngine(path, memoryview(content)[4 + length :], checksum, metadata, {})


def read_runtime_cache(engine: Path, *, trust: bool) -> bytes:
    """Return the kernels that TensorRT-RTX compiled for an engine at an earlier start; empty for none.

    They are code as the engine is: what others could have written is left alone, and said.
    """
    path = _runtime_path(engine)
    try:
        if not trust:
            _refuse_if_others_write(path, "the runtime cache")
        return path.read_bytes()
    except ModelError as error:
        _LOG.warning("the kernels are compiled again: %s", error)
    except OSError:
        pass
    return b""


def write_runtime_cache(engine: Path, content: bytes) -> None:
    """Keep the kernels that TensorRT-RTX has compiled for an engine beside it.

    Raises:
        OSError: the folder cannot be written.
    """
    path = _runtime_path(engine)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        write_durably(part, content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _runtime_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".runtime")


def _ultralytics_header(content: bytes) -> tuple[int, dict[str, str]] | None:
    """Return length and content of the JSON that Ultralytics puts before an engine, its length in 4 bytes."""
    length = int.from_bytes(content[:4], "little", signed=True)
    if not 2 <= length <= min(_HEADER_LIMIT, len(content) - 4):
        return None
    try:
        facts = json.loads(content[4 : 4 + length].decode("utf-8"))
    except ValueError:
        return None
    if not isinstance(facts, dict):
        return None
    # The ONNX metadata of the same exporter holds these as Python literals; so does the card's reader expect.
    names = facts.get("names")
    if isinstance(names, dict):
        facts["names"] = {int(number): name for number, name in names.items()}
    return length, {
        str(key): value if isinstance(value, str) else repr(value) for key, value in facts.items()
    }


def _power_mode() -> str:
    """Return a Jetson's power mode in words: what is timed under a low one is chosen for a low one."""
    try:
        found = re.search(r"pmode:0*(\d+)", _NVPMODEL.read_text())
    except OSError:
        return ""
    return f" in nvpmodel's mode {found[1]}" if found else ""


def _card_path(engine: Path) -> Path:
    return engine.with_name(engine.name + ".json")


def _refuse_if_others_write(path: Path, what: str) -> None:
    """Raise where others could have put code into a file or folder (the sticky bit protects a folder)."""
    facts = path.stat()
    mode = facts.st_mode
    shared = mode & (stat.S_IWGRP | stat.S_IWOTH) and not (stat.S_ISDIR(mode) and mode & stat.S_ISVTX)
    foreign = facts.st_uid not in (os.geteuid(), 0)
    if shared or foreign:
        why = f"it belongs to user {facts.st_uid}" if foreign else f"its mode is {stat.S_IMODE(mode):04o}"
        raise ModelError(
            f"{what} {path} could have been written by others ({why}), and an engine is code; make it "
            "yours alone "
            f"(`sudo chown $USER {path}; chmod go-w {path}`), or set trust_engines to true"
        )


def _folder_trouble(folder: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        cause, help_ = "is full", "make room, or name another folder with engine_cache"
    elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        cause, help_ = (
            "cannot be written",
            "make it writable for this user, or name another with engine_cache",
        )
    else:
        cause, help_ = "cannot be used", "name another with engine_cache"
    return f"the engine cache {folder} {cause} ({error.strerror or error}): {help_}"
