"""What becomes of a camera's images adds up."""

import threading

import pytest
from yolo_trt_node.health.statistics import OTHER_REASONS, REASONS_KEPT, CameraStatistics, TrafficWindow


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_window_holds_rates_ages_stages_and_reasons(clock):
    camera = CameraStatistics(clock)
    for index in range(20):
        clock.now += 0.1
        camera.received(stamp_s=5.0 + index)
    camera.dropped()
    camera.lost(3)
    camera.skipped("nobody listens")
    camera.unreadable("encoding 'x' is not supported")
    for age in range(1, 11):
        camera.published(age / 10, {"inference": age / 100, "decode": 0.001}, boxes=2)

    window = camera.window()

    assert window.duration_s == pytest.approx(2.0)
    assert (window.received, window.published, window.dropped, window.lost) == (20, 10, 1, 3)
    assert window.boxes == 20
    assert window.input_hz == pytest.approx(10.0)
    assert window.output_hz == pytest.approx(5.0)
    assert window.skipped == {"nobody listens": 1}
    assert window.unreadable == {"encoding 'x' is not supported": 1}
    assert window.age_s(50) == pytest.approx(0.55)
    assert window.age_s(95) == pytest.approx(0.955)
    assert window.stage_s("inference") == pytest.approx(0.055)
    assert window.stage_s("decode", 95) == pytest.approx(0.001)
    assert window.stage_s("no such stage") is None
    assert window.longest_gap_s == pytest.approx(0.1)
    assert window.silent_s == pytest.approx(0.0)
    assert window.stamp_s == 24.0


def test_each_window_starts_anew_but_remembers_the_last_image(clock):
    camera = CameraStatistics(clock)
    assert camera.window().silent_s is None
    camera.received(1.0)
    clock.now += 1
    camera.window()
    clock.now += 3

    window = camera.window()

    assert window.received == 0
    assert window.duration_s == pytest.approx(3.0)
    assert window.silent_s == window.longest_gap_s == pytest.approx(4.0)
    assert window.age_s(50) is None
    assert window.stamp_s == 1.0


def test_windows_add_up_to_what_one_long_window_holds(clock):
    def fly(cut: bool) -> TrafficWindow:
        clock.now = 0.0
        camera = CameraStatistics(clock)
        total = TrafficWindow()
        for index in range(12):
            clock.now += 0.25 if index != 7 else 2.0
            camera.received(float(index // 2))
            camera.published(index / 10, {"inference": index / 100}, boxes=index)
            camera.lost(index)
            camera.skipped("rate") if index % 3 else camera.unreadable("broken")
            if cut and index % 4 == 3:
                total += camera.window()
        return total + camera.window()

    assert fly(cut=True) == fly(cut=False)


def test_stamps_that_repeat_or_go_back_are_counted_across_windows(clock):
    camera = CameraStatistics(clock)
    for stamp in (5.0, 5.0, 6.0):
        camera.received(stamp)
    first = camera.window()
    for stamp in (6.0, 2.0):
        camera.received(stamp)
    second = camera.window()

    assert (first.stamps_repeated, first.stamps_backwards) == (1, 0)
    assert (second.stamps_repeated, second.stamps_backwards) == (1, 1)


def test_reasons_without_end_take_bounded_memory():
    camera = CameraStatistics()
    for index in range(1000):
        camera.unreadable(f"{index} bytes of data")

    reasons = camera.window().unreadable

    assert len(reasons) == REASONS_KEPT + 1
    assert reasons[OTHER_REASONS] == 1000 - REASONS_KEPT


def test_nothing_is_lost_between_threads():
    camera = CameraStatistics()
    windows = []

    def work():
        for _ in range(500):
            camera.received(1.0)
            camera.published(0.1, {"inference": 0.1}, 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        windows.append(camera.window())
    windows.append(camera.window())

    assert sum(window.received for window in windows) == 2000
    assert sum(len(window.ages_s) for window in windows) == 2000
