"""The other end of a MAVLink connection, as pymavlink speaks it: an autopilot on a loopback socket."""

from __future__ import annotations

import os
import time

os.environ["MAVLINK20"] = "1"

from pymavlink import mavutil

AUTOPILOTS = {"px4": 12, "ardupilot": 3, "other": 0}


class Autopilot:
    """Hears what an onboard computer says, and tells what it is told to."""

    def __init__(self, kind: str = "px4", system: int = 1, component: int = 1) -> None:
        self._end = mavutil.mavlink_connection(
            "udpin:127.0.0.1:0", source_system=system, source_component=component, dialect="common"
        )
        self.address = f"udpout:127.0.0.1:{self._end.port.getsockname()[1]}"
        self._kind = kind
        self.heard = []

    @property
    def mav(self):
        return self._end.mav

    def of(self, kind: str) -> list:
        self.listen()
        return [message for message in self.heard if message.get_type() == kind]

    def listen(self) -> None:
        while (message := self._end.recv_msg()) is not None:
            self.heard.append(message)

    def beat(self) -> None:
        self.mav.heartbeat_send(2, AUTOPILOTS[self._kind], 0, 0, 4)

    def fly(self, boot_ms: int, position=(0.0, 0.0, -20.0), attitude=(0.0, 0.0, 0.0)) -> None:
        self.mav.attitude_send(boot_ms, *attitude, 0.0, 0.0, 0.0)
        self.mav.local_position_ned_send(boot_ms, *position, 0.0, 0.0, 0.0)

    def close(self) -> None:
        self._end.close()


def wait_until(condition, step, patience_s: float = 20.0) -> bool:
    """Call `step` until the condition holds."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            return False
        step()
        time.sleep(0.002)
    return True
