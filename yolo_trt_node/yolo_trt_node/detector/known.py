"""What this machine has learned about model files: which load and run, and what runs them fastest.

One small file each, beside the engine cache. Only this user may write there; where that is not so, or the
folder cannot be used at all, nothing is remembered and everything is tried anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LOG = logging.getLogger(__name__)

_MAX_BYTES = 1 << 16


def folder(engine_cache: str = "") -> Path:
    """Return the folder: ``known`` in the engine cache given, else in ``~/.cache/yolo_trt_node``.

    Args:
        engine_cache: as the option of that name; empty for the default.
    """
    if engine_cache:
        return Path(engine_cache).expanduser() / "known"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "yolo_trt_node" / "known"


def recall(place: Path, key: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was noted under a key; ``None`` where nothing was, or nothing that can be trusted."""
    try:
        if not _private(place):
            return None
        path = _path(place, key)
        if path.stat().st_size > _MAX_BYTES:
            return None
        entry = json.loads(path.read_text("utf-8"))
        return dict(entry["value"]) if entry["key"] == dict(key) else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def note(place: Path, key: Mapping[str, Any], value: Mapping[str, Any]) -> None:
    """Remember something under a key; where that cannot be, the next start tries anew."""
    path = _path(place, key)
    part = path.with_suffix(f".{os.getpid()}.part")
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _private(place):
            raise PermissionError(f"{place} can be written by others")
        part.write_text(json.dumps({"key": dict(key), "value": dict(value)}), "utf-8")
        part.replace(path)
    except OSError as error:
        _LOG.debug("nothing is remembered in %s: %s", place, error)
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _path(place: Path, key: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()
    return place / f"{digest[:32]}.json"


def _private(place: Path) -> bool:
    facts = place.stat()
    return facts.st_uid in (os.geteuid(), 0) and not facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
