"""How far an offline run is."""

from __future__ import annotations

import sys
import time

_TERMINAL_PERIOD_S = 0.5
_LOG_PERIOD_S = 10.0


class ProgressLine:
    """Says how far it is: on a terminal in one line, in a log now and then."""

    def __init__(self, total: int, done: int, backend: str) -> None:
        """Begin to count."""
        self._total = total
        self._first = done
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = self._start
        if done:
            print(f"going on after {done} of {total} images, on {backend}", file=sys.stderr)
        else:
            print(f"{total} images, on {backend}", file=sys.stderr)

    def show(self, done: int) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._shown > (_TERMINAL_PERIOD_S if self._terminal else _LOG_PERIOD_S):
            self._shown = now
            self._print(done)

    def end(self, done: int) -> None:
        """Say how far it came."""
        self._print(done)
        if self._terminal:
            print(file=sys.stderr)

    def _print(self, done: int) -> None:
        speed = (done - self._first) / max(1e-9, time.monotonic() - self._start)
        text = f"{done}/{self._total} images, {speed:.1f} a second"
        if done < self._total and speed:
            text += f", {(self._total - done) / speed:.0f} s to go"
        if self._terminal:
            text = f"\r  {text}   "
        print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)
