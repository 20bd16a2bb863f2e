"""Detected objects on the ground as obstacles for a costmap; no ROS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from yolo_autonomy.frames import Floats
from yolo_autonomy.parameters import Table

PARAMETERS: Table = {
    "classes": ([""], "Class names or ids that are obstacles; empty admits all."),
    "min_score": (0.3, "Score from which on an object is an obstacle, 0 to 1."),
    "resolution": (0.25, "Distance of the points, metres; that of the costmap or finer, 0.02 to 5."),
    "margin": (0.3, "Added around the object's width, metres, 0 to 50."),
    "min_width": (0.5, "Width of what is seen narrower, metres, 0.02 to 100."),
    "max_width": (15.0, "Width of what is seen wider, metres, 0.02 to 100."),
    "height": (1.5, "Of the points above the ground, metres; within the costmap layer's limits, 0 to 100."),
    "keep_s": (2.0, "An obstacle not seen for this many seconds is cleared, 0 to 3600."),
    "clear_s": (2.0, "Its places are published for clearing for this many seconds, 0 to 3600."),
}
TOPICS = ("detections_3d", "label_info", "obstacles", "obstacles_cleared")

# A costmap of half a million cells is more than any that plans in time.
_MOST_CELLS = 500_000
Cell = tuple[int, int]


@dataclass(frozen=True)
class Extent:
    """How an object becomes points.

    Attributes:
        resolution: distance of the points, metres.
        margin: around the object, metres.
        min_width: metres.
        max_width: metres.
        height: of the points above the ground, metres.
        keep_s: for how long one that is not seen stays.
        clear_s: for how long its places are told as free.
    """

    resolution: float = 0.25
    margin: float = 0.3
    min_width: float = 0.5
    max_width: float = 15.0
    height: float = 1.5
    keep_s: float = 2.0
    clear_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what would make endless clouds.

        Raises:
            ValueError: saying what to change.
        """
        if self.min_width > self.max_width:
            raise ValueError(f"min_width {self.min_width:g} is more than max_width {self.max_width:g}")
        side = (self.max_width + 2 * self.margin) / self.resolution
        if side > 1000:
            raise ValueError(
                f"max_width {self.max_width:g} m and margin {self.margin:g} m at a resolution of "
                f"{self.resolution:g} m make {side:.0f} points a side; at most 1000: enlarge resolution"
            )


@dataclass(frozen=True)
class Obstacle:
    """One object on the ground.

    Attributes:
        x: metres in the fixed frame.
        y: likewise.
        z: of the ground there.
        width: metres.
        track_id: of the tracker; empty where there is none.
    """

    x: float
    y: float
    z: float
    width: float
    track_id: str = ""


@dataclass
class ObstacleMap:
    """What is occupied, and what was until just now.

    Attributes:
        extent: how objects become points.
    """

    extent: Extent = field(default_factory=Extent)
    _kept: dict[str, tuple[int, Obstacle]] = field(default_factory=dict)
    _was: dict[Cell, tuple[int, float]] = field(default_factory=dict)
    _now_ns: int = 0

    def update(self, stamp_ns: int, seen: Sequence[Obstacle]) -> tuple[Floats, Floats]:
        """Take what one image shows on the ground.

        Returns:
            Points (N x 3, metres) on what is occupied now, and points (M x 3) on what was occupied within
            the last ``clear_s`` and is not any more.
        """
        if stamp_ns < self._now_ns - 1_000_000_000:
            self._kept, self._was = {}, {}  # the clock was set back
        self._now_ns = stamp_ns
        keep_ns, clear_ns = round(self.extent.keep_s * 1e9), round(self.extent.clear_s * 1e9)
        # Without ids an object cannot be followed: it stays where it was seen, for its time, or until it is
        # seen there again.
        for item in seen:
            self._kept[item.track_id or self._place(item)] = stamp_ns, item
        self._kept = {key: kept for key, kept in self._kept.items() if stamp_ns - kept[0] <= keep_ns}
        occupied: dict[Cell, float] = {}
        for _, item in self._kept.values():
            for cell in self._cells(item):
                occupied[cell] = item.z
            if len(occupied) > _MOST_CELLS:
                break
        self._was.update({cell: (stamp_ns, z) for cell, z in occupied.items()})
        self._was = {cell: was for cell, was in self._was.items() if stamp_ns - was[0] <= keep_ns + clear_ns}
        cleared = {cell: was[1] for cell, was in self._was.items() if cell not in occupied}
        return self._points(occupied), self._points(cleared)

    def _place(self, item: Obstacle) -> str:
        side = max(self.extent.resolution, self.extent.min_width)
        return f"@{round(item.x / side)},{round(item.y / side)}"

    def _cells(self, item: Obstacle) -> list[Cell]:
        """List the cells of the disc that an object covers: its outline's shape is not known."""
        extent = self.extent
        reach = min(max(item.width, extent.min_width), extent.max_width) / 2 + extent.margin
        step = extent.resolution
        middle = round(item.x / step), round(item.y / step)
        span = math.ceil(reach / step)
        rows, columns = np.mgrid[-span : span + 1, -span : span + 1]
        inside = np.hypot(rows, columns) * step <= reach
        return [
            (middle[0] + int(row), middle[1] + int(column))
            for row, column in zip(rows[inside], columns[inside], strict=True)
        ]

    def _points(self, cells: dict[Cell, float]) -> Floats:
        flat = np.array(list(cells), np.float64).reshape(-1, 2) * self.extent.resolution
        heights = np.array(list(cells.values())).reshape(-1, 1) + self.extent.height
        return np.concatenate((flat, heights), axis=1)
