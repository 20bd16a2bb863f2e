"""An autopilot on a loopback socket hears heartbeats, time and targets, in its frame, with right stamps."""

import math

import numpy as np
import pytest

pytest.importorskip("pymavlink")

from support.autopilot import Autopilot, wait_until
from yolo_autonomy.landing import Sight
from yolo_autonomy.mavlink import Link, LinkError, TimeSync

MS = 1_000_000
STAMP_NS = 1_700_000_000_123_456_789


class Clock:
    """Stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.ns = STAMP_NS

    def __call__(self) -> int:
        return self.ns


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["px4", "ardupilot"])
def pair(request, clock):
    """An autopilot and a link that heard it."""
    autopilot = Autopilot(request.param)
    link = Link(autopilot.address, clock)
    meet(autopilot, link, clock)
    yield autopilot, link
    link.close()
    autopilot.close()


def meet(autopilot, link, clock) -> None:
    def step():
        clock.ns += MS
        link.pump()
        if autopilot.of("HEARTBEAT"):
            autopilot.beat()

    assert wait_until(lambda: link.heard, step)


def sight(local=(3.0, 4.0, -1.0), distance=20.0) -> Sight:
    body = np.array([0.6, -0.48, 0.64])
    return Sight(STAMP_NS, body, distance, None if local is None else np.array(local), (0.1, 0.05))


def received(autopilot, kind):
    assert wait_until(lambda: autopilot.of(kind), lambda: None)
    return autopilot.of(kind)[-1]


def test_it_is_an_onboard_computer_of_the_vehicle_and_says_so_once_a_second(pair, clock):
    autopilot, link = pair
    begun = clock.ns
    before = len(autopilot.of("HEARTBEAT"))
    for _ in range(50):
        clock.ns += 100 * MS
        link.pump()
    assert wait_until(lambda: len(autopilot.of("HEARTBEAT")) >= before + 5, lambda: None)
    beats = autopilot.of("HEARTBEAT")
    assert len(beats) - before == round((clock.ns - begun) / 1e9)
    last = beats[-1]
    assert (last.get_srcSystem(), last.get_srcComponent()) == (1, 191)
    assert (last.type, last.autopilot) == (18, 8)  # onboard controller, invalid


def test_the_target_is_in_the_frame_that_the_autopilot_takes_with_the_images_stamp(pair):
    autopilot, link = pair
    link.send_landing_target(sight())
    message = received(autopilot, "LANDING_TARGET")
    assert message.time_usec == STAMP_NS // 1000
    assert message.position_valid == 1
    if link.autopilot == "px4":
        assert message.frame == 1  # MAV_FRAME_LOCAL_NED
        assert (message.x, message.y, message.z) == (3.0, 4.0, -1.0)
    else:
        assert message.frame == 12  # MAV_FRAME_BODY_FRD
        assert (message.x, message.y, message.z) == pytest.approx((12.0, -9.6, 12.8))
        # What AC_PrecLand makes of it: the line of sight.
        assert np.linalg.norm((message.x, message.y, message.z)) == pytest.approx(message.distance)
    assert (message.angle_x, message.angle_y) == pytest.approx(
        (math.atan2(-0.48, 0.64), math.atan2(-0.6, 0.64))
    )
    assert message.distance == 20.0
    assert (message.size_x, message.size_y) == pytest.approx((0.1, 0.05))


@pytest.mark.parametrize("forced", ["px4", "ardupilot"])
def test_without_a_place_only_the_angles_count(pair, forced):
    autopilot, link = pair
    link.send_landing_target(sight(local=None, distance=0.0), forced)
    assert received(autopilot, "LANDING_TARGET").position_valid == 0


def test_the_ground_stations_rectangle_is_in_shares_of_the_picture_and_ends_with_the_target(pair):
    autopilot, link = pair
    link.send_tracking((320.0, 120.0, 64.0, 480.0), (640, 480))
    message = received(autopilot, "CAMERA_TRACKING_IMAGE_STATUS")
    assert (message.tracking_status, message.tracking_mode, message.target_data) == (1, 2, 4)
    corners = (message.rec_top_x, message.rec_top_y, message.rec_bottom_x, message.rec_bottom_y)
    assert corners == pytest.approx((0.45, 0.0, 0.55, 0.75))
    assert math.isnan(message.point_x)
    link.send_tracking(None)
    assert wait_until(lambda: len(autopilot.of("CAMERA_TRACKING_IMAGE_STATUS")) == 2, lambda: None)
    assert autopilot.heard[-1].tracking_status == 0


def test_times_of_the_autopilot_become_ours_by_timesync(pair, clock):
    autopilot, link = pair
    boot = 90_000 * MS  # the autopilot's clock when ours was STAMP_NS

    def step():
        clock.ns += 10 * MS
        link.pump()
        for request in autopilot.of("TIMESYNC"):
            if request.tc1 == 0:
                autopilot.mav.timesync_send(boot + request.ts1 - STAMP_NS, request.ts1)
        autopilot.heard.clear()

    assert wait_until(lambda: link.sync.offset_ns is not None, step)
    # Half a round trip at most, whose way there and back is one step.
    assert abs(link.sync.offset_ns - (boot - STAMP_NS)) <= 20 * MS
    at = (clock.ns - STAMP_NS + boot) // MS - 40
    autopilot.fly(at, (1.0, 2.0, -3.0), (0.1, 0.2, 0.3))
    asked = clock.ns - 40 * MS
    assert wait_until(lambda: link.vehicle.position.at(asked) is not None, link.pump)
    assert link.vehicle.position.at(asked).tolist() == [1.0, 2.0, -3.0]
    assert link.vehicle.attitude.at(asked) == pytest.approx([0.1, 0.2, 0.3], abs=1e-6)
    # The autopilot asks in its turn, and is told our time.
    autopilot.mav.timesync_send(0, 4711)
    assert wait_until(lambda: [m for m in autopilot.of("TIMESYNC") if m.ts1 == 4711], link.pump)
    assert autopilot.heard[-1].tc1 == clock.ns


def test_only_the_vehicles_autopilot_is_believed(clock):
    autopilot, link = Autopilot("px4", component=47), None
    try:
        link = Link(autopilot.address, clock)
        sent = []

        def step():
            clock.ns += 1000 * MS
            link.pump()
            if autopilot.of("HEARTBEAT"):
                autopilot.beat()
                autopilot.fly(1)
                sent.append(1)

        assert wait_until(lambda: len(sent) > 20, step)
        assert not link.heard
        assert link.vehicle.position.at(clock.ns) is None
    finally:
        if link is not None:
            link.close()
        autopilot.close()


def test_bytes_that_are_no_messages_are_survived(pair, clock):
    autopilot, link = pair
    rng = np.random.default_rng(0)
    for _ in range(50):
        autopilot._end.write(rng.bytes(60))
    autopilot.mav.attitude_send(1, math.nan, 0.0, 0.0, 0.0, 0.0, 0.0)

    def step():
        # What looks like a beginning swallows what follows, up to its length.
        autopilot.mav.local_position_ned_send(1, 5.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        clock.ns += MS
        link.pump()

    assert wait_until(lambda: link.vehicle.position.at(clock.ns) is not None, step)
    assert link.vehicle.attitude.at(clock.ns) is None


@pytest.mark.parametrize(
    "text", ["", "flight.tlog", "udpin:0.0.0.0", "/etc/../x y", "exec:reboot", "udpin::1"]
)
def test_a_connection_that_means_nothing_is_refused_with_what_is_accepted(text, clock):
    with pytest.raises(LinkError, match=r"it must be udpin:HOST:PORT"):
        Link(text, clock)


def test_a_device_that_is_not_there_is_tried_again_and_said_once(clock):
    said = []
    link = Link("/dev/no_such_device", clock, log=said.append)
    for _ in range(5):
        clock.ns += 1000 * MS
        link.pump()
        link.send_landing_target(sight())
    assert len(said) == 1
    assert said[0].startswith("/dev/no_such_device: ")
    assert said[0].endswith("trying again every 1 s")


def test_the_quickest_answer_sets_the_clock_and_absurd_ones_do_not():
    sync = TimeSync()
    assert sync.ours(5, 77) == 77
    sync.answered(0, 1_000_000, 50 * MS)
    sync.answered(100 * MS, 100 * MS + 3_000_000, 102 * MS)
    sync.answered(200 * MS, 0, 100 * MS)  # before it was asked
    sync.answered(0, 0, 9_000 * MS)  # nine seconds on the way
    assert sync.offset_ns == 2_000_000
    assert sync.ours(1002, 1001 * MS) == 1000 * MS
    assert sync.ours(900_000, 1001 * MS) == 1001 * MS  # nonsense: when it came
    sync.answered(0, 10_000 * MS, 2 * MS)  # the autopilot started again
    assert sync.offset_ns == 9_999 * MS
