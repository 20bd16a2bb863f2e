"""The newest frame wins."""

import threading

from yolo_trt_node.node.worker import Worker


def test_while_one_is_handled_only_the_newest_waits_and_the_rest_are_counted():
    handled, entered, go_on = [], threading.Event(), threading.Event()

    def handle(items):
        handled.extend(item for _, item in items)
        entered.set()
        assert go_on.wait(10)

    worker = Worker(handle)
    worker.put(0, 0)
    assert entered.wait(10)
    displaced = [worker.put(0, item) for item in range(1, 6)]
    assert displaced == [False, True, True, True, True]
    entered.clear()
    go_on.set()
    assert entered.wait(10)
    worker.stop()
    assert handled == [0, 5]


def test_stop_waits_for_the_frame_in_hand_and_gives_up_the_one_that_waits():
    handled, entered, go_on = [], threading.Event(), threading.Event()

    def handle(items):
        entered.set()
        go_on.wait(10)
        handled.extend(item for _, item in items)

    worker = Worker(handle)
    worker.put(0, "in hand")
    assert entered.wait(10)
    worker.put(0, "waiting")
    threading.Timer(0.1, go_on.set).start()
    worker.stop()
    assert handled == ["in hand"]
