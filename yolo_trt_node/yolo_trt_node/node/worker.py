"""The newest frame of each camera wins: a slot of one for each, and a thread that empties them in turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Worker(Generic[Item]):
    """Hands the newest items of several sources to a handler in a thread of its own.

    `put` returns at once, so that the executor that receives images stays free for services. A source's item
    displaces the one that still waits there; nothing is queued. The source whose slot has been full longest
    comes first, however fast the others are.
    """

    def __init__(
        self,
        handle: Callable[[Sequence[tuple[int, Item]]], None],
        *,
        sources: int = 1,
        batch: int = 1,
        window_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """Start the thread.

        Args:
            handle: called in the thread with (source, item) pairs, the longest waiting first; must not raise.
            sources: how many there are; they are known by their numbers from 0.
            batch: at most so many sources are handed over at once.
            window_s: how long, in seconds, the first item may wait for those of the other sources.
        """
        self._handle = handle
        self._batch = min(batch, sources)
        self._window_s = window_s
        self._condition = threading.Condition()
        # In the order in which the slots became full: a dict keeps it, and a displaced item keeps its turn.
        self._waiting: dict[int, Item] = {}
        self._first_at = 0.0
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="inference", daemon=True)
        self._thread.start()

    def put(self, source: int, item: Item) -> bool:
        """Leave an item for the thread; return whether it displaced one that was still waiting."""
        with self._condition:
            displaced = source in self._waiting
            if not self._waiting:
                self._first_at = time.monotonic()
            self._waiting[source] = item
            self._condition.notify()
        return displaced

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """End the thread after the items in hand; those that wait are given up."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()

    def _enough(self) -> bool:
        return len(self._waiting) >= self._batch

    def _work(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._waiting)
                if not self._enough():
                    left = self._first_at + self._window_s() - time.monotonic()
                    self._condition.wait_for(lambda: self._stopping or self._enough(), left)
                if self._stopping:
                    return
                taken = [(source, self._waiting.pop(source)) for source in list(self._waiting)[: self._batch]]
                self._first_at = time.monotonic()
            self._handle(taken)
