"""Ctrl-C during a stage, wherever in it Python just is."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

# Set by Ctrl-C during a stage. Not the trainer's: its attributes are pickled for a distributed one.
_INTERRUPTED = threading.Event()


@contextlib.contextmanager
def interrupts_heard() -> Iterator[None]:
    """Remember a Ctrl-C inside the block, for `end_if_interrupted`; blocks may be nested.

    KeyboardInterrupt is raised wherever Python just is. In a finaliser, as data loaders have, it is dropped
    with a traceback that helps nobody, and the work would go on.
    """
    before, complain = signal.getsignal(signal.SIGINT), sys.unraisablehook
    # Only the main thread may set a handler; and who ignores the signal wants it ignored.
    if (
        threading.current_thread() is not threading.main_thread()
        or not callable(before)
        or getattr(before, "remembers", False)
    ):
        yield
        return

    def note(number: int, frame: FrameType | None) -> None:
        _INTERRUPTED.set()
        before(number, frame)

    def complain_of_others(dropped: sys.UnraisableHookArgs) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            complain(dropped)

    _INTERRUPTED.clear()
    note.remembers = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGINT, note)
    sys.unraisablehook = complain_of_others
    try:
        yield
    finally:
        sys.unraisablehook = complain
        signal.signal(signal.SIGINT, before)


def end_if_interrupted() -> None:
    """Raise the KeyboardInterrupt that was dropped, if one was."""
    if _INTERRUPTED.is_set():
        raise KeyboardInterrupt
