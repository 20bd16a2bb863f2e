"""Consecutive frames of a drone's flight over a scene, with identities that last."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from aerial_scenes.camera import Camera
from aerial_scenes.render import Renderer
from aerial_scenes.scenes import SceneSpec, annotate, draw_view, world_for
from aerial_scenes.visdrone import Annotation


@dataclass(frozen=True)
class FlightFrame:
    """One frame of a flight.

    Attributes:
        index: From 0. (VisDrone-VID numbers frames from 1.)
        time: Seconds since the first frame.
        image: (height, width, 3) uint8, BGR.
        annotations: In VisDrone's terms, with target ids that last over the flight.
    """

    index: int
    time: float
    image: np.ndarray
    annotations: tuple[Annotation, ...]


class Flight:
    """A flight along a smooth curve, camera forward, over traffic that moves.

    Iterating yields the frames in order, and may be done again; `frame` makes any one of them. The world (a
    second or so of work) is built with the object.

    Args:
        seed: Decides everything that the other arguments leave open.
        spec: Image size, scale and looks; one draw from its ranges holds for the whole flight.
        frames: Number of frames.
        fps: Frames per second.
        speed: Of the drone over the ground, metres per second.

    Raises:
        ValueError: Seed or speed negative, or `frames` or `fps` not positive.
    """

    def __init__(self, seed: int, spec: SceneSpec, frames: int, fps: float, *, speed: float = 6.0) -> None:
        if seed < 0 or speed < 0:
            raise ValueError(f"a flight's seed and speed must not be negative, got {seed} and {speed}")
        if frames < 1 or fps <= 0:
            raise ValueError(
                f"a flight needs at least one frame and a positive rate, got {frames} at {fps} fps"
            )
        self.spec = spec
        self.fps = fps
        self._frames = frames
        self._speed = speed
        rng = np.random.default_rng(seed)
        self._view = draw_view(rng, spec)
        # The curve: a circle wide enough for a gentle turn; it never leaves the world, however long the
        # flight.
        self._radius = float(rng.uniform(45, 70)) * (1 if rng.random() < 0.5 else -1)
        self._sway = rng.uniform(0, 2 * math.pi, 8)
        duration = (frames - 1) / fps
        lap = 2 * math.pi * abs(self._radius) / speed if speed > 0 else 0.0
        times = np.arange(0.0, min(duration, lap) + 1.0, 1.0)
        self.world = world_for(rng, self._view, spec, [self.camera(float(t)) for t in times])
        self._renderer = Renderer(self.world)

    def __len__(self) -> int:
        return self._frames

    def __iter__(self) -> Iterator[FlightFrame]:
        return (self.frame(index) for index in range(self._frames))

    def camera(self, time: float) -> Camera:
        """Return the camera `time` seconds into the flight."""
        view, sway = self._view, self._sway
        turn = self._speed * time / self._radius
        heading = view.yaw + turn
        # The centre of the turn lies to the left (radius > 0) or right of the first heading.
        target = (
            self._radius * (math.sin(heading) - math.sin(view.yaw)),
            self._radius * (math.cos(view.yaw) - math.cos(heading)),
        )

        def swing(k: int, period: float) -> float:
            return math.sin(2 * math.pi * time / period + sway[k])

        # Gusts and the gimbal's rest: slow sway and a little fast shake.
        sway_yaw = math.radians(1.8 * swing(0, 7.3) + 0.25 * swing(1, 0.9))
        sway_pitch = math.radians(0.8 * swing(2, 5.1) + 0.12 * swing(3, 0.7))
        sway_roll = math.radians(0.8 * swing(4, 6.1) + 0.15 * swing(5, 0.8))
        scale = view.metres_per_pixel * (1 + 0.03 * swing(6, 11.0))
        placed = replace(
            view,
            yaw=heading + sway_yaw,
            pitch=max(0.0, view.pitch + sway_pitch),
            roll=view.roll + sway_roll,
            metres_per_pixel=scale,
        )
        return placed.camera(self.spec, target)

    def frame(self, index: int) -> FlightFrame:
        """Make frame `index`.

        Raises:
            IndexError: There is no such frame.
        """
        if not 0 <= index < self._frames:
            raise IndexError(f"frame {index} of a flight of {self._frames} frames")
        time = index / self.fps
        look = replace(self._view.look, seed=self._view.look.seed + index)
        image, sightings = self._renderer.draw(self.camera(time), time, look)
        return FlightFrame(index, time, image, annotate(self.world, sightings, self.spec, target_ids=True))
