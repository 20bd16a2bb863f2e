"""The one exception that the command line turns into a message instead of a traceback."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path


class UserError(Exception):
    """Something that the person at the keyboard can put right; the message says what, where and how."""


@contextlib.contextmanager
def explained_disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a full disk or a folder without permission raises within the block into a ``UserError``.

    Args:
        folder: where the block writes, for the message.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"the disk of {folder} is full ({error.strerror}); what was finished is kept: make room, and "
                "the same command goes on from there"
            ) from error
        if error.errno == errno.ENOENT and not folder.exists():
            raise UserError(f"the folder {folder} vanished while it was in use") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise UserError(
                f"cannot write {error.filename or folder}: {error.strerror}; "
                "choose another output folder or mend its permissions"
            ) from error
        raise
