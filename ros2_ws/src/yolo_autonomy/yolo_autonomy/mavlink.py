"""A MAVLink connection to an autopilot: heartbeat, time, and what is seen; needs pymavlink, and no ROS."""

from __future__ import annotations

import math
import os
import re
from collections import deque
from collections.abc import Callable
from typing import Any

from yolo_autonomy.landing import Sight, Vehicle
from yolo_autonomy.parameters import Table

PARAMETERS: Table = {
    "connection": (
        "udpin:0.0.0.0:14540",
        "Where the autopilot is: udpin:HOST:PORT (wait for it there), udpout:HOST:PORT, tcp:HOST:PORT, "
        "tcpin:HOST:PORT, or a serial device such as /dev/ttyTHS1.",
    ),
    "baud": (921600, "Of a serial device."),
    "system_id": (1, "MAVLink system id of the vehicle, 1 to 255; ours is the same."),
    "autopilot": ("auto", "px4, ardupilot, or auto: what its heartbeat says."),
    "rate_hz": (20.0, "Most LANDING_TARGET messages a second, 0.1 to 100."),
    "tracking_rate_hz": (5.0, "Most CAMERA_TRACKING_IMAGE_STATUS messages a second, 0 to 50; 0: none."),
    "camera_pitch_deg": (-90.0, "Of the camera: 0 looks forward, -90 down with the image's top forward."),
    "camera_yaw_deg": (0.0, "Of the camera, to the right; of one that looks down, clockwise."),
    "camera_roll_deg": (0.0, "Of the camera about its line of sight."),
    "camera_offset": ([0.0, 0.0, 0.0], "Of the camera from the body's centre: forward, right, down, metres."),
    "distance_from": (
        "position",
        "position: the autopilot's height above its origin; rangefinder: one that looks down "
        "(DISTANCE_SENSOR); size: of the target; none: only angles are sent.",
    ),
    "target_height": (0.0, "Height of the target above the origin or the ground, metres."),
    "target_size": (1.0, "For distance_from: size, the target's longer side, metres."),
}
TOPICS = ("target", "target_state", "camera_info")

HEARTBEAT_NS = 1_000_000_000
# TIMESYNC goes out often until an answer came, then rarely.
_SYNC_SOON_NS, _SYNC_NS = 100_000_000, 1_000_000_000
_RETRY_NS = 1_000_000_000
_AUTOPILOT_COMPONENT = 1
_ONBOARD_COMPUTER = 191
_DOWNWARD = 25  # MAV_SENSOR_ROTATION_PITCH_270
_KNOWN = {3: "ardupilot", 12: "px4"}
# mavlink_connection would take any other text for a log file or a program.
_CONNECTION = re.compile(r"(udpin|udpout|udpbcast|tcp|tcpin):[\w.\-]+:\d{1,5}|/dev/[\w./\-]+|COM\d+")


class LinkError(ValueError):
    """The connection cannot be made; the message says why."""


class TimeSync:
    """The offset between the autopilot's clock and ours, from TIMESYNC's answers."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._answers: deque[tuple[int, int]] = deque(maxlen=10)

    def answered(self, sent_ns: int, theirs_ns: int, now_ns: int) -> None:
        """Take an answer: when we asked, their time, and when it came; absurd ones are left out."""
        round_trip = now_ns - sent_ns
        if not 0 <= round_trip < 1_000_000_000:
            return
        offset = theirs_ns - (sent_ns + round_trip // 2)
        if self._answers and abs(offset - self._answers[-1][1]) > 100_000_000:
            self._answers.clear()  # the autopilot, or our clock, started again
        self._answers.append((round_trip, offset))

    @property
    def offset_ns(self) -> int | None:
        """Their time less ours, by the quickest of the last answers."""
        return min(self._answers)[1] if self._answers else None

    def ours(self, boot_ms: int, now_ns: int) -> int:
        """Return our time of a message that bears theirs; when it came where theirs means nothing yet."""
        offset = self.offset_ns
        if offset is None:
            return now_ns
        time_ns = boot_ms * 1_000_000 - offset
        return time_ns if abs(now_ns - time_ns) < 2_000_000_000 else now_ns


class Link:
    """One connection; it mends itself when it breaks.

    Args:
        connection: as in `PARAMETERS`.
        clock: our time in nanoseconds, that of the images' stamps.
        system_id: of the vehicle.
        baud: of a serial device.
        log: told in words what happens.

    Raises:
        LinkError: pymavlink is missing, or the connection's text means nothing.
    """

    def __init__(
        self,
        connection: str,
        clock: Callable[[], int],
        *,
        system_id: int = 1,
        baud: int = 921600,
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Connect."""
        if not _CONNECTION.fullmatch(connection):
            raise LinkError(
                f"connection is {connection!r}; it must be udpin:HOST:PORT, udpout:HOST:PORT, tcp:HOST:PORT, "
                "tcpin:HOST:PORT or a serial device such as /dev/ttyTHS1"
            )
        # LANDING_TARGET's position and CAMERA_TRACKING_IMAGE_STATUS exist in MAVLink 2 only.
        os.environ["MAVLINK20"] = "1"
        try:
            from pymavlink import mavutil
        except ImportError as error:
            raise LinkError(f"pymavlink cannot be imported ({error}): pip install pymavlink") from error
        self._mavutil = mavutil
        self._text = connection
        self._clock = clock
        self._system = system_id
        self._baud = baud
        self._log = log
        self._peer: Any = None
        self._tried_ns = -_RETRY_NS
        self._beat_ns = self._asked_ns = 0
        self._complained = ""
        self.sync = TimeSync()
        self.vehicle = Vehicle()
        self.autopilot = ""
        self._connect()

    @property
    def heard(self) -> bool:
        """Whether the autopilot's heartbeat was heard."""
        return bool(self.autopilot)

    def close(self) -> None:
        """Hang up."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def pump(self) -> None:
        """Read what came, and send what is due; call it often."""
        now = self._clock()
        if self._peer is None:
            if abs(now - self._tried_ns) < _RETRY_NS:
                return
            self._connect()
            if self._peer is None:
                return
        if not 0 <= now - self._beat_ns < HEARTBEAT_NS:
            self._beat_ns = now
            mav = self._mavutil.mavlink
            self._send(
                lambda out: out.heartbeat_send(
                    mav.MAV_TYPE_ONBOARD_CONTROLLER, mav.MAV_AUTOPILOT_INVALID, 0, 0, mav.MAV_STATE_ACTIVE
                )
            )
        wait = _SYNC_SOON_NS if self.sync.offset_ns is None else _SYNC_NS
        if self.heard and not 0 <= now - self._asked_ns < wait:
            self._asked_ns = now
            self._send(lambda out: out.timesync_send(0, now))
        for _ in range(500):  # a flood must not keep us here
            message = self._receive()
            if message is None:
                return
            if message.get_srcSystem() == self._system and message.get_srcComponent() == _AUTOPILOT_COMPONENT:
                self._take(message)

    def send_landing_target(self, sight: Sight, autopilot: str = "") -> None:
        """Send LANDING_TARGET with the image's stamp, in the frame that the autopilot takes.

        Args:
            sight: of the target.
            autopilot: ``px4`` or ``ardupilot``; empty: what the heartbeat said.
        """
        mav = self._mavutil.mavlink
        angle_x, angle_y = sight.angles
        place, frame = None, mav.MAV_FRAME_BODY_FRD
        if (autopilot or self.autopilot) == "px4":
            place, frame = sight.local, mav.MAV_FRAME_LOCAL_NED
        elif sight.distance > 0:
            place = sight.body * sight.distance
        x, y, z = (0.0, 0.0, 0.0) if place is None else place.tolist()
        self._send(
            lambda out: out.landing_target_send(
                sight.stamp_ns // 1000, 0, frame, angle_x, angle_y, sight.distance, *sight.size,
                x, y, z, (1.0, 0.0, 0.0, 0.0), mav.LANDING_TARGET_TYPE_VISION_OTHER, int(place is not None),
            )
        )  # fmt: skip

    def send_tracking(
        self, box: tuple[float, float, float, float] | None, size: tuple[int, int] = (1, 1)
    ) -> None:
        """Send CAMERA_TRACKING_IMAGE_STATUS: the target's rectangle for the ground station's picture.

        Args:
            box: center x, center y, width, height in pixels; None: nothing is tracked.
            size: the image's width and height in pixels.
        """
        mav = self._mavutil.mavlink
        corners: tuple[float, ...] = (math.nan,) * 4
        if box is not None:
            x, y, width, height = box
            edges = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            shares = (edge / side for edge, side in zip(edges, size * 2, strict=True))
            corners = tuple(min(1.0, max(0.0, share)) for share in shares)
        tracked = box is not None
        self._send(
            lambda out: out.camera_tracking_image_status_send(
                mav.CAMERA_TRACKING_STATUS_FLAGS_ACTIVE if tracked else mav.CAMERA_TRACKING_STATUS_FLAGS_IDLE,
                mav.CAMERA_TRACKING_MODE_RECTANGLE if tracked else mav.CAMERA_TRACKING_MODE_NONE,
                mav.CAMERA_TRACKING_TARGET_DATA_IN_STATUS if tracked else 0,
                math.nan, math.nan, math.nan, *corners,
            )
        )  # fmt: skip

    def _connect(self) -> None:
        self._tried_ns = self._clock()
        try:
            self._peer = self._mavutil.mavlink_connection(
                self._text, baud=self._baud, source_system=self._system, source_component=_ONBOARD_COMPUTER,
                dialect="common", autoreconnect=False, retries=1,
            )  # fmt: skip
        except (OSError, ImportError) as error:
            self._complain(f"{self._text}: {error}")
            return
        self._complained = ""

    def _complain(self, text: str) -> None:
        if text != self._complained:
            self._complained = text
            self._log(f"{text}; trying again every {_RETRY_NS / 1e9:g} s")

    def _broke(self, error: Exception) -> None:
        self._complain(f"{self._text}: {error}")
        self.close()
        self._tried_ns = self._clock()

    def _send(self, send: Callable[[Any], None]) -> None:
        if self._peer is None:
            return
        try:
            send(self._peer.mav)
        except OSError as error:
            self._broke(error)

    def _receive(self) -> Any:
        if self._peer is None:
            return None
        try:
            return self._peer.recv_msg()
        except OSError as error:
            self._broke(error)
        except self._mavutil.mavlink.MAVError:
            return None  # bytes that are no message
        return None

    def _take(self, message: Any) -> None:
        kind, now = message.get_type(), self._clock()
        if kind == "HEARTBEAT":
            if not self.heard:
                self.autopilot = _KNOWN.get(message.autopilot, "other")
                self._log(f"{self._text}: heard an autopilot ({self.autopilot})")
        elif kind == "TIMESYNC":
            if message.tc1 == 0:
                self._send(lambda out: out.timesync_send(now, message.ts1))
            else:
                self.sync.answered(message.ts1, message.tc1, now)
        elif kind == "ATTITUDE":
            time_ns = self.sync.ours(message.time_boot_ms, now)
            self.vehicle.attitude.add(time_ns, (message.roll, message.pitch, message.yaw))
        elif kind == "LOCAL_POSITION_NED":
            time_ns = self.sync.ours(message.time_boot_ms, now)
            self.vehicle.position.add(time_ns, (message.x, message.y, message.z))
        elif (
            kind == "DISTANCE_SENSOR"
            and message.orientation == _DOWNWARD
            and message.min_distance <= message.current_distance <= message.max_distance
        ):
            time_ns = self.sync.ours(message.time_boot_ms, now)
            self.vehicle.height.add(time_ns, (message.current_distance / 100,))
