"""The one exception that the command line turns into a message instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Something that the person at the keyboard can put right; the message says what, where and how."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG,
    errno.ELOOP, errno.EFBIG, errno.EIO,
)  # fmt: skip
_DISK = (*_FULL, *_REFUSED)


@contextlib.contextmanager
def explained_failures(stage: str, log: Path) -> Iterator[None]:
    """Turn what a library raises within the block into one ``UserError``; its traceback goes into a file.

    Args:
        stage: what was being done, for the message.
        log: file that receives the traceback.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Ultralytics raises whatever it meets
        if isinstance(error, OSError) and error.errno in _DISK:
            raise  # `explained_disk_errors` knows what to say
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(traceback.format_exc(), encoding="utf-8", errors="replace")
        text = " ".join(str(error).split())
        what = f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
        raise UserError(
            f"{stage}: {what}; the traceback is in {log}. `yolo-compress doctor` with the same recipe checks "
            "machine, models and data; the same command goes on from the last finished epoch"
        ) from error


@contextlib.contextmanager
def explained_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a folder without permission raises within the block into a ``UserError``.

    Args:
        folder: where the block writes, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise UserError(
                f"the disk of {folder} is full ({error.strerror}); what was finished is kept: make room, and "
                "the same command goes on from there"
            ) from error
        if error.errno == errno.ENOENT and not folder.exists():
            raise UserError(
                f"the folder {folder} is not there: it vanished while it was in use, or cannot be made"
            ) from error
        if error.errno in _REFUSED:
            raise UserError(
                f"cannot write {error.filename or folder}: {error.strerror}; "
                "choose another output folder or mend its permissions"
            ) from error
        raise
