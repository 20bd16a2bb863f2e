"""How programs end on SIGINT and SIGTERM; no ROS."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType

# A container stops its processes with SIGTERM; a script's background job inherits an ignored SIGINT.
_BOTH = (signal.SIGINT, signal.SIGTERM)


def interrupted_once() -> None:
    """Let the first signal raise KeyboardInterrupt, and nothing follow it.

    Ctrl-C reaches the process from the terminal and again from ``ros2``; the second must not cut short what
    the first one began.
    """

    def stop(_number: int, _frame: FrameType | None) -> None:
        for number in _BOTH:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in _BOTH:
        signal.signal(number, stop)


def stop_flag(*, second_ends: bool = True) -> Callable[[], bool]:
    """Return a function that says whether a signal has come, for loops that end by themselves.

    rclpy's own handlers shut the context down beside the running executor, which has been seen to hang in
    Fast DDS.

    Args:
        second_ends: whether a second signal ends the process at once.
    """
    come = False

    def stop(number: int, _frame: FrameType | None) -> None:
        nonlocal come
        come = True
        if second_ends:
            signal.signal(number, signal.SIG_DFL)

    for number in _BOTH:
        signal.signal(number, stop)
    return lambda: come
