"""The loop: camera, detector, choice of the target, MAVLink, vehicle, camera; in step with simulated time."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from yolo_autonomy.frames import Floats, Mount
from yolo_autonomy.landing import TargetRanging, is_cut
from yolo_autonomy.mavlink import Link
from yolo_autonomy.target import Candidate, Selector, TargetChoice
from yolo_trt_node.detector import Detector

from landing_demo.pad import PAD_M, Site
from landing_demo.vehicle import STEP_S, Autopilot, Multicopter

_EPOCH_NS = 1_700_000_000_000_000_000
_STEPS_PER_IMAGE = 5  # 10 images a second
_LATENCY_STEPS = 4  # what an image is old when the autopilot hears of it
_TOUCH_M = 0.02


@dataclass
class Track:
    """How a landing went.

    Attributes:
        pad: 3, the pad's middle in NED, metres.
        times: seconds.
        places: N x 3, of the vehicle, NED, metres.
        phases: the autopilot's, one a place.
        seen: which of the places had a message of the target.
        pictures: (second, box or None, picture) of some images.
        landed: whether it touched down in time.
    """

    pad: Floats
    times: list[float] = field(default_factory=list)
    places: list[Floats] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    seen: list[bool] = field(default_factory=list)
    pictures: list[tuple[float, tuple[float, ...] | None, NDArray[np.uint8]]] = field(default_factory=list)
    landed: bool = False

    @property
    def miss_m(self) -> float:
        """Metres on the ground between the vehicle and the pad's middle at the end."""
        return float(np.hypot(*(self.places[-1] - self.pad)[:2]))


class _Clock:
    def __init__(self) -> None:
        self.step = 0

    @property
    def s(self) -> float:
        return self.step * STEP_S

    def __call__(self) -> int:
        return _EPOCH_NS + round(self.s * 1e9)


def land(
    detector: Detector,
    site: Site,
    size: tuple[int, int],
    *,
    kind: str = "px4",
    start: tuple[float, float, float] = (5.0, -4.0, -16.0),
    estimate_error: tuple[float, float, float] = (1.5, -2.0, 0.0),
    wind: tuple[float, float, float] = (1.5, 1.0, 0.0),
    most_s: float = 60.0,
    keep_every: int = 20,
) -> Track:
    """Let a vehicle find the pad and land on it.

    Args:
        detector: of the pad, or of what is to be landed on; its first class is the target.
        site: where to land.
        size: width and height of the pictures in pixels.
        kind: of the autopilot, ``px4`` or ``ardupilot``.
        start: of the vehicle from the pad's middle: north, east, down, metres.
        estimate_error: of the vehicle's own place, north, east, down, metres.
        wind: NED, m/s.
        most_s: seconds after which it has failed.
        keep_every: of so many pictures one is kept for the report.
    """
    clock, track = _Clock(), Track(site.pad)
    body = Multicopter(site.pad * (1, 1, 0) + np.array(start), wind=np.array(wind))
    body.attitude = np.array([0.0, 0.0, 0.7])
    autopilot = Autopilot(kind, np.array(estimate_error))
    link = Link(autopilot.address, clock)
    selector = Selector(TargetChoice(min_score=0.3, gate=8.0))
    sighting = TargetRanging(Mount(), "position", target_height=-float(site.pad[2]), target_size=PAD_M)
    camera = sighting.mount.body_from_optical()
    waiting: list[tuple[int, int, Candidate | None]] = []
    images = 0
    try:
        while clock.s < most_s and not track.landed:
            autopilot.tell(clock.s, body)
            link.pump()
            if clock.step % _STEPS_PER_IMAGE == 0:
                picture = site.picture(body.position, body.rotation @ camera, clock.s)
                (found,) = detector.detect([picture])
                candidates = [
                    Candidate((*box, *sides), str(class_id), score)
                    for box, sides, class_id, score in zip(
                        found.centers().tolist(),
                        found.sizes().tolist(),
                        found.class_ids.tolist(),
                        found.scores.tolist(),
                        strict=True,
                    )
                ]
                item = selector.update(clock(), candidates, size)
                waiting.append((clock.step + _LATENCY_STEPS, clock(), item))
                if images % keep_every == 0:
                    track.pictures.append((clock.s, None if item is None else item.box, picture))
                images += 1
            told = False
            while waiting and waiting[0][0] <= clock.step:
                _, stamp, seen = waiting.pop(0)
                if seen is None or is_cut(seen.box, size):
                    continue
                sight = sighting.sight(stamp, seen.box, site.rays, link.vehicle)
                if sight is not None and link.heard:
                    link.send_landing_target(sight)
                    told = True
            autopilot.listen(clock.s)
            body.step(autopilot.command(clock.s, body))
            track.times.append(clock.s)
            track.places.append(body.position)
            track.phases.append(autopilot.phase)
            track.seen.append(told)
            track.landed = bool(body.position[2] >= site.pad[2] - _TOUCH_M)
            clock.step += 1
    finally:
        link.close()
        autopilot.close()
    return track
