"""One way to write a file, to copy one, and to hash one.

Whatever is written takes its name in one step: it is there whole, or as it was, also after a power cut and
where two processes write the same file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Ends the name of a file that is being written; what a killed process left is swept by `remove_parts`.
PART = ".part"
_NUMBERS = itertools.count()
# Begins the name of every temporary folder; the file in it whose lock the kernel gives up with its process.
_TEMPORARY, _ALIVE = "yolo-compress-", ".alive"


def write(path: Path, content: bytes) -> None:
    """Write a file in one step.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    # Of this process and call alone: two that write one file must not take each other's half.
    part = path.with_name(f"{path.name}.{os.getpid()}-{next(_NUMBERS)}{PART}")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # a rename may reach the disk before what it renames
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, as `write` does."""
    write(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write plain values as JSON for people and programs, as `write` does."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def with_section(text: str, name: str, content: str) -> str | None:
    """Return a Markdown text whose section of this name is written anew.

    Args:
        text: the page.
        name: the section stands between ``<!-- name -->`` and ``<!-- /name -->``.
        content: what shall stand there.

    Returns:
        The new text; ``None`` where the page has no such section.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, opened, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    return f"{before}{start}\n{content}\n{end}{after}" if opened and closed else None


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file; an empty one where there is none, or anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def copy(source: Path, destination: Path) -> None:
    """Copy a file's content, as `write` does."""
    write(destination, source.read_bytes())


def sha256(path: Path) -> str | None:
    """Return the SHA-256 of a file as hexadecimal digits, or None where there is no file."""
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def digest_of(value: Any) -> str:
    """Return the SHA-256 of plain values, the same for equal mappings in any order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def remove_parts(folder: Path) -> None:
    """Remove what killed processes left half written in a folder that nobody else writes into."""
    for part in folder.rglob(f"*{PART}"):
        if part.is_file() and not part.is_symlink():
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder that is gone after the block; one of a killed process goes with `sweep_temporary`."""
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    try:
        with (folder / _ALIVE).open("w") as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_temporary() -> None:
    """Remove the temporary folders of killed processes of this user."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            with (folder / _ALIVE).open("r+") as alive:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file in the block; yields False at once where another process holds it.

    The kernel gives the lock up when its process dies, however it dies. The file stays.

    Args:
        path: of the file.
        wait: rather wait until the other one is done, and yield True in any case.
    """
    with path.open("a+") as lock:
        alone = False
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            alone = True
        yield alone
