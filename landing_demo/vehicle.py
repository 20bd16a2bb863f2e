"""A multicopter with simple dynamics, and the part of an autopilot that lands it by LANDING_TARGET."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field

import numpy as np
from yolo_autonomy.frames import Floats, turn
from yolo_autonomy.landing import History

os.environ["MAVLINK20"] = "1"

from pymavlink import mavutil

GRAVITY = 9.81
STEP_S = 0.02
BOOT_S = 100.0
"""What the autopilot's clock shows when the simulation begins."""

_AUTOPILOTS = {"px4": 12, "ardupilot": 3}
# Speeds in m/s, accelerations in m/s2, times in s, heights in m.
_SPEED, _DESCENT, _SLOW_DESCENT = 3.0, 2.0, 0.6
_LIMIT, _LAG = 3.0, 0.15
_TARGET_OLD_S = 1.0
# Below this height above the target the autopilot goes straight down where it is: the camera sees no more.
_FINAL_M = 2.0


@dataclass
class Multicopter:
    """What really moves.

    Attributes:
        position: 3, NED, metres.
        velocity: 3, NED, m/s.
        attitude: roll, pitch, yaw, radians.
        wind: 3, NED, m/s.
    """

    position: Floats
    velocity: Floats = field(default_factory=lambda: np.zeros(3))
    attitude: Floats = field(default_factory=lambda: np.zeros(3))
    wind: Floats = field(default_factory=lambda: np.zeros(3))

    @property
    def rotation(self) -> Floats:
        """3 x 3, body to NED."""
        return turn(*self.attitude)

    def step(self, command: Floats) -> None:
        """Fly for `STEP_S` towards a velocity (NED, m/s): thrust leans the body, and wind pushes it."""
        wanted = np.clip((command - self.velocity) / 0.6, -_LIMIT, _LIMIT)
        yaw = self.attitude[2]
        ahead = wanted[0] * math.cos(yaw) + wanted[1] * math.sin(yaw)
        right = -wanted[0] * math.sin(yaw) + wanted[1] * math.cos(yaw)
        lean = np.array([math.atan(right / GRAVITY), -math.atan(ahead / GRAVITY), yaw])
        self.attitude = self.attitude + (lean - self.attitude) * (STEP_S / _LAG)
        ahead, right = -GRAVITY * math.tan(self.attitude[1]), GRAVITY * math.tan(self.attitude[0])
        pushed = 0.15 * (self.wind - self.velocity)
        acceleration = np.array(
            [
                ahead * math.cos(yaw) - right * math.sin(yaw) + pushed[0],
                ahead * math.sin(yaw) + right * math.cos(yaw) + pushed[1],
                wanted[2],
            ]
        )
        self.velocity = self.velocity + acceleration * STEP_S
        self.position = self.position + self.velocity * STEP_S


class Autopilot:
    """Lands on what LANDING_TARGET names; it knows no other target, and its own place only roughly.

    Args:
        kind: ``px4`` or ``ardupilot``: which frame of the message it takes.
        error: 3, how wrong its estimate of its place is, NED, metres.

    Attributes:
        address: where it is reached by MAVLink.
        phase: ``search``, ``approach``, ``final`` or ``landed``.
    """

    def __init__(self, kind: str, error: Floats) -> None:
        """Open a socket."""
        self._end = mavutil.mavlink_connection(
            "udpin:127.0.0.1:0", source_system=1, source_component=1, dialect="common"
        )
        self.address = f"udpout:127.0.0.1:{self._end.port.getsockname()[1]}"
        self._kind = kind
        self._error = error
        self._offset_ns: int | None = None
        self._position = History()
        self._attitude = History(angular=True)
        self._target: Floats | None = None
        self._seen_s = -math.inf
        self._integral = np.zeros(2)
        self.phase = "search"
        self.received = 0

    def close(self) -> None:
        """Close the socket."""
        self._end.close()

    def tell(self, now_s: float, body: Multicopter) -> None:
        """Send what autopilots send, of the state as estimated."""
        boot_ns = round((now_s + BOOT_S) * 1e9)
        place = body.position + self._error
        self._position.add(boot_ns, tuple(place))
        self._attitude.add(boot_ns, tuple(body.attitude))
        mav, boot_ms = self._end.mav, boot_ns // 1_000_000
        if round(now_s / STEP_S) % 25 == 0:
            mav.heartbeat_send(2, _AUTOPILOTS[self._kind], 0, 0, 4)
            mav.timesync_send(0, boot_ns)
        mav.attitude_send(boot_ms, *body.attitude, 0.0, 0.0, 0.0)
        mav.local_position_ned_send(boot_ms, *place, *body.velocity)

    def listen(self, now_s: float) -> None:
        """Take what came."""
        boot_ns = round((now_s + BOOT_S) * 1e9)
        while (message := self._end.recv_msg()) is not None:
            if message.get_type() == "TIMESYNC":
                if message.tc1 == 0:
                    self._end.mav.timesync_send(boot_ns, message.ts1)
                else:
                    self._offset_ns = message.tc1 - message.ts1
            elif message.get_type() == "LANDING_TARGET":
                self._take(message, now_s)

    def _take(self, message: object, now_s: float) -> None:
        self.received += 1
        if not message.position_valid or self._offset_ns is None:  # type: ignore[attr-defined]
            return
        place = np.array([message.x, message.y, message.z])  # type: ignore[attr-defined]
        if self._kind == "ardupilot":
            seen_ns = message.time_usec * 1000 - self._offset_ns  # type: ignore[attr-defined]
            position, attitude = self._position.at(seen_ns), self._attitude.at(seen_ns)
            if position is None or attitude is None:
                return
            place = position + turn(*attitude) @ place
        self._target = place if self._target is None else 0.7 * self._target + 0.3 * place
        self._seen_s = now_s

    def command(self, now_s: float, body: Multicopter) -> Floats:
        """Return the velocity to fly, NED, m/s."""
        if self._target is None:
            return np.zeros(3)
        place = body.position + self._error
        away = self._target - place
        height = float(away[2])
        if self.phase != "final" and now_s - self._seen_s > _TARGET_OLD_S:
            self.phase = "search"  # hold
            return np.zeros(3)
        self.phase = "final" if height < _FINAL_M or self.phase == "final" else "approach"
        off = float(np.hypot(away[0], away[1]))
        # What the wind takes is given back.
        self._integral = (
            np.clip(self._integral + 0.15 * away[:2] * STEP_S, -1.0, 1.0) if off < 2 else (self._integral)
        )
        flat = 0.8 * away[:2] + self._integral
        speed = float(np.hypot(*flat))
        if speed > _SPEED:
            flat = flat * (_SPEED / speed)
        down = _SLOW_DESCENT if height < 4 else _DESCENT
        if self.phase == "approach" and off > max(0.25, 0.2 * height):
            down = 0.0
        return np.array([flat[0], flat[1], down])
