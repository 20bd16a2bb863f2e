"""The newest frame of each source wins, and the sources take turns."""

import threading
import time

import pytest
from yolo_trt_node.node.worker import Worker


class Held:
    """A handler that stops in each call until it is let go, and notes what it was given."""

    def __init__(self):
        self.handled = []
        self.entered = threading.Semaphore(0)
        self._go_on = threading.Semaphore(0)

    def __call__(self, items):
        self.handled.append(list(items))
        self.entered.release()
        assert self._go_on.acquire(timeout=10)

    def wait(self):
        assert self.entered.acquire(timeout=10)

    def release(self, times=1):
        for _ in range(times):
            self._go_on.release()


@pytest.fixture
def held():
    return Held()


def test_while_one_is_handled_only_the_newest_waits_and_the_rest_are_counted(held):
    worker = Worker(held)
    worker.put(0, "first")
    held.wait()
    displaced = [worker.put(0, item) for item in range(1, 6)]
    assert displaced == [False, True, True, True, True]
    held.release()
    held.wait()
    held.release()
    worker.stop()
    assert held.handled == [[(0, "first")], [(0, 5)]]


def test_stop_waits_for_the_frame_in_hand_and_gives_up_the_one_that_waits(held):
    worker = Worker(held)
    worker.put(0, "in hand")
    held.wait()
    worker.put(0, "waiting")
    threading.Timer(0.1, held.release).start()
    worker.stop()
    assert held.handled == [[(0, "in hand")]]
    assert not worker.alive


def test_the_source_that_waits_longest_comes_first_however_fast_the_others_are(held):
    worker = Worker(held, sources=3)
    worker.put(0, "a0")
    held.wait()
    turns = []
    for turn in range(9):
        # Source 0 is ten times as fast as the others, and always the first to have something new.
        for source in (*[0] * 10, 1, 2):
            worker.put(source, f"{source}.{turn}")
        held.release()
        held.wait()
        turns.append(held.handled[-1][0][0])
    held.release()
    worker.stop()
    assert sorted(turns[:3]) == [0, 1, 2]
    assert turns == turns[:3] * 3


def test_a_displaced_item_keeps_its_turn(held):
    worker = Worker(held, sources=2)
    worker.put(1, "busy")
    held.wait()
    worker.put(0, "old")
    worker.put(1, "other")
    worker.put(0, "new")
    held.release(3)
    held.wait()
    held.wait()
    worker.stop()
    assert held.handled[1:] == [[(0, "new")], [(1, "other")]]


def test_what_waits_together_goes_together_up_to_the_batch(held):
    worker = Worker(held, sources=3, batch=2)
    worker.put(0, "busy")
    held.wait()
    for source in (2, 0, 1):
        worker.put(source, f"of {source}")
    held.release(3)
    held.wait()
    held.wait()
    worker.stop()
    assert held.handled[1:] == [[(2, "of 2"), (0, "of 0")], [(1, "of 1")]]


def test_the_first_waits_for_the_others_within_the_window(held):
    worker = Worker(held, sources=2, batch=2, window_s=lambda: 5.0)
    worker.put(0, "left")
    threading.Timer(0.05, worker.put, (1, "right")).start()
    held.wait()
    assert held.handled == [[(0, "left"), (1, "right")]]
    held.release()
    worker.stop()


def test_the_first_waits_no_longer_than_the_window(held):
    worker = Worker(held, sources=2, batch=2, window_s=lambda: 0.1)
    started = time.monotonic()
    worker.put(0, "alone")
    held.wait()
    assert 0.09 < time.monotonic() - started < 5
    assert held.handled == [[(0, "alone")]]
    held.release()
    worker.stop()


def test_without_a_batch_nobody_waits_for_the_others(held):
    worker = Worker(held, sources=2, batch=1, window_s=lambda: 60.0)
    worker.put(0, "alone")
    held.wait()
    held.release()
    worker.stop()


def test_a_stop_during_the_window_gives_up_what_waits(held):
    worker = Worker(held, sources=2, batch=2, window_s=lambda: 60.0)
    worker.put(0, "alone")
    worker.stop()
    assert held.handled == []
