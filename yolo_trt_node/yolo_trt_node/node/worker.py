"""The newest frame wins: a slot of one, and a thread that empties it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Frame = TypeVar("Frame")


class NewestFirst(Generic[Frame]):
    """Hands the newest item to a handler in a thread of its own; older ones are dropped, never queued.

    `put` returns at once, so that the executor that receives images stays free for services.
    """

    def __init__(self, handle: Callable[[Frame], None]) -> None:
        """Start the thread; `handle` is called in it and must not raise."""
        self._handle = handle
        self._condition = threading.Condition()
        self._newest: Frame | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def put(self, frame: Frame) -> bool:
        """Leave a frame for the thread; return whether it displaced one that was still waiting."""
        with self._condition:
            displaced = self._newest is not None
            self._newest = frame
            self._condition.notify()
        return displaced

    def stop(self) -> None:
        """End the thread after the frame in hand; one that waits is given up."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._newest is not None)
                if self._stopping:
                    return
                frame, self._newest = self._newest, None
            if frame is not None:
                self._handle(frame)
