"""A piece of town or country, in metres: what the ground looks like, what stands on it, and what moves there.

World frame: x east, y north, z up, the ground at z = 0. A world does not know about cameras; `render` draws
it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import cv2
import numpy as np

from aerial_scenes import shapes, textures
from aerial_scenes.shapes import Mesh

PEDESTRIAN, PEOPLE, BICYCLE, CAR, VAN, TRUCK, TRICYCLE, AWNING_TRICYCLE, BUS, MOTOR, OTHERS = range(1, 12)

Pose = tuple[float, float, float]
Rect = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in metres."""

SHADOW_COARSENING = 2
"""The shadow map has this many times the ground picture's metres per pixel."""


@dataclass(frozen=True)
class Still:
    """Motion of what does not move."""

    x: float
    y: float
    yaw: float

    def at(self, time: float) -> tuple[Pose, int]:
        """Return (x, y, yaw) and the number of laps, which is always 0."""
        return (self.x, self.y, self.yaw), 0


@dataclass(frozen=True)
class Drive:
    """Straight motion along a lane that begins again at the lane's start.

    Attributes:
        start: Where the lane begins, metres.
        yaw: Direction of travel, radians.
        length: Lane length in metres.
        offset: Distance driven at time 0, metres.
        speed: Metres per second.
    """

    start: tuple[float, float]
    yaw: float
    length: float
    offset: float
    speed: float

    def at(self, time: float) -> tuple[Pose, int]:
        """Return (x, y, yaw) and how often the lane's end was passed."""
        laps, along = divmod(self.offset + self.speed * time, self.length)
        return (
            self.start[0] + along * math.cos(self.yaw),
            self.start[1] + along * math.sin(self.yaw),
            self.yaw,
        ), int(laps)


@dataclass(frozen=True)
class Stroll:
    """Motion around a rectangle, such as a pavement around a block; `speed` < 0 is clockwise."""

    rect: Rect
    offset: float
    speed: float

    def at(self, time: float) -> tuple[Pose, int]:
        """Return (x, y, yaw) and the number of laps, which is always 0: the walk is a closed loop."""
        x0, y0, x1, y1 = self.rect
        width, height = x1 - x0, y1 - y0
        along = (self.offset + self.speed * time) % (2 * (width + height))
        turn = 0.0 if self.speed >= 0 else math.pi
        if along < width:
            return (x0 + along, y0, turn), 0
        along -= width
        if along < height:
            return (x1, y0 + along, math.pi / 2 + turn), 0
        along -= height
        if along < width:
            return (x1 - along, y1, math.pi + turn), 0
        return (x0, y1 - (along - width), 1.5 * math.pi + turn), 0


Motion = Still | Drive | Stroll


@dataclass(frozen=True)
class Actor:
    """An object that is annotated.

    Attributes:
        category: VisDrone category, 1 to 11.
        mesh: Its shape.
        motion: Where it is when.
        lift: Metres by which it is moved towards the camera in the painting order (a rider over the vehicle).
    """

    category: int
    mesh: Mesh
    motion: Motion
    lift: float = 0.0


@dataclass(frozen=True)
class Prop:
    """A thing that is not annotated."""

    mesh: Mesh
    x: float
    y: float
    yaw: float
    z: float = 0.0


@dataclass(frozen=True)
class Tree:
    """A tree or bush: a crown on a trunk.

    Attributes:
        x: Metres.
        y: Metres.
        radius: Of the crown, metres.
        height: Of the crown's centre above ground, metres.
        crown: Index for `textures.crown`.
    """

    x: float
    y: float
    radius: float
    height: float
    crown: int


@dataclass(frozen=True)
class Building:
    """A block with four walls and a flat or a gable roof.

    Attributes:
        rect: Footprint.
        height: Of the walls, metres.
        roof: One of `textures.ROOF_KINDS`.
        ridge: Metres that the ridge lies above the walls; 0 is a flat roof. It runs along the longer side.
        facade: Style index for `textures.facade`.
        units: Things on the roof.
    """

    rect: Rect
    height: float
    roof: str
    ridge: float
    facade: int
    units: tuple[Prop, ...] = ()


@dataclass(frozen=True)
class Sun:
    """Light from one direction.

    Attributes:
        azimuth: Direction to the sun, radians anticlockwise from east.
        elevation: Above the horizon, radians.
        strength: Share of direct light, 0 (overcast) to 1.
    """

    azimuth: float
    elevation: float
    strength: float

    @property
    def direction(self) -> np.ndarray:
        """Unit vector to the sun."""
        flat = math.cos(self.elevation)
        return np.array(
            [flat * math.cos(self.azimuth), flat * math.sin(self.azimuth), math.sin(self.elevation)]
        )

    @property
    def shadow_step(self) -> tuple[float, float]:
        """Metres by which a shadow moves on the ground for each metre of height."""
        reach = 1 / math.tan(self.elevation)
        return -reach * math.cos(self.azimuth), -reach * math.sin(self.azimuth)


@dataclass
class World:
    """The finished scene; see the module's text for the frame.

    Attributes:
        bounds: Area in metres.
        metres_per_pixel: Of `ground`.
        ground: Mip chain of the ground seen from above, BGR; row 0 is the southern edge (y grows with the
            row).
        shadow: Mip chain of the static shadows, uint8, 0 light to 255 shade, `SHADOW_COARSENING` times
            coarser.
        sun: The light.
        buildings: All buildings.
        trees: All trees and bushes.
        props: Things that are not annotated.
        actors: Objects that are.
    """

    bounds: Rect
    metres_per_pixel: float
    ground: list[np.ndarray]
    shadow: list[np.ndarray]
    sun: Sun
    buildings: list[Building] = field(default_factory=list)
    trees: list[Tree] = field(default_factory=list)
    props: list[Prop] = field(default_factory=list)
    actors: list[Actor] = field(default_factory=list)


@dataclass(frozen=True)
class _Road:
    """A straight road along x (axis 0) or y (axis 1)."""

    axis: int
    centre: float
    lanes: int
    lane_width: float
    median: float
    flowing: bool
    kerb_parking: bool

    @property
    def half_width(self) -> float:
        return self.lanes * self.lane_width + self.median / 2 + (2.2 if self.kerb_parking else 0.6)


_WHITE = (206, 210, 212)
_YELLOW = (96, 178, 204)

# Mean number of objects per site at density 1, and class mixes on the road, in car parks and in yards.
_LANE_MIX = ((CAR, 0.66), (VAN, 0.14), (TRUCK, 0.12), (BUS, 0.08))
_PARKING_MIX = ((CAR, 0.83), (VAN, 0.16), (TRUCK, 0.01))
_YARD_MIX = ((TRUCK, 0.6), (CAR, 0.15), (VAN, 0.12), (BUS, 0.05), (OTHERS, 0.08))
_KERB_MIX = ((MOTOR, 0.58), (BICYCLE, 0.2), (TRICYCLE, 0.13), (AWNING_TRICYCLE, 0.09))

# How likely each kind of block is in each kind of district.
DISTRICTS: dict[str, dict[str, float]] = {
    "centre": {"slabs": 0.3, "mall": 0.22, "plaza": 0.2, "car_park": 0.13, "park": 0.15},
    "suburb": {"houses": 0.4, "slabs": 0.25, "park": 0.12, "car_park": 0.08, "court": 0.1, "mall": 0.05},
    "industry": {"yard": 0.42, "halls": 0.4, "car_park": 0.13, "meadow": 0.05},
    "country": {"field": 0.45, "meadow": 0.2, "houses": 0.2, "yard": 0.1, "park": 0.05},
}


def _pick(rng: np.random.Generator, mix: tuple[tuple[int, float], ...]) -> int:
    weights = np.array([weight for _, weight in mix])
    return mix[int(rng.choice(len(mix), p=weights / weights.sum()))][0]


class _Builder:
    """Lays out and paints one world."""

    def __init__(
        self,
        rng: np.random.Generator,
        bounds: Rect,
        resolution: float,
        density: float,
        sun: Sun,
        district: str,
        max_height: float,
        footfall: float,
        spread: float,
    ) -> None:
        self.rng = rng
        self.bounds = bounds
        self.resolution = resolution
        self.density = density
        self.sun = sun
        self.district = district
        self.max_height = max_height
        self.footfall = footfall
        self.spread = spread
        width = math.ceil((bounds[2] - bounds[0]) / resolution)
        height = math.ceil((bounds[3] - bounds[1]) / resolution)
        self.ground = np.zeros((height, width, 3), np.uint8)
        self.offset = (int(rng.integers(textures.TILE_PIXELS)), int(rng.integers(textures.TILE_PIXELS)))
        self.buildings: list[Building] = []
        self.trees: list[Tree] = []
        self.props: list[Prop] = []
        self.actors: list[Actor] = []
        self.roads: list[_Road] = []
        self.wall_style = int(rng.integers(100))

    def _uniform(self, low: float, high: float) -> float:
        """Draw from a range; halfway between its ends where there is no room (blocks may be narrow)."""
        return float(self.rng.uniform(low, high)) if high > low else (low + high) / 2

    # Painting.

    def _pixels(self, points: np.ndarray) -> np.ndarray:
        origin = np.array(self.bounds[:2])
        return ((np.asarray(points, float) - origin) / self.resolution * 16 - 8).round().astype(np.int32)

    def paint(self, name: str, rect: Rect) -> None:
        """Cover a rectangle with a material."""
        x0, y0, x1, y1 = rect
        height, width = self.ground.shape[:2]
        u0, u1 = (round((x - self.bounds[0]) / self.resolution) for x in (x0, x1))
        v0, v1 = (round((y - self.bounds[1]) / self.resolution) for y in (y0, y1))
        u0, u1, v0, v1 = max(u0, 0), min(u1, width), max(v0, 0), min(v1, height)
        if u1 > u0 and v1 > v0:
            patch = textures.material_patch(
                name, self.resolution, v1 - v0, u1 - u0, (v0 + self.offset[0], u0 + self.offset[1])
            )
            self.ground[v0:v1, u0:u1] = patch

    def paint_polygon(self, name: str, points: np.ndarray) -> None:
        """Cover a polygon (K, 2) with a material."""
        pixels = self._pixels(points)
        height, width = self.ground.shape[:2]
        u0, v0 = np.maximum(pixels.min(axis=0) // 16 - 1, 0)
        u1, v1 = np.minimum(pixels.max(axis=0) // 16 + 2, (width, height))
        if u1 <= u0 or v1 <= v0:
            return
        mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
        cv2.fillPoly(mask, [pixels - np.array([u0, v0], np.int32) * 16], 255, cv2.LINE_8, 4)
        patch = textures.material_patch(
            name, self.resolution, v1 - v0, u1 - u0, (v0 + self.offset[0], u0 + self.offset[1])
        )
        cv2.copyTo(patch, mask, self.ground[v0:v1, u0:u1])

    def mark(self, rects: list[Rect], colour: tuple[int, int, int]) -> None:
        """Paint small rectangles such as road markings."""
        polygons = [
            self._pixels(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])) for x0, y0, x1, y1 in rects
        ]
        for polygon in polygons:
            cv2.fillConvexPoly(self.ground, polygon, colour, cv2.LINE_AA, 4)

    def line(
        self, points: np.ndarray, width: float, colour: tuple[int, int, int], closed: bool = False
    ) -> None:
        """Paint a line of `width` metres."""
        thickness = max(1, round(width / self.resolution))
        cv2.polylines(self.ground, [self._pixels(points)], closed, colour, thickness, cv2.LINE_AA, 4)

    def oriented(self, axis: int, along0: float, along1: float, across0: float, across1: float) -> Rect:
        """Rectangle given by positions along and across a road of `axis`."""
        if axis == 0:
            return (along0, across0, along1, across1)
        return (across0, along0, across1, along1)

    # Layout.

    def lay_roads(self) -> None:
        """Choose the roads: two families at right angles, one of which has green lights."""
        rng = self.rng
        spacing = {"centre": (60, 110), "suburb": (65, 120), "industry": (85, 150), "country": (110, 220)}[
            self.district
        ]
        main_axis = int(rng.integers(2))
        for axis in (0, 1):
            low, high = self.bounds[1 - axis], self.bounds[3 - axis]
            # A pilot flies where something is going on: one road passes near the origin, where the camera
            # looks.
            spread = self.spread if axis == main_axis else max(self.spread, spacing[0] * 0.5)
            first = self._uniform(-spread, spread)
            positions = [first]
            for direction in (-1, 1):
                at = first
                while low - 10 < at < high + 10:
                    at += direction * self._uniform(*spacing)
                    positions.append(at)
            for at in sorted(positions):
                if self.district == "country":
                    lanes, median = (1, 0.0)
                elif axis == main_axis and rng.random() < 0.6:
                    lanes, median = int(rng.integers(2, 4)), float(rng.choice([0.0, 2.5]))
                else:
                    lanes, median = int(rng.choice([1, 2], p=[0.7, 0.3])), 0.0
                parking = bool(lanes <= 2 and self.district != "country" and rng.random() < 0.5)
                if low - 10 < at < high + 10:
                    self.roads.append(_Road(axis, at, lanes, 3.3, median, axis == main_axis, parking))

    def paint_roads(self) -> None:
        rng = self.rng
        surface = str(rng.choice(["asphalt", "asphalt_dark"])) if self.district != "country" else "asphalt"
        for road in self.roads:
            low, high = self.bounds[road.axis], self.bounds[road.axis + 2]
            half = road.half_width
            self.paint(surface, self.oriented(road.axis, low, high, road.centre - half, road.centre + half))
        for road in self.roads:
            self._mark_road(road)
        self._mark_crossings(surface)

    def _crossings(self, road: _Road) -> list[tuple[float, float]]:
        """Positions and half widths of the roads that cross `road`."""
        return [(other.centre, other.half_width) for other in self.roads if other.axis != road.axis]

    def _mark_road(self, road: _Road) -> None:
        low, high = self.bounds[road.axis], self.bounds[road.axis + 2]
        stops = sorted(self._crossings(road))
        edges = [
            low,
            *(v for centre, half in stops for v in (centre - half - 5.5, centre + half + 5.5)),
            high,
        ]
        rects: list[Rect] = []
        yellow: list[Rect] = []
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            if end - begin < 4:
                continue
            if road.median > 0:
                m = road.median / 2
                rect = self.oriented(road.axis, begin, end, road.centre - m, road.centre + m)
                self.paint("lawn", rect)
                self.line(
                    np.array(
                        [(rect[0], rect[1]), (rect[2], rect[1]), (rect[2], rect[3]), (rect[0], rect[3])]
                    ),
                    0.25,
                    (170, 174, 176),
                    True,
                )
                for at in np.arange(begin + 3, end - 2, 5.0):
                    if self.rng.random() < 0.75:
                        x, y = (at, road.centre) if road.axis == 0 else (road.centre, at)
                        self.trees.append(
                            Tree(x, y, self._uniform(0.7, 1.1), 0.7, int(self.rng.integers(11, 14)))
                        )
            else:
                for shift in (-0.15, 0.15):
                    yellow.append(
                        self.oriented(
                            road.axis, begin, end, road.centre + shift - 0.07, road.centre + shift + 0.07
                        )
                    )
            for side in (-1, 1):
                for lane in range(1, road.lanes):
                    across = road.centre + side * (road.median / 2 + lane * road.lane_width)
                    for at in np.arange(begin + 1, end - 3, 7.5):
                        rects.append(self.oriented(road.axis, at, at + 3.0, across - 0.08, across + 0.08))
                edge = road.centre + side * (road.median / 2 + road.lanes * road.lane_width)
                rects.append(self.oriented(road.axis, begin, end, edge - 0.07, edge + 0.07))
                # Stop lines: right-hand traffic, so the lanes that arrive at `end` lie right of the axis.
                arriving = (side < 0) == (road.axis == 0)
                near, far = sorted((road.centre + side * road.median / 2, edge))
                at = end - 1.2 if arriving else begin + 0.8
                if self.district != "country":
                    rects.append(self.oriented(road.axis, at, at + 0.45, near, far))
                if road.kerb_parking:
                    for at in np.arange(begin + 4, end - 9, 5.6):
                        near, far = sorted((edge, edge + side * 2.1))
                        rects.append(self.oriented(road.axis, at - 0.05, at + 0.05, near, far))
        self.mark(rects, _WHITE)
        self.mark(yellow, _YELLOW)

    def _mark_crossings(self, surface: str) -> None:
        for road in self.roads:
            for centre, half in self._crossings(road):
                reach = road.half_width
                box = self.oriented(
                    road.axis,
                    centre - half - 5.3,
                    centre + half + 5.3,
                    road.centre - reach,
                    road.centre + reach,
                )
                self.paint(surface, box)
        if self.district == "country":
            return
        rects: list[Rect] = []
        for road in self.roads:
            inner = road.half_width - 0.5
            for centre, half in self._crossings(road):
                for begin in (centre - half - 4.6, centre + half + 1.2):
                    for across in np.arange(road.centre - inner, road.centre + inner - 0.4, 1.0):
                        rects.append(self.oriented(road.axis, begin, begin + 3.4, across, across + 0.5))
        self.mark(rects, _WHITE)

    def lay_blocks(self) -> None:
        """Fill the rectangles between the roads."""
        cuts: list[list[tuple[float, float]]] = []
        for axis in (0, 1):
            own = sorted((road.centre, road.half_width) for road in self.roads if road.axis != axis)
            low, high = self.bounds[axis], self.bounds[axis + 2]
            edges = [low, *(v for centre, half in own for v in (centre - half, centre + half)), high]
            cuts.append([(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1])
        kinds = DISTRICTS[self.district]
        names, weights = list(kinds), np.array(list(kinds.values()))
        for x0, x1 in cuts[0]:
            for y0, y1 in cuts[1]:
                self._block((x0, y0, x1, y1), str(self.rng.choice(names, p=weights / weights.sum())))

    def _block(self, rect: Rect, kind: str) -> None:
        x0, y0, x1, y1 = rect
        if min(x1 - x0, y1 - y0) < 10:  # a traffic island, or the world's edge
            self.paint("pavers", rect)
            return
        if self.district == "country":
            self.paint("meadow", rect)
            inner = (x0 + 2.5, y0 + 2.5, x1 - 2.5, y1 - 2.5)
        else:
            self.paint("pavers", rect)
            self.line(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), 0.25, (178, 182, 184), True)
            walk = self._uniform(3.0, 4.5)
            inner = (x0 + walk, y0 + walk, x1 - walk, y1 - walk)
            self._street_furniture(rect, walk)
        if inner[2] - inner[0] < 12 or inner[3] - inner[1] < 12:
            self.paint("lawn", inner)
            return
        getattr(self, f"_{kind}")(inner)

    def _street_furniture(self, rect: Rect, walk: float) -> None:
        rng = self.rng
        x0, y0, x1, y1 = rect
        species = int(rng.integers(0, 9))
        gap = self._uniform(6.5, 11)
        planted = rng.random() < 0.75
        ring = (x0 + 1.1, y0 + 1.1, x1 - 1.1, y1 - 1.1)
        length = 2 * (ring[2] - ring[0] + ring[3] - ring[1])
        for offset in np.arange(0, length, gap):
            (x, y, yaw), _ = Stroll(ring, float(offset), 1.0).at(0)
            if min(abs(x - x0), abs(x - x1)) < 6 and min(abs(y - y0), abs(y - y1)) < 6:
                continue
            if planted and rng.random() < 0.8:
                radius = self._uniform(1.7, 3.4)
                self.trees.append(Tree(x, y, radius, 2.6 + radius, species))
                self.mark([(x - 0.6, y - 0.6, x + 0.6, y + 0.6)], (70, 88, 100))
            elif rng.random() < 0.25:
                self.add_prop(shapes.lamp_post, x, y, yaw - math.pi / 2)
            elif rng.random() < 0.4:
                self.add_prop(shapes.bin_box, x, y, yaw)
        for offset in np.arange(3, length, 1.8):
            if rng.random() < 0.04:
                (x, y, yaw), _ = Stroll((x0 + 0.5, y0 + 0.5, x1 - 0.5, y1 - 0.5), float(offset), 1.0).at(0)
                self.add_prop(shapes.bollard, x, y, yaw)
        # Walkers.
        for _ in range(rng.poisson(length * 0.045 * self.density * self.footfall)):
            lane = self._uniform(0.8, walk - 0.6)
            path = (x0 + lane, y0 + lane, x1 - lane, y1 - lane)
            speed = float(rng.normal(1.3, 0.2)) * float(rng.choice([-1, 1]))
            self.add_actor(PEDESTRIAN, Stroll(path, self._uniform(0, length), speed))
            if rng.random() < 0.3:
                path = tuple(v + s * 0.65 for v, s in zip(path, (1, 1, -1, -1), strict=True))  # type: ignore[assignment]
                self.add_actor(PEDESTRIAN, Stroll(path, self._uniform(0, length), speed))
        # Rows of parked two-wheelers.
        for _ in range(rng.poisson(0.9 * self.density)):
            begin = self._uniform(0, length)
            ring = (x0 + 1.2, y0 + 1.2, x1 - 1.2, y1 - 1.2)
            mostly = MOTOR if rng.random() < 0.7 else BICYCLE
            for k in range(int(rng.integers(3, 14))):
                (x, y, yaw), _ = Stroll(ring, begin + k * 0.75, 1.0).at(0)
                category = mostly if rng.random() < 0.85 else _pick(rng, _KERB_MIX[:2])
                self.add_actor(category, Still(x, y, yaw + math.pi / 2 + float(rng.normal(0, 0.12))))

    def add_prop(self, maker: shapes.Maker, x: float, y: float, yaw: float) -> None:
        """Put a thing that is not annotated on the ground."""
        self.props.append(Prop(shapes.draw(maker, self.rng), x, y, yaw))

    def add_actor(self, category: int, motion: Motion, with_rider: bool = False) -> None:
        """Add an object, and its rider where it has one."""
        self.actors.append(Actor(category, shapes.draw(shapes.VEHICLES[category], self.rng), motion))
        if with_rider:
            self.actors.append(Actor(PEOPLE, shapes.draw(shapes.rider, self.rng), motion, lift=1.0))

    def scatter_trees(self, rect: Rect, count: int, bushes: float = 0.25) -> None:
        """Plant trees at random places of a rectangle, in clumps; `bushes` is the share of low ones."""
        rng = self.rng
        x0, y0, x1, y1 = rect
        clump: tuple[float, float] | None = None
        for _ in range(count):
            if clump is not None and rng.random() < 0.55:
                x, y = clump[0] + float(rng.normal(0, 4)), clump[1] + float(rng.normal(0, 4))
            else:
                x, y = self._uniform(x0, x1), self._uniform(y0, y1)
            clump = (x, y)
            if not (x0 < x < x1 and y0 < y < y1):
                continue
            if rng.random() < bushes:
                self.trees.append(Tree(x, y, self._uniform(0.6, 1.4), 0.8, int(rng.integers(11, 14))))
            else:
                radius = self._uniform(1.8, 4.2)
                self.trees.append(Tree(x, y, radius, 2.2 + radius, int(rng.integers(0, 11))))

    def add_building(
        self, rect: Rect, storeys: int, roof: str, ridge: float = 0.0, units: float = 1.0
    ) -> None:
        """Add a building with things on its flat roof (`units` scales how many)."""
        rng = self.rng
        height = min(storeys * 3.1, self.max_height)
        height = max(3.1, round(height / 3.1) * 3.1)
        x0, y0, x1, y1 = rect
        on_roof = []
        if ridge == 0:
            for _ in range(rng.poisson(units * (x1 - x0) * (y1 - y0) / 90)):
                x, y = self._uniform(x0 + 2, x1 - 2), self._uniform(y0 + 2, y1 - 2)
                on_roof.append(
                    Prop(
                        shapes.draw(shapes.roof_unit, rng), x, y, float(rng.integers(2)) * math.pi / 2, height
                    )
                )
        self.buildings.append(
            Building(rect, height, roof, ridge, self.wall_style + int(rng.integers(3)), tuple(on_roof))
        )

    def park_cars(self, rect: Rect, fill: float) -> None:
        """Paint rows of bays with aisles between them and park vehicles in them."""
        rng = self.rng
        x0, y0, x1, y1 = rect
        along = 0 if x1 - x0 >= y1 - y0 else 1
        a0, a1 = (x0, x1) if along == 0 else (y0, y1)
        c0, c1 = (y0, y1) if along == 0 else (x0, x1)
        bays: list[Rect] = []
        at = c0 + 0.3
        row = 0
        while at + 5.2 < c1:
            facing = 1 if row % 2 == 0 else -1
            for bay in np.arange(a0 + 1, a1 - 3.0, 2.6):
                bays.append(self.oriented(along, bay - 0.05, bay + 0.05, at, at + 5.0))
                if rng.random() < fill:
                    category = _pick(rng, _PARKING_MIX)
                    if category == TRUCK:
                        continue
                    forward = facing * (1 if rng.random() < 0.8 else -1)
                    centre = (bay + 1.3 + float(rng.normal(0, 0.1)), at + 2.5 + float(rng.normal(0, 0.25)))
                    x, y = centre if along == 0 else centre[::-1]
                    yaw = (math.pi / 2 if along == 0 else 0.0) + (0.0 if forward > 0 else math.pi)
                    self.add_actor(category, Still(x, y, yaw + float(rng.normal(0, 0.03))))
            at += 5.1 if row % 2 == 0 else 11.5
            if row % 2 == 0 and at + 5.2 >= c1:
                break
            # Rows come in pairs, back to back, then an aisle.
            row += 1
            if row % 2 == 1 and at + 5.2 < c1 and rng.random() < 0.25:
                for t in np.arange(a0 + 4, a1 - 3, 12.0):
                    x, y = (t, at) if along == 0 else (at, t)
                    self.trees.append(
                        Tree(float(x), float(y), self._uniform(1.4, 2.2), 3.4, int(rng.integers(0, 9)))
                    )
        self.mark(bays, _WHITE)

    def people_in(self, rect: Rect, count: int, sitting: float, moving: float = 0.5) -> None:
        """Put people, alone and in groups, into a rectangle."""
        rng = self.rng
        x0, y0, x1, y1 = rect
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        for _ in range(round(count * self.footfall)):
            if rng.random() < 0.5:
                x, y = self._uniform(x0, x1), self._uniform(y0, y1)
            else:
                x = float(np.clip(x + rng.normal(0, 1.2), x0, x1))
                y = float(np.clip(y + rng.normal(0, 1.2), y0, y1))
            yaw = self._uniform(0, 2 * math.pi)
            if rng.random() < sitting:
                self.add_actor(PEOPLE, Still(x, y, yaw))
            elif rng.random() < moving and x1 - x0 > 8 and y1 - y0 > 8:
                a, b = (
                    self._uniform(x0, x - 0.5) if x > x0 + 1 else x0,
                    self._uniform(y0, y - 0.5) if y > y0 + 1 else y0,
                )
                path = (a, b, self._uniform(x + 0.5, x1 + 1), self._uniform(y + 0.5, y1 + 1))
                speed = float(rng.normal(1.2, 0.25)) * float(rng.choice([-1, 1]))
                self.add_actor(PEDESTRIAN, Stroll(path, self._uniform(0, 50), speed))
            else:
                self.add_actor(PEDESTRIAN, Still(x, y, yaw))

    # Kinds of blocks.

    def _slabs(self, rect: Rect) -> None:
        rng = self.rng
        self.paint(str(rng.choice(["lawn", "grass", "concrete"])), rect)
        x0, y0, x1, y1 = rect
        along = 0 if x1 - x0 > y1 - y0 else 1
        c0, c1 = (y0, y1) if along == 0 else (x0, x1)
        a0, a1 = (x0, x1) if along == 0 else (y0, y1)
        roof = str(rng.choice(["bitumen", "gravel", "concrete", "metal_blue", "tiles_red"]))
        storeys = int(rng.integers(3, 8))
        depth = self._uniform(11, 15)
        at = c0 + self._uniform(1, 5)
        while at + depth < c1:
            length = self._uniform(26, 52)
            begin = a0 + self._uniform(1, 6)
            while begin + 14 < a1:
                end = min(begin + length, a1 - 1)
                building = self.oriented(along, begin, end, at, at + depth)
                ridge = 2.6 if roof == "tiles_red" else 0.0
                self.add_building(building, storeys, roof, ridge, units=0.8)
                begin = end + self._uniform(5, 12)
            gap = self._uniform(16, 26)
            if at + depth + 10 < c1:
                lane = self.oriented(along, a0, a1, at + depth + 2, at + depth + 8.5)
                self.paint("concrete", lane)
                self.park_cars(
                    self.oriented(along, a0 + 1, a1 - 1, at + depth + 2.4, at + depth + 8.2),
                    min(0.85, 0.5 * self.density),
                )
                green = self.oriented(
                    along, a0 + 2, a1 - 2, at + depth + 10, min(at + depth + gap - 2, c1 - 1)
                )
                if green[2] > green[0] and green[3] > green[1]:
                    self.scatter_trees(green, rng.poisson(0.25 * (a1 - a0)), 0.4)
                    self.people_in(green, rng.poisson(3 * self.density), 0.35)
            at += depth + gap

    def _mall(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("asphalt", rect)
        x0, y0, x1, y1 = rect
        depth = self._uniform(0.4, 0.55) * (y1 - y0)
        building = (x0 + 2, y0 + 2, x1 - 2, y0 + depth)
        self.add_building(
            building,
            int(rng.integers(2, 5)),
            str(rng.choice(["gravel", "bitumen", "concrete", "metal_grey"])),
            0,
            1.6,
        )
        self.paint("plaza", (x0 + 1, y0 + depth, x1 - 1, y0 + depth + 6))
        self.people_in(
            (x0 + 3, y0 + depth + 0.8, x1 - 3, y0 + depth + 5), rng.poisson(14 * self.density), 0.15
        )
        self._stalls((x0 + 3, y0 + depth + 2, x1 - 3, y0 + depth + 4.5), 4)
        if y1 - (y0 + depth + 8) > 7:
            self.park_cars(
                (x0 + 2, y0 + depth + 8, x1 - 2, y1 - 1),
                float(np.clip(self._uniform(0.3, 0.9) * self.density, 0, 0.95)),
            )

    def _stalls(self, rect: Rect, mean: float) -> None:
        rng = self.rng
        for _ in range(rng.poisson(mean)):
            x, y = self._uniform(rect[0], rect[2]), self._uniform(rect[1], rect[3])
            self.add_prop(shapes.stall, x, y, float(rng.normal(0, 0.2)))
            if rng.random() < 0.4 * min(1.5, self.density):
                category = AWNING_TRICYCLE if rng.random() < 0.55 else TRICYCLE
                self.add_actor(category, Still(x + self._uniform(3, 5), y, self._uniform(0, 6.28)))

    def _car_park(self, rect: Rect) -> None:
        self.paint(str(self.rng.choice(["asphalt", "asphalt_dark", "concrete"])), rect)
        fill = float(np.clip(self._uniform(0.25, 0.95) * self.density, 0, 0.95))
        self.park_cars((rect[0] + 1, rect[1] + 1, rect[2] - 1, rect[3] - 1), fill)
        self.people_in(rect, self.rng.poisson(4 * self.density), 0.0)

    def _plaza(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("plaza", rect)
        x0, y0, x1, y1 = rect
        for _ in range(int(rng.integers(2, 6))):
            w, h = self._uniform(5, 14), self._uniform(4, 10)
            x, y = self._uniform(x0, max(x0 + 1, x1 - w)), self._uniform(y0, max(y0 + 1, y1 - h))
            bed = (x, y, x + w, y + h)
            self.paint("lawn", bed)
            self.line(np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]), 0.35, (172, 178, 182), True)
            self.scatter_trees(bed, rng.poisson(w * h / 22), 0.5)
        area = (x1 - x0) * (y1 - y0)
        self.people_in((x0 + 1, y0 + 1, x1 - 1, y1 - 1), rng.poisson(min(90, area / 45) * self.density), 0.18)
        self._stalls((x0 + 2, y0 + 2, x1 - 2, y1 - 2), 6)
        for _ in range(rng.poisson(5)):
            self.props.append(
                Prop(
                    shapes.draw(shapes.bench, rng),
                    self._uniform(x0, x1),
                    self._uniform(y0, y1),
                    self._uniform(0, 6.3),
                )
            )
        for _ in range(rng.poisson(5 * self.density)):
            x, y = self._uniform(x0 + 2, x1 - 2), self._uniform(y0 + 2, y1 - 2)
            self.add_actor(
                _pick(rng, _KERB_MIX), Still(x, y, self._uniform(0, 6.3)), with_rider=rng.random() < 0.3
            )

    def _park(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("grass", rect)
        x0, y0, x1, y1 = rect
        if rng.random() < 0.3 and min(x1 - x0, y1 - y0) > 30:
            cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
            angle = np.linspace(0, 2 * math.pi, 40, endpoint=False)
            wobble = 1 + 0.15 * np.sin(3 * angle + self._uniform(0, 6)) + 0.08 * np.sin(5 * angle)
            pond = np.stack(
                [
                    cx + (x1 - x0) * 0.24 * wobble * np.cos(angle),
                    cy + (y1 - y0) * 0.24 * wobble * np.sin(angle),
                ],
                1,
            )
            self.paint_polygon("water", pond)
            self.line(pond, 0.5, (120, 140, 150), True)
        for _ in range(int(rng.integers(1, 4))):
            points = np.array(
                [
                    (self._uniform(x0, x1), y0),
                    (self._uniform(x0, x1), self._uniform(y0, y1)),
                    (self._uniform(x0, x1), y1),
                ]
            )
            if rng.random() < 0.5:
                points = np.array(
                    [
                        (x0, self._uniform(y0, y1)),
                        (self._uniform(x0, x1), self._uniform(y0, y1)),
                        (x1, self._uniform(y0, y1)),
                    ]
                )
            t = np.linspace(0, 1, 24)[:, None]
            curve = (1 - t) ** 2 * points[0] + 2 * t * (1 - t) * points[1] + t**2 * points[2]
            self.line(curve, 2.4, (150, 168, 180))
            for px, py in curve[::3]:
                if rng.random() < 0.5 * self.density:
                    self.people_in((px - 1, py - 1, px + 1, py + 1), int(rng.integers(1, 4)), 0.2)
                if rng.random() < 0.2:
                    self.props.append(
                        Prop(
                            shapes.draw(shapes.bench, rng), float(px) + 1.8, float(py), self._uniform(0, 6.3)
                        )
                    )
        self.scatter_trees(rect, rng.poisson((x1 - x0) * (y1 - y0) / 55), 0.3)
        self.people_in(rect, rng.poisson(9 * self.density), 0.5)

    def _houses(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("lawn", rect)
        x0, y0, x1, y1 = rect
        roofs = ["tiles_red", "tiles_dark", "metal_grey", "metal_blue"]
        favourite = roofs[int(rng.integers(len(roofs)))]
        row_depth = 24.0
        y = y0 + 1
        while y + 18 < y1:
            x = x0 + 1
            while x + 15 < x1:
                width, depth = self._uniform(9, 13), self._uniform(8, 10.5)
                hx, hy = x + self._uniform(0, 2), y + self._uniform(4, 6)
                roof = favourite if rng.random() < 0.7 else roofs[int(rng.integers(len(roofs)))]
                self.add_building(
                    (hx, hy, hx + width, hy + depth), int(rng.integers(1, 3)), roof, self._uniform(2, 3.4)
                )
                drive = (hx + width + 0.6, y, hx + width + 4.0, hy + depth * 0.8)
                self.paint("concrete", drive)
                for slot in range(2):
                    if rng.random() < 0.42 * self.density:
                        at = (drive[0] + drive[2]) / 2, drive[1] + 3 + slot * 5.4
                        category = CAR if rng.random() < 0.8 else VAN
                        self.add_actor(category, Still(*at, math.pi / 2 * (1 if rng.random() < 0.5 else -1)))
                garden = (hx, hy + depth + 1, hx + width + 4, y + row_depth - 1)
                self.scatter_trees(garden, rng.poisson(4), 0.5)
                self.line(np.array([(x, y), (x + 18, y), (x + 18, y + row_depth)]), 0.2, (120, 132, 140))
                if rng.random() < 0.3:
                    self.add_prop(shapes.shed, hx + 3, y + row_depth - 3, 0.0)
                if rng.random() < 0.35 * self.density:
                    self.people_in((hx, y + 1, hx + width, hy - 1), int(rng.integers(1, 3)), 0.4)
                x += 18
            y += row_depth

    def _court(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("grass", rect)
        x0, y0, x1, y1 = rect
        w, h = 28.0, 15.0
        x = x0 + 2
        while x + w < x1:
            y = y0 + 2
            while y + h < y1:
                self.paint(str(rng.choice(["court_red", "court_green"])), (x, y, x + w, y + h))
                white = (205, 208, 210)
                self.line(
                    np.array(
                        [(x + 1, y + 1), (x + w - 1, y + 1), (x + w - 1, y + h - 1), (x + 1, y + h - 1)]
                    ),
                    0.1,
                    white,
                    True,
                )
                self.line(np.array([(x + w / 2, y + 1), (x + w / 2, y + h - 1)]), 0.1, white)
                angle = np.linspace(0, 2 * math.pi, 30)
                self.line(
                    np.stack([x + w / 2 + 1.8 * np.cos(angle), y + h / 2 + 1.8 * np.sin(angle)], 1),
                    0.1,
                    white,
                )
                self.people_in((x + 1, y + 1, x + w - 1, y + h - 1), rng.poisson(6 * self.density), 0.05, 0.7)
                y += h + 4
            x += w + 4
        self.scatter_trees((x0, y0, x1, y0 + 2), 6, 0.2)

    def _yard(self, rect: Rect) -> None:
        rng = self.rng
        self.paint(str(rng.choice(["dirt", "concrete"], p=[0.75, 0.25])), rect)
        x0, y0, x1, y1 = rect
        for _ in range(6):
            points = np.stack(
                [np.linspace(x0, x1, 12), self._uniform(y0, y1) + np.cumsum(rng.normal(0, 2, 12))], 1
            )
            self.line(np.clip(points, (x0, y0), (x1, y1)), 0.4, (108, 130, 148))
        yaw = float(rng.choice([0.0, math.pi / 2]))
        step = 4.3
        for row in range(int(rng.integers(2, 5))):
            y = self._uniform(y0 + 8, y1 - 8) if y1 - y0 > 18 else (y0 + y1) / 2
            kind = rng.random()
            for x in np.arange(x0 + 4, x1 - 4, step if yaw else 15.0):
                if rng.random() < 0.3:
                    continue
                jitter = float(rng.normal(0, 0.04))
                if kind < 0.5:
                    if rng.random() < 0.75 * self.density:
                        self.add_actor(
                            _pick(rng, _YARD_MIX),
                            Still(float(x), y, yaw + jitter + (math.pi if row % 2 else 0)),
                        )
                elif kind < 0.8:
                    self.add_prop(shapes.container, float(x), y, yaw + jitter)
                else:
                    self.add_prop(shapes.heap, float(x), y + float(rng.normal(0, 3)), jitter)
        for _ in range(rng.poisson(4)):
            self.props.append(
                Prop(
                    shapes.draw(shapes.shed, rng),
                    self._uniform(x0 + 3, x1 - 3),
                    self._uniform(y0, y0 + 4),
                    0.0,
                )
            )
        self.people_in(rect, rng.poisson(7 * self.density), 0.2)
        self.scatter_trees((x0, y1 - 3, x1, y1), rng.poisson(8), 0.6)

    def _halls(self, rect: Rect) -> None:
        rng = self.rng
        self.paint("concrete", rect)
        x0, y0, x1, y1 = rect
        split = y0 + (y1 - y0) * self._uniform(0.45, 0.65)
        roof = str(rng.choice(["metal_blue", "metal_grey", "metal_red", "bitumen"]))
        x = x0 + 2
        while x + 16 < x1:
            end = min(x + self._uniform(20, 40), x1 - 2)
            self.add_building(
                (x, y0 + 2, end, split),
                int(rng.integers(2, 4)),
                roof,
                1.6 if roof.startswith("metal") else 0.0,
                0.8,
            )
            x = end + self._uniform(3, 8)
        for x in np.arange(x0 + 5, x1 - 5, 4.6):
            if rng.random() < 0.4 * self.density and y1 - split > 18:
                self.add_actor(_pick(rng, _YARD_MIX), Still(float(x), split + 8.5, -math.pi / 2))
        if y1 - split > 26:
            self.park_cars((x0 + 2, y1 - 7, x1 - 2, y1 - 1), 0.55 * min(1.5, self.density))
        self.people_in((x0, split + 1, x1, y1), rng.poisson(6 * self.density), 0.15)

    def _field(self, rect: Rect) -> None:
        rng = self.rng
        x0, y0, x1, y1 = rect
        x = x0
        while x < x1:
            end = min(x1, x + self._uniform(25, 70))
            self.paint(
                str(rng.choice(["crops", "soil", "meadow", "grass"], p=[0.45, 0.2, 0.2, 0.15])),
                (x, y0, end, y1),
            )
            if rng.random() < 0.5:
                self.line(np.array([(end, y0), (end, y1)]), 2.6, (128, 150, 166))
                self.scatter_trees((end - 2, y0, end + 4, y1), rng.poisson((y1 - y0) / 9), 0.4)
            x = end
        if rng.random() < 0.4:
            self.people_in((x0 + 5, y0 + 5, x1 - 5, y1 - 5), int(rng.integers(1, 6)), 0.3)

    def _meadow(self, rect: Rect) -> None:
        self.paint("meadow", rect)
        self.scatter_trees(rect, self.rng.poisson((rect[2] - rect[0]) * (rect[3] - rect[1]) / 150), 0.5)

    # Traffic.

    def add_traffic(self) -> None:
        """Fill the lanes: flowing on the roads with green lights, queues on the others."""
        for road in self.roads:
            self._road_traffic(road)

    def _lane(self, road: _Road, side: int, offset: float) -> tuple[tuple[float, float], float, float]:
        """Start, yaw and length of the line `offset` metres right of a road's axis, driving to `side`."""
        low, high = self.bounds[road.axis] - 15, self.bounds[road.axis + 2] + 15
        if road.axis == 0:
            return (
                ((low if side > 0 else high), road.centre - side * offset),
                (0.0 if side > 0 else math.pi),
                high - low,
            )
        return (road.centre + side * offset, (low if side > 0 else high)), side * math.pi / 2, high - low

    def _road_traffic(self, road: _Road) -> None:
        rng = self.rng
        busy = self._uniform(0.4, 1.5) * self.density * (0.6 if self.district == "country" else 1.0)
        for side in (-1, 1):
            for lane in range(road.lanes):
                offset = road.median / 2 + (lane + 0.5) * road.lane_width
                speed = self._uniform(6, 13)
                start, yaw, length = self._lane(road, side, offset)
                blocked = [] if road.flowing else self._stop_intervals(road, side, length)
                at = self._uniform(0, 20)
                while at < length - 14:
                    category = _pick(rng, _LANE_MIX)
                    mesh = shapes.draw(shapes.VEHICLES[category], rng)
                    half = float(mesh.vertices[:, 0].max())
                    at += half
                    jitter = float(rng.normal(0, 0.15))
                    begin = (start[0] - jitter * math.sin(yaw), start[1] + jitter * math.cos(yaw))
                    if road.flowing:
                        self.actors.append(Actor(category, mesh, Drive(begin, yaw, length, at, speed)))
                        at += half + 4 + float(rng.exponential(26 / max(busy, 0.1)))
                        continue
                    # Standing traffic: nobody waits on a crossing, and queues are dense before the lights.
                    hit = next(((a, b) for a, b in blocked if a - half < at < b + half), None)
                    if hit is not None:
                        at = hit[1] + half + self._uniform(1, 12)
                        continue
                    x, y = begin[0] + at * math.cos(yaw), begin[1] + at * math.sin(yaw)
                    self.actors.append(Actor(category, mesh, Still(x, y, yaw + float(rng.normal(0, 0.02)))))
                    ahead = min((a - at for a, _ in blocked if a > at), default=100.0)
                    gap = 2.0 if ahead < 25 * busy else 30 / max(busy, 0.1)
                    at += half + 1.2 + float(rng.exponential(gap))
            self._kerb_traffic(road, side, busy)
        self._crossing_people(road)

    def _stop_intervals(self, road: _Road, side: int, length: float) -> list[tuple[float, float]]:
        """Stretches (from, to) along a lane that crossings occupy, in driving distance."""
        low, high = self.bounds[road.axis] - 15, self.bounds[road.axis + 2] + 15
        intervals = []
        for centre, half in self._crossings(road):
            at = centre - low if side > 0 else high - centre
            intervals.append((at - half - 7.0, at + half + 7.0))
        return sorted(intervals)

    def _kerb_traffic(self, road: _Road, side: int, busy: float) -> None:
        rng = self.rng
        edge = road.median / 2 + road.lanes * road.lane_width
        if road.kerb_parking:
            start, yaw, length = self._lane(road, side, edge + 1.1)
            blocked = self._stop_intervals(road, side, length)
            for at in np.arange(4.0, length, 5.6):
                if rng.random() < 0.5 * min(1.6, self.density) and not any(
                    a - 5 < at < b + 5 for a, b in blocked
                ):
                    x, y = start[0] + at * math.cos(yaw), start[1] + at * math.sin(yaw)
                    category = _pick(rng, _PARKING_MIX)
                    if category != TRUCK:
                        self.add_actor(category, Still(x, y, yaw + float(rng.normal(0, 0.03))))
        start, yaw, length = self._lane(road, side, edge - 0.3)
        blocked = [] if road.flowing else self._stop_intervals(road, side, length)
        speed = self._uniform(4, 6.5)
        at = self._uniform(0, 30)
        while at < length - 10:
            if not any(a - 2 < at < b + 2 for a, b in blocked):
                motion: Motion
                jitter = float(rng.normal(0, 0.1))
                x, y = start[0] - jitter * math.sin(yaw), start[1] + jitter * math.cos(yaw)
                if road.flowing:
                    motion = Drive((x, y), yaw, length, at, speed)
                else:
                    motion = Still(x + at * math.cos(yaw), y + at * math.sin(yaw), yaw)
                self.add_actor(_pick(rng, _KERB_MIX), motion, with_rider=rng.random() < 0.88)
            at += 3.5 + float(rng.exponential(38 / max(busy, 0.1)))

    def _crossing_people(self, road: _Road) -> None:
        """People on the zebra crossings over roads whose traffic waits."""
        if road.flowing or self.district == "country":
            return
        rng = self.rng
        for centre, half in self._crossings(road):
            for begin in (centre - half - 4.4, centre + half + 1.4):
                for _ in range(rng.poisson(2.0 * self.density * self.footfall)):
                    along = begin + self._uniform(0.2, 2.8)
                    across = road.half_width + 2
                    thin = self._uniform(0.4, 1.6)
                    rect = self.oriented(
                        road.axis, along, along + thin, road.centre - across, road.centre + across
                    )
                    speed = float(rng.normal(1.35, 0.2)) * float(rng.choice([-1, 1]))
                    category = PEDESTRIAN
                    self.add_actor(category, Stroll(rect, self._uniform(0, 4 * across), speed))

    # Light.

    def static_shadow(self) -> np.ndarray:
        """Return the shadows of buildings, trees and standing things, uint8."""
        scale = self.resolution * SHADOW_COARSENING
        height, width = (math.ceil(n / SHADOW_COARSENING) for n in self.ground.shape[:2])
        shadow = np.zeros((height, width), np.uint8)
        dx, dy = self.sun.shadow_step
        origin = np.array(self.bounds[:2])

        def to_pixels(points: np.ndarray) -> np.ndarray:
            return ((points - origin) / scale * 16 - 8).round().astype(np.int32)

        for building in self.buildings:
            x0, y0, x1, y1 = building.rect
            foot = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
            # A gable's ridge throws a little farther than its eaves.
            rise = building.height + building.ridge * 0.5
            hull = cv2.convexHull(np.concatenate([foot, foot + rise * np.array((dx, dy))]).astype(np.float32))
            cv2.fillConvexPoly(shadow, to_pixels(hull[:, 0]), 255, cv2.LINE_AA, 4)
        for prop in self.props:
            points = ground_shadow(prop.mesh.vertices, (prop.x, prop.y, prop.yaw), (dx, dy))
            hull = cv2.convexHull(points.astype(np.float32))
            cv2.fillConvexPoly(shadow, to_pixels(hull[:, 0]), 235, cv2.LINE_AA, 4)
        stretch = math.hypot(dx, dy)
        for tree in self.trees:
            sprite = textures.crown(tree.crown)
            size = 2 * tree.radius / 0.92 / scale
            level = int(np.clip(round(math.log2(textures.CROWN_PIXELS / max(size, 1))), 0, len(sprite) - 1))
            cover = 255 - sprite[level][1][:, :, 0]
            # A ball's shadow is stretched along the light; sheared there by the crown's own height.
            x, y = tree.x + tree.height * dx, tree.y + tree.height * dy
            long = math.sqrt(1 + stretch**2 * 0.7)
            n = cover.shape[0]
            cos, sin = math.cos(self.sun.azimuth), math.sin(self.sun.azimuth)
            turn = np.array([[cos, -sin], [sin, cos]])
            shape = turn @ np.diag([long, 1.0]) @ turn.T * (size / n)
            half = size / 2 * long + 2
            u, v = (x - origin[0]) / scale - 0.5, (y - origin[1]) / scale - 0.5
            u0, v0 = max(0, int(u - half)), max(0, int(v - half))
            u1, v1 = min(width, int(u + half) + 2), min(height, int(v + half) + 2)
            if u1 <= u0 or v1 <= v0:
                continue
            shift = np.array([u - u0, v - v0]) - shape @ np.array([(n - 1) / 2, (n - 1) / 2])
            warped = cv2.warpAffine(cover, np.column_stack([shape, shift]), (u1 - u0, v1 - v0))
            area = shadow[v0:v1, u0:u1]
            cv2.max(area, cv2.convertScaleAbs(warped, alpha=0.93), area)
        return shadow

    def weather(self) -> None:
        """Vary the whole ground's brightness and hue over tens of metres, as soil, wear and damp do."""
        height, width = self.ground.shape[:2]
        size = 64
        noise = textures.fractal_noise(size, 1.4, int(self.rng.integers(1 << 31)))
        hue = textures.fractal_noise(size, 1.6, int(self.rng.integers(1 << 31)))
        gain = np.stack(
            [1 + 0.05 * noise - 0.025 * hue, 1 + 0.05 * noise, 1 + 0.05 * noise + 0.025 * hue], axis=2
        )
        field_ = np.clip(gain * 200, 120, 255).astype(np.uint8)
        for row in range(0, height, 512):  # in strips: the full-size factor would not stay in the cache
            strip = self.ground[row : row + 512]
            part = cv2.warpAffine(
                field_,
                np.array([[size / width, 0, 0], [0, size / height, row * size / height]]),
                (width, strip.shape[0]),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            cv2.multiply(strip, part, strip, scale=1 / 200)


def ground_shadow(vertices: np.ndarray, pose: Pose, step: tuple[float, float]) -> np.ndarray:
    """Return where the shadows of a mesh's vertices fall, (V, 2) metres; `step` is `Sun.shadow_step`."""
    cos, sin = math.cos(pose[2]), math.sin(pose[2])
    x = pose[0] + cos * vertices[:, 0] - sin * vertices[:, 1] + step[0] * vertices[:, 2]
    y = pose[1] + sin * vertices[:, 0] + cos * vertices[:, 1] + step[1] * vertices[:, 2]
    return np.stack([x, y], axis=1)


def build_world(
    rng: np.random.Generator,
    bounds: Rect,
    *,
    metres_per_pixel: float,
    density: float,
    sun: Sun,
    district: str,
    max_height: float,
    footfall: float,
    spread: float,
) -> World:
    """Lay out, paint and populate a world.

    Args:
        rng: Source of all chance.
        bounds: Area in metres.
        metres_per_pixel: Resolution of the ground picture.
        density: Factor on the number of objects; 1 is a usual day.
        sun: The light.
        district: A key of `DISTRICTS`.
        footfall: Further factor on the number of people on foot.
        spread: A road passes within this many metres of the origin.
        max_height: No building's walls rise above this many metres (the camera must stay above the roofs).

    Raises:
        ValueError: The district is unknown.
    """
    if district not in DISTRICTS:
        raise ValueError(f"unknown district '{district}'; known: {', '.join(DISTRICTS)}")
    builder = _Builder(rng, bounds, metres_per_pixel, density, sun, district, max_height, footfall, spread)
    steps: tuple[Callable[[], None], ...] = (
        builder.lay_roads,
        builder.lay_blocks,
        builder.paint_roads,
        builder.add_traffic,
        builder.weather,
    )
    for step in steps:
        step()
    shadow = cv2.GaussianBlur(builder.static_shadow(), (3, 3), 0)
    return World(
        bounds,
        metres_per_pixel,
        textures.mip_chain(builder.ground),
        textures.mip_chain(shadow),
        sun,
        builder.buildings,
        builder.trees,
        builder.props,
        builder.actors,
    )
