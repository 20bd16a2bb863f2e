"""Where a target in the image is, seen from the vehicle and in its autopilot's frame; no ROS, no MAVLink."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from yolo_autonomy.frames import Floats, Mount, turn

DISTANCES = ("position", "rangefinder", "size", "none")

# An attitude holds for this long beyond the newest; the past that is remembered covers a slow detector.
_HOLD_NS = 300_000_000
_KEEP = 600
# A line of sight that sinks less than this (radians) meets the ground beyond all reason.
_GRAZING = math.radians(2)


@dataclass
class History:
    """The last values of something that moves, by time in nanoseconds of our clock.

    Attributes:
        angular: whether they are angles (radians), which turn the short way.
    """

    angular: bool = False
    _times: deque[int] = field(default_factory=lambda: deque(maxlen=_KEEP))
    _values: deque[Floats] = field(default_factory=lambda: deque(maxlen=_KEEP))

    def add(self, time_ns: int, values: tuple[float, ...]) -> None:
        """Take values; what is not finite, or does not come later than the last, is left out."""
        if not all(map(math.isfinite, values)):
            return
        if self._times and time_ns < self._times[-1] - 1_000_000_000:
            self._times.clear()  # the clock was set back
            self._values.clear()
        if not self._times or time_ns > self._times[-1]:
            self._times.append(time_ns)
            self._values.append(np.array(values))

    def at(self, time_ns: int) -> Floats | None:
        """Return the values at a time, interpolated; None where that is too far from what is known."""
        times = self._times
        index = bisect_left(times, time_ns)
        if index == len(times):
            return self._values[-1] if times and time_ns - times[-1] <= _HOLD_NS else None
        if index == 0:
            return self._values[0] if times[0] - time_ns <= _HOLD_NS else None
        share = (time_ns - times[index - 1]) / (times[index] - times[index - 1])
        change = self._values[index] - self._values[index - 1]
        if self.angular:
            change = (change + math.pi) % (2 * math.pi) - math.pi
        return self._values[index - 1] + share * change


@dataclass
class Vehicle:
    """What its autopilot tells of a vehicle, by our clock.

    Attributes:
        attitude: roll, pitch, yaw in radians, FRD in NED.
        position: north, east, down in metres from its local origin.
        height: metres above what lies straight below, of a rangefinder that looks down.
    """

    attitude: History = field(default_factory=lambda: History(angular=True))
    position: History = field(default_factory=History)
    height: History = field(default_factory=History)


@dataclass(frozen=True)
class Sight:
    """A target as a message to an autopilot needs it.

    Attributes:
        stamp_ns: of the image.
        body: 3, direction to the target in the body's frame (FRD), of length 1.
        distance: to it in metres; 0 where it is not known.
        local: 3, its place in the autopilot's local frame (NED), metres; None where it is not known.
        size: of its box, radians across and along the image.
    """

    stamp_ns: int
    body: Floats
    distance: float
    local: Floats | None
    size: tuple[float, float]

    @property
    def angles(self) -> tuple[float, float]:
        """Angles off straight down as LANDING_TARGET has them: x to the right, y backwards, radians."""
        x, y, z = self.body
        return math.atan2(y, z), math.atan2(-x, z)


@dataclass(frozen=True)
class TargetRanging:
    """How a target's place is found.

    Attributes:
        mount: of the camera.
        distance_from: ``position`` (the autopilot's height above its origin, the target standing
            ``target_height`` above that), ``rangefinder`` (looking down on the ground, the target standing
            ``target_height`` above that), ``size`` (the target's longer side is ``target_size`` metres), or
            ``none``.
        target_height: metres.
        target_size: metres.
    """

    mount: Mount = field(default_factory=Mount)
    distance_from: str = "position"
    target_height: float = 0.0
    target_size: float = 1.0

    def __post_init__(self) -> None:
        """Refuse an unknown way.

        Raises:
            ValueError: naming those that there are.
        """
        if self.distance_from not in DISTANCES:
            raise ValueError(
                f"distance_from is {self.distance_from!r}; it must be one of {', '.join(DISTANCES)}"
            )

    def sight(
        self,
        stamp_ns: int,
        box: tuple[float, float, float, float],
        rays: Callable[[Floats], Floats],
        vehicle: Vehicle,
    ) -> Sight | None:
        """Return where the target is, as far as that is known.

        Args:
            stamp_ns: of the image.
            box: center x, center y, width, height in pixels.
            rays: of the camera: N x 2 pixels to N x 3 directions in its optical frame, z = 1.
            vehicle: what is known of it at about that time.

        Returns:
            None where the line of sight has no direction, or points above the horizon of the body.
        """
        x, y, width, height = box
        seen = rays(
            np.array(
                [
                    [x, y],
                    [x - width / 2, y],
                    [x + width / 2, y],
                    [x, y - height / 2],
                    [x, y + height / 2],
                ]
            )
        )
        if not np.isfinite(seen).all():
            return None
        seen = seen / np.linalg.norm(seen, axis=1, keepdims=True)
        size = _angle(seen[1], seen[2]), _angle(seen[3], seen[4])
        camera = self.mount.body_from_optical() @ seen[0]
        offset = np.array(self.mount.offset)
        attitude, position = vehicle.attitude.at(stamp_ns), vehicle.position.at(stamp_ns)
        rotation = None if attitude is None else turn(*attitude)
        reach = self._reach(stamp_ns, max(size), camera, offset, rotation, vehicle)
        if reach is None:
            return Sight(stamp_ns, camera, 0.0, None, size) if camera[2] > 0 else None
        relative = offset + reach * camera
        distance = float(np.linalg.norm(relative))
        local = None if rotation is None or position is None else position + rotation @ relative
        if distance < 1e-3 or (relative[2] <= 0 and local is None):
            return None
        return Sight(stamp_ns, relative / distance, distance, local, size)

    def _reach(
        self,
        stamp_ns: int,
        size: float,
        camera: Floats,
        offset: Floats,
        rotation: Floats | None,
        vehicle: Vehicle,
    ) -> float | None:
        """Return the metres from the camera to the target along the line of sight, where they are known."""
        if self.distance_from == "size":
            return self.target_size / 2 / math.tan(size / 2) if size > 0 else None
        if self.distance_from == "none" or rotation is None:
            return None
        if self.distance_from == "position":
            position = vehicle.position.at(stamp_ns)
            above = None if position is None else -float(position[2])
        else:
            measured = vehicle.height.at(stamp_ns)
            # Along the body's axis, which leans with the body.
            above = None if measured is None else float(measured[0] * rotation[2, 2])
        sinks = float((rotation @ camera)[2])
        if above is None or sinks < math.sin(_GRAZING):
            return None
        drop = above - float((rotation @ offset)[2]) - self.target_height
        return drop / sinks if drop > 0 else None


def is_cut(box: tuple[float, float, float, float], size: tuple[int, int], margin: float = 2.0) -> bool:
    """Tell whether the picture's edge cuts a box off, so that its center is not the target's.

    Args:
        box: center x, center y, width, height in pixels.
        size: the picture's width and height in pixels.
        margin: how near to the edge it may come, pixels.
    """
    return any(
        at - side / 2 < margin or at + side / 2 > whole - margin
        for at, side, whole in zip(box[:2], box[2:], size, strict=True)
    )


def _angle(a: Floats, b: Floats) -> float:
    return math.acos(min(1.0, float(a @ b)))
