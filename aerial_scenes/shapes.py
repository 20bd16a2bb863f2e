"""Polygon models of what moves and stands in an aerial scene: vehicles, people, street furniture.

A model is a `Mesh` in metres with its own frame: x forward, y left, z up, the ground at z = 0. Sizes are
those of common real vehicles. Colours are BGR, 0 to 255, as they look in full light.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Colour = tuple[float, float, float]
MAX_CORNERS = 8

GLASS: Colour = (62, 52, 44)
TYRE: Colour = (30, 29, 28)
LAMP: Colour = (225, 232, 235)
TAIL_LAMP: Colour = (40, 35, 150)
SKIN: Colour = (120, 150, 195)


@dataclass(frozen=True)
class Mesh:
    """Convex faces, painted in the order of `layer`, then from far to near by part, then as listed.

    Attributes:
        vertices: (V, 3) float32, metres.
        faces: (F, 8) vertex indices, anticlockwise seen from outside; short faces repeat their last corner.
        normals: (F, 3) unit vectors outward.
        colours: (F, 3) BGR.
        layers: (F,) stacking order: higher layers lie on top of lower ones.
        parts: (F,) index of the convex part that the face belongs to.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    colours: np.ndarray
    layers: np.ndarray
    parts: np.ndarray

    @cached_property
    def radius(self) -> float:
        """Distance of the farthest vertex from the origin, metres."""
        return float(np.linalg.norm(self.vertices, axis=1).max())


def _shade(colour: Colour, factor: float) -> Colour:
    return (min(255.0, colour[0] * factor), min(255.0, colour[1] * factor), min(255.0, colour[2] * factor))


def _rectangle(
    length: float, width: float, chamfer: float = 0.0, x: float = 0.0, y: float = 0.0
) -> np.ndarray:
    """Anticlockwise outline (K, 2) of a rectangle around (x, y), its corners cut by `chamfer` metres."""
    a, b = length / 2, width / 2
    if chamfer <= 0:
        outline = [(-a, -b), (a, -b), (a, b), (-a, b)]
    else:
        c = chamfer
        outline = [
            (-a + c, -b),
            (a - c, -b),
            (a, -b + c),
            (a, b - c),
            (a - c, b),
            (-a + c, b),
            (-a, b - c),
            (-a, -b + c),
        ]
    return np.array(outline) + np.array([x, y])


class MeshBuilder:
    """Collects faces into a `Mesh`."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._faces: list[list[int]] = []
        self._colours: list[Colour] = []
        self._layers: list[int] = []
        self._parts: list[int] = []
        self._count = 0
        self._layer = 0
        self._part = -1

    def part(self, layer: int) -> MeshBuilder:
        """Begin a convex part on `layer`."""
        self._layer = layer
        self._part += 1
        return self

    def polygon(self, corners: np.ndarray | Sequence[Sequence[float]], colour: Colour) -> MeshBuilder:
        """Add a face from (K, 3) corners, K <= 8, anticlockwise seen from outside."""
        points = np.asarray(corners, dtype=np.float64)
        index = list(range(self._count, self._count + len(points)))
        self._vertices.append(points)
        self._count += len(points)
        self._faces.append(index + [index[-1]] * (MAX_CORNERS - len(index)))
        self._colours.append(colour)
        self._layers.append(self._layer)
        self._parts.append(self._part)
        return self

    def frustum(
        self,
        base: np.ndarray,
        top: np.ndarray,
        z0: float,
        z1: float,
        sides: Colour | Sequence[Colour],
        lid: Colour | None,
    ) -> MeshBuilder:
        """Add the sides and the lid between two outlines (K, 2) of equal length at heights `z0` and `z1`."""
        count = len(base)
        for i in range(count):
            j = (i + 1) % count
            colour = sides[i] if isinstance(sides[0], tuple) else sides
            self.polygon([(*base[i], z0), (*base[j], z0), (*top[j], z1), (*top[i], z1)], colour)  # type: ignore[arg-type]
        if lid is not None:
            self.polygon([(*corner, z1) for corner in top], lid)
        return self

    def box(
        self,
        length: float,
        width: float,
        z0: float,
        z1: float,
        side: Colour,
        lid: Colour,
        x: float = 0,
        y: float = 0,
        chamfer: float = 0.0,
    ) -> MeshBuilder:
        """Add an upright box around (x, y)."""
        outline = _rectangle(length, width, chamfer, x, y)
        return self.frustum(outline, outline, z0, z1, side, lid)

    def patch(self, x0: float, x1: float, y0: float, y1: float, z: float, colour: Colour) -> MeshBuilder:
        """Add a horizontal rectangle seen from above."""
        return self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], colour)

    def build(self) -> Mesh:
        """Return the mesh."""
        vertices = np.concatenate(self._vertices).astype(np.float32)
        faces = np.array(self._faces, dtype=np.int32)
        corners = vertices[faces]
        # Newell's method: also right for faces that repeat corners.
        following = np.roll(corners, -1, axis=1)
        normals = np.cross(corners, following).sum(axis=1)
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
        return Mesh(
            vertices,
            faces,
            normals.astype(np.float32),
            np.array(self._colours, dtype=np.float32),
            np.array(self._layers, dtype=np.int32),
            np.array(self._parts, dtype=np.int32),
        )


def _wheels(
    builder: MeshBuilder, length: float, width: float, axles: Sequence[float], radius: float = 0.33
) -> None:
    for x in axles:
        for side in (-1, 1):
            y = side * (width / 2 + 0.01)
            xs = (x - radius, x + radius) if side < 0 else (x + radius, x - radius)
            corners = [(xs[0], y, 0.02), (xs[1], y, 0.02), (xs[1], y, 2 * radius), (xs[0], y, 2 * radius)]
            builder.polygon(corners, TYRE)


def _lamps(builder: MeshBuilder, length: float, width: float, z: float) -> None:
    half, edge = length / 2, width / 2
    for side in (-1, 1):
        y0, y1 = sorted((side * edge * 0.95, side * edge * 0.55))
        builder.patch(half - 0.38, half - 0.08, y0, y1, z, LAMP)
        builder.patch(-half + 0.05, -half + 0.22, y0, y1, z, TAIL_LAMP)


# Paints weighted as in traffic: mostly white, black, grey and silver.
_CAR_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((236, 237, 236), 0.30),
    ((38, 36, 35), 0.20),
    ((178, 180, 180), 0.13),
    ((112, 110, 108), 0.11),
    ((40, 38, 150), 0.07),
    ((120, 70, 38), 0.07),
    ((160, 200, 212), 0.04),
    ((58, 92, 128), 0.03),
    ((60, 190, 225), 0.02),
    ((80, 105, 50), 0.03),
)


def _pick_colour(
    rng: np.random.Generator, paints: Sequence[tuple[Colour, float]], spread: float = 0.1
) -> Colour:
    weights = np.array([weight for _, weight in paints])
    base = paints[int(rng.choice(len(paints), p=weights / weights.sum()))][0]
    blue, green, red = np.clip(
        np.array(base) * rng.uniform(1 - spread, 1 + spread) + rng.normal(0, 4, 3), 12, 250
    )
    return (float(blue), float(green), float(red))


def car(rng: np.random.Generator) -> Mesh:
    """Saloon, hatchback or SUV."""
    kind = int(rng.choice(3, p=(0.5, 0.25, 0.25)))
    length = float((rng.uniform(4.5, 4.95), rng.uniform(3.7, 4.3), rng.uniform(4.5, 4.9))[kind])
    width = float(rng.uniform(1.75, 1.9))
    height = float((1.45, 1.5, 1.72)[kind] + rng.uniform(-0.04, 0.04))
    paint = _pick_colour(rng, _CAR_PAINTS)
    belt = 0.56 * height
    b = MeshBuilder()
    b.part(0)
    low, high = _rectangle(length, width, 0.3), _rectangle(length * 0.985, width * 0.97, 0.28)
    b.frustum(low, high, 0.22, belt, _shade(paint, 0.92), paint)
    _wheels(b, length, width, (-0.3 * length, 0.31 * length))
    _lamps(b, length, width, belt + 0.01)
    # The shut lines of bonnet and boot.
    b.patch(0.24 * length, 0.255 * length, -0.4 * width, 0.4 * width, belt + 0.01, _shade(paint, 0.72))
    # Positions along the car of: rear glass foot, rear roof edge, front roof edge, windscreen foot.
    foot_rear, roof_rear = ((-0.38, -0.24), (-0.485, -0.40), (-0.485, -0.41))[kind]
    roof_front, foot_front = ((0.04, 0.20), (0.08, 0.24), (0.08, 0.22))[kind]
    inset = 0.93 * width / 2
    roof = 0.78 * width / 2
    bottom = np.array(
        [
            (foot_rear * length, -inset),
            (foot_front * length, -inset),
            (foot_front * length, inset),
            (foot_rear * length, inset),
        ]
    )
    top = np.array(
        [
            (roof_rear * length, -roof),
            (roof_front * length, -roof),
            (roof_front * length, roof),
            (roof_rear * length, roof),
        ]
    )
    sky = float(rng.uniform(0.9, 1.7))
    glass = _shade(GLASS, sky)
    b.part(1).frustum(
        bottom, top, belt, height, (_shade(glass, 0.8), glass, _shade(glass, 0.8), _shade(glass, 0.9)), paint
    )
    if rng.random() < 0.2:
        b.patch(-0.08 * length, 0.03 * length, -roof * 0.7, roof * 0.7, height + 0.01, _shade(GLASS, 0.9))
    elif kind == 2 and rng.random() < 0.6:
        for y in (-roof * 0.92, roof * 0.85):
            b.patch(
                roof_rear * length * 0.9,
                roof_front * length * 0.9,
                y,
                y + 0.07,
                height + 0.02,
                _shade(paint, 0.55),
            )
    elif rng.random() < 0.1:  # a taxi's sign
        b.part(2).box(0.25, 0.6, height, height + 0.15, (70, 210, 240), (90, 225, 245), x=-0.05 * length)
    return b.build()


_VAN_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((238, 238, 236), 0.55),
    ((175, 178, 178), 0.18),
    ((70, 66, 62), 0.1),
    ((140, 100, 60), 0.07),
    ((60, 160, 205), 0.05),
    ((45, 50, 140), 0.05),
)


def van(rng: np.random.Generator) -> Mesh:
    """Minibus or panel van: a car's colours and size, but one volume with a short nose."""
    length, width, height = (
        float(rng.uniform(4.3, 5.6)),
        float(rng.uniform(1.7, 2.0)),
        float(rng.uniform(1.85, 2.35)),
    )
    paint = _pick_colour(rng, _VAN_PAINTS)
    belt = 0.52 * height
    glass = _shade(GLASS, float(rng.uniform(0.9, 1.5)))
    panel = rng.random() < 0.4
    b = MeshBuilder()
    b.part(0)
    outline = _rectangle(length, width, 0.2)
    b.frustum(outline, _rectangle(length * 0.99, width * 0.98, 0.2), 0.22, belt, _shade(paint, 0.92), paint)
    _wheels(b, length, width, (-0.31 * length, 0.31 * length))
    _lamps(b, length, width, belt + 0.01)
    nose = float(rng.uniform(0.36, 0.43))
    half = 0.96 * width / 2
    roof = 0.88 * width / 2
    bottom = np.array(
        [(-0.49 * length, -half), (nose * length, -half), (nose * length, half), (-0.49 * length, half)]
    )
    front = nose - float(rng.uniform(0.1, 0.15))
    top = np.array(
        [(-0.475 * length, -roof), (front * length, -roof), (front * length, roof), (-0.475 * length, roof)]
    )
    side = _shade(paint, 0.95) if panel else glass
    b.part(1).frustum(bottom, top, belt, height, (side, glass, side, side if panel else glass), paint)
    # Pressed ribs of the roof.
    for x in np.arange(-0.4, front - 0.08, 0.12):
        b.patch(x * length, x * length + 0.06, -roof * 0.85, roof * 0.85, height + 0.01, _shade(paint, 0.86))
    if rng.random() < 0.15:
        b.part(2).box(
            1.0, 0.8, height, height + 0.18, _shade(paint, 0.8), _shade(paint, 0.9), x=-0.1 * length
        )
    return b.build()


_TRUCK_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((140, 80, 40), 0.3),
    ((45, 45, 165), 0.27),
    ((225, 226, 226), 0.25),
    ((60, 150, 200), 0.08),
    ((90, 120, 60), 0.1),
)
_CARGO_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((222, 224, 224), 0.4),
    ((150, 95, 55), 0.2),
    ((60, 62, 140), 0.15),
    ((120, 125, 125), 0.15),
    ((85, 130, 70), 0.1),
)


def truck(rng: np.random.Generator) -> Mesh:
    """Box lorry, tipper with an open load, flatbed or tanker; light to heavy."""
    heavy = rng.random() < 0.45
    length = float(rng.uniform(8.5, 13.0) if heavy else rng.uniform(5.4, 7.5))
    width = float(rng.uniform(2.35, 2.55) if heavy else rng.uniform(1.95, 2.2))
    cab_length = float(rng.uniform(2.0, 2.5) if heavy else rng.uniform(1.5, 1.9))
    cab_height = float(rng.uniform(2.7, 3.2) if heavy else rng.uniform(2.0, 2.3))
    paint = _pick_colour(rng, _TRUCK_PAINTS)
    cargo = _pick_colour(rng, _CARGO_PAINTS)
    b = MeshBuilder()
    b.part(0).box(length * 0.97, width * 0.8, 0.5, 0.95, (45, 44, 42), (58, 56, 54))
    _wheels(b, length, width, (-0.4 * length, -0.3 * length, 0.38 * length), 0.45 if heavy else 0.38)
    cab_x = length / 2 - cab_length / 2
    b.part(1)
    base = _rectangle(cab_length, width * 0.98, 0.12, cab_x)
    b.frustum(base, base, 0.45, cab_height * 0.55, paint, None)
    roof = _rectangle(cab_length * 0.86, width * 0.9, 0.12, cab_x - cab_length * 0.05)
    glass = _shade(GLASS, 1.1)
    # Outline order: right side, front right corner, front, front left corner, left side, then the rear.
    colours = (glass, glass, glass, glass, glass, paint, paint, paint)
    b.frustum(base, roof, cab_height * 0.55, cab_height, colours, paint)
    if heavy:
        b.patch(cab_x - 0.6, cab_x + 0.2, -width * 0.3, width * 0.3, cab_height + 0.01, _shade(paint, 0.8))
    bed = length - cab_length - 0.35
    x = -length / 2 + bed / 2
    kind = int(rng.choice(4, p=(0.38, 0.36, 0.16, 0.1)))
    b.part(1)
    if kind == 0:
        top = cab_height + float(rng.uniform(0.1, 0.7))
        b.box(bed, width, 0.95, top, _shade(cargo, 0.93), cargo, x)
        for offset in np.arange(-bed / 2 + 0.5, bed / 2 - 0.3, 1.1):
            b.patch(
                x + offset, x + offset + 0.08, -width * 0.48, width * 0.48, top + 0.01, _shade(cargo, 0.86)
            )
    elif kind == 1:
        wall = float(rng.uniform(1.6, 2.4))
        load: Colour = _pick_colour(
            rng,
            (((95, 130, 160), 0.4), ((60, 62, 66), 0.3), ((140, 90, 50), 0.2), ((150, 160, 165), 0.1)),
            0.2,
        )
        b.box(bed, width, 0.95, wall, cargo, _shade(cargo, 0.9), x)
        b.patch(
            x - bed / 2 + 0.12,
            x + bed / 2 - 0.12,
            -width / 2 + 0.12,
            width / 2 - 0.12,
            wall + 0.01,
            _shade(load, 0.75),
        )
        if rng.random() < 0.7:
            heap = _rectangle(bed - 0.3, width - 0.3, 0.0, x)
            b.frustum(
                heap, _rectangle(bed * 0.6, width * 0.4, 0.0, x), wall, wall + 0.45, load, _shade(load, 1.08)
            )
    elif kind == 2:
        b.box(bed, width, 0.95, 1.15, (70, 78, 84), (88, 100, 108), x)
        for offset in np.arange(-bed / 2 + 0.8, bed / 2 - 0.8, 1.9):
            if rng.random() < 0.65:
                goods = _pick_colour(rng, _CARGO_PAINTS, 0.3)
                size = float(rng.uniform(0.6, 1.3))
                b.part(2).box(1.5, width * 0.8, 1.15, 1.15 + size, goods, _shade(goods, 1.05), x + offset)
    else:
        low, high = _rectangle(bed, width * 0.95, 0.0, x), _rectangle(bed * 0.98, width * 0.4, 0.0, x)
        b.frustum(low, low, 0.95, 2.0, _shade(cargo, 0.95), None)
        b.frustum(low, high, 2.0, 2.7, cargo, _shade(cargo, 1.05))
        for offset in (-0.25, 0.05, 0.3):
            b.patch(x + offset * bed - 0.3, x + offset * bed + 0.3, -0.3, 0.3, 2.71, (70, 70, 70))
    return b.build()


_BUS_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((225, 228, 228), 0.3),
    ((70, 175, 90), 0.2),
    ((60, 170, 230), 0.15),
    ((160, 90, 40), 0.2),
    ((50, 50, 180), 0.15),
)


def bus(rng: np.random.Generator) -> Mesh:
    """City bus or coach."""
    length, width, height = float(rng.uniform(8.5, 12.2)), 2.5, float(rng.uniform(2.9, 3.3))
    paint = _pick_colour(rng, _BUS_PAINTS)
    lid = _shade((228, 230, 230), float(rng.uniform(0.85, 1.0))) if rng.random() < 0.6 else paint
    glass = _shade(GLASS, 1.1)
    low = _rectangle(length, width, 0.18)
    b = MeshBuilder()
    b.part(0).frustum(low, low, 0.25, 1.1, paint, None)
    b.frustum(low, low, 1.1, height * 0.72, glass, None)
    b.frustum(
        low, _rectangle(length * 0.985, width * 0.94, 0.18), height * 0.72, height, _shade(paint, 0.95), lid
    )
    _wheels(b, length, width, (-0.28 * length, 0.3 * length), 0.48)
    b.part(1)
    unit = _shade(lid, 0.82)
    b.box(2.2, 1.6, height, height + 0.22, unit, _shade(lid, 0.9), x=-0.18 * length, chamfer=0.15)
    for x in (0.12, 0.33):
        b.box(0.7, 0.7, height, height + 0.08, unit, _shade(lid, 0.7), x=x * length)
    if rng.random() < 0.5:
        stripe = _pick_colour(rng, _BUS_PAINTS)
        for y in (-1, 1):
            y0, y1 = sorted((y * width * 0.45, y * width * 0.37))
            b.patch(-0.46 * length, 0.46 * length, y0, y1, height + 0.01, stripe)
    return b.build()


_CLOTHES: tuple[tuple[Colour, float], ...] = (
    ((45, 42, 40), 0.27),
    ((215, 216, 220), 0.2),
    ((120, 75, 45), 0.15),
    ((60, 55, 160), 0.12),
    ((120, 118, 115), 0.1),
    ((150, 130, 200), 0.06),
    ((80, 180, 215), 0.04),
    ((95, 125, 70), 0.06),
)
_TROUSERS: tuple[tuple[Colour, float], ...] = (
    ((48, 42, 38), 0.5),
    ((95, 65, 45), 0.3),
    ((140, 160, 170), 0.1),
    ((200, 205, 205), 0.1),
)


def _upper_body(
    b: MeshBuilder, rng: np.random.Generator, hip: float, lean: float = 0.0, x: float = 0.0, layer: int = 1
) -> None:
    """Torso, arms and head above `hip` metres; `lean` moves the shoulders forward."""
    shirt = _pick_colour(rng, _CLOTHES, 0.15)
    hair: Colour = (28, 30, 36) if rng.random() < 0.8 else _pick_colour(rng, _CLOTHES, 0.2)
    shoulder = hip + 0.58
    low = _rectangle(0.22, 0.36, 0.06, x)
    high = _rectangle(0.24, 0.46, 0.07, x + lean)
    b.part(layer).frustum(low, high, hip, shoulder, shirt, _shade(shirt, 1.05))
    for side in (-1, 1):
        arm = _rectangle(0.12, 0.1, 0.0, x + lean * 0.8 + float(rng.uniform(-0.12, 0.2)), side * 0.27)
        b.part(layer).frustum(
            arm,
            _rectangle(0.12, 0.1, 0.0, x + lean, side * 0.24),
            hip + 0.05,
            shoulder,
            _shade(shirt, 0.9),
            shirt,
        )
    head = _rectangle(0.22, 0.19, 0.06, x + lean + 0.02)
    b.part(layer + 1).frustum(head, head, shoulder + 0.03, shoulder + 0.17, SKIN, None)
    b.frustum(head, _rectangle(0.17, 0.14, 0.05, x + lean), shoulder + 0.17, shoulder + 0.29, hair, hair)
    if rng.random() < 0.06:  # an umbrella
        cloth = _pick_colour(rng, _CLOTHES, 0.3)
        rim = _rectangle(0.95, 0.95, 0.28, x + lean)
        b.part(layer + 2).frustum(
            rim, _rectangle(0.1, 0.1, 0.03, x + lean), shoulder + 0.35, shoulder + 0.6, cloth, cloth
        )


def pedestrian(rng: np.random.Generator) -> Mesh:
    """A person who stands or walks."""
    trousers = _pick_colour(rng, _TROUSERS, 0.15)
    hip = float(rng.uniform(0.76, 0.92))
    stride = float(rng.uniform(0.0, 0.26))
    b = MeshBuilder()
    for side in (-1, 1):
        foot = _rectangle(0.2, 0.13, 0.0, side * stride, side * 0.1)
        b.part(0).frustum(foot, _rectangle(0.18, 0.16, 0.0, 0.0, side * 0.09), 0.0, hip, trousers, trousers)
    _upper_body(b, rng, hip, lean=0.04)
    return b.build()


def sitting_person(rng: np.random.Generator) -> Mesh:
    """A person who sits, squats or lies: VisDrone's "people"."""
    trousers = _pick_colour(rng, _TROUSERS, 0.15)
    b = MeshBuilder()
    if rng.random() < 0.2:
        shirt = _pick_colour(rng, _CLOTHES)
        b.part(0).box(0.85, 0.34, 0.05, 0.25, trousers, trousers, x=0.45)
        b.part(0).box(0.6, 0.44, 0.05, 0.28, shirt, shirt, x=-0.28)
        b.part(0).box(0.22, 0.2, 0.08, 0.3, SKIN, (30, 32, 38), x=-0.72)
        return b.build()
    seat = float(rng.uniform(0.15, 0.5))
    b.part(0).box(0.55, 0.34, max(0.0, seat - 0.1), seat + 0.1, trousers, trousers, x=0.22)
    _upper_body(b, rng, seat, lean=0.08)
    return b.build()


def rider(rng: np.random.Generator) -> Mesh:
    """A person on a bicycle, motor or tricycle: VisDrone's "people"."""
    trousers = _pick_colour(rng, _TROUSERS, 0.15)
    b = MeshBuilder()
    for side in (-1, 1):
        knee = _rectangle(0.42, 0.13, 0.0, 0.2, side * 0.16)
        b.part(0).frustum(_rectangle(0.2, 0.12, 0.0, 0.25, side * 0.18), knee, 0.3, 0.85, trousers, trousers)
    _upper_body(b, rng, 0.8, lean=0.18)
    return b.build()


_SCOOTER_PAINTS: tuple[tuple[Colour, float], ...] = (
    ((50, 45, 160), 0.25),
    ((40, 40, 42), 0.25),
    ((215, 218, 220), 0.2),
    ((150, 85, 40), 0.15),
    ((90, 190, 215), 0.15),
)


def motor(rng: np.random.Generator) -> Mesh:
    """Scooter or motorcycle."""
    paint = _pick_colour(rng, _SCOOTER_PAINTS)
    length = float(rng.uniform(1.65, 2.05))
    b = MeshBuilder()
    b.part(0).box(0.55, 0.13, 0.0, 0.55, TYRE, TYRE, x=length / 2 - 0.28)
    b.part(0).box(0.55, 0.16, 0.0, 0.55, TYRE, TYRE, x=-length / 2 + 0.28)
    b.part(1).frustum(
        _rectangle(length * 0.72, 0.34, 0.08),
        _rectangle(length * 0.62, 0.3, 0.08),
        0.25,
        0.74,
        _shade(paint, 0.9),
        paint,
    )
    b.patch(-length * 0.3, length * 0.06, -0.13, 0.13, 0.75, (36, 34, 34))
    b.part(1).frustum(
        _rectangle(0.16, 0.36, 0.0, length * 0.36),
        _rectangle(0.14, 0.42, 0.0, length * 0.3),
        0.4,
        1.05,
        paint,
        _shade(paint, 1.05),
    )
    b.part(2).box(0.08, 0.72, 0.98, 1.06, (40, 40, 42), (60, 60, 62), x=length * 0.26)
    if rng.random() < 0.35:
        case = _pick_colour(rng, _SCOOTER_PAINTS)
        b.part(2).box(0.36, 0.4, 0.75, 1.1, case, _shade(case, 1.05), x=-length * 0.4)
    return b.build()


def bicycle(rng: np.random.Generator) -> Mesh:
    """Bicycle: a motor's outline, but a thin frame that shows the ground."""
    paint = _pick_colour(rng, _SCOOTER_PAINTS)
    length = float(rng.uniform(1.6, 1.8))
    b = MeshBuilder()
    for x in (length / 2 - 0.33, -length / 2 + 0.33):
        b.part(0).box(0.66, 0.06, 0.02, 0.66, (58, 58, 58), (52, 52, 52), x=x)
    b.part(1).box(length * 0.55, 0.07, 0.5, 0.72, paint, paint)
    b.part(1).box(0.1, 0.06, 0.5, 1.0, paint, paint, x=length * 0.26)
    b.part(2).box(0.26, 0.16, 0.85, 0.95, (34, 34, 36), (40, 40, 42), x=-length * 0.14)
    b.part(2).box(0.07, 0.56, 0.98, 1.04, (130, 130, 132), (150, 150, 152), x=length * 0.24)
    if rng.random() < 0.35:
        b.part(2).box(0.3, 0.3, 0.75, 1.0, (110, 112, 115), (80, 84, 90), x=length * 0.4)
    return b.build()


def _tricycle_base(b: MeshBuilder, rng: np.random.Generator) -> tuple[float, float, float, Colour]:
    paint = _pick_colour(rng, _SCOOTER_PAINTS)
    length, width = float(rng.uniform(2.5, 3.1)), float(rng.uniform(1.05, 1.3))
    bed = length * 0.56
    b.part(0).box(0.5, 0.16, 0.0, 0.55, TYRE, TYRE, x=length / 2 - 0.25)
    b.part(0).box(0.5, width + 0.06, 0.0, 0.5, TYRE, TYRE, x=-length / 2 + 0.5)
    b.part(1).box(length * 0.42, 0.4, 0.3, 0.7, paint, _shade(paint, 0.8), x=length * 0.24, chamfer=0.1)
    b.part(2).box(0.08, 0.75, 0.95, 1.03, (40, 40, 42), (60, 60, 62), x=length * 0.33)
    b.part(2).box(0.14, 0.45, 0.5, 1.0, paint, paint, x=length * 0.38)
    return length, width, bed, paint


def tricycle(rng: np.random.Generator) -> Mesh:
    """Cargo tricycle with an open bed."""
    b = MeshBuilder()
    length, width, bed, paint = _tricycle_base(b, rng)
    x = -length / 2 + bed / 2
    b.part(1).box(bed, width, 0.45, 0.95, paint, paint, x)
    b.patch(x - bed / 2 + 0.07, x + bed / 2 - 0.07, -width / 2 + 0.07, width / 2 - 0.07, 0.96, (92, 96, 100))
    if rng.random() < 0.6:
        load = _pick_colour(rng, _CARGO_PAINTS, 0.3)
        b.part(2).box(
            bed * float(rng.uniform(0.4, 0.85)),
            width * 0.8,
            0.96,
            float(rng.uniform(1.1, 1.5)),
            load,
            _shade(load, 1.05),
            x,
        )
    return b.build()


def awning_tricycle(rng: np.random.Generator) -> Mesh:
    """Tricycle under a roof of cloth or sheet metal."""
    b = MeshBuilder()
    length, width, bed, paint = _tricycle_base(b, rng)
    x = -length / 2 + bed / 2
    b.part(1).box(bed, width, 0.4, 0.9, paint, _shade(paint, 0.7), x)
    awning = _pick_colour(
        rng, (((50, 45, 170), 0.35), ((150, 80, 40), 0.3), ((80, 130, 60), 0.15), ((205, 208, 210), 0.2))
    )
    cover = length * float(rng.uniform(0.62, 0.95))
    x = -length / 2 + cover / 2
    rim = _rectangle(cover, width * 1.08, 0.0, x)
    glass = _shade(GLASS, 1.3)
    b.part(2).frustum(
        _rectangle(cover * 0.95, width, 0.0, x),
        _rectangle(cover * 0.95, width, 0.0, x),
        0.9,
        1.45,
        glass,
        None,
    )
    b.part(3).frustum(
        rim, _rectangle(cover * 0.96, width * 0.55, 0.0, x), 1.5, 1.72, _shade(awning, 0.95), awning
    )
    return b.build()


def excavator(rng: np.random.Generator) -> Mesh:
    """Construction machine: VisDrone's "others"."""
    paint: Colour = (45, float(rng.uniform(150, 185)), float(rng.uniform(205, 230)))
    b = MeshBuilder()
    for y in (-1.05, 1.05):
        b.part(0).box(3.4, 0.55, 0.0, 0.8, (42, 42, 44), (60, 62, 64), y=y)
    b.part(1).box(2.8, 2.3, 0.9, 2.0, _shade(paint, 0.9), paint, x=-0.5, chamfer=0.25)
    b.part(2).box(1.2, 0.9, 2.0, 2.9, GLASS, _shade(paint, 0.9), x=0.3, y=0.65)
    b.part(2).box(3.4, 0.4, 2.0, 2.5, paint, paint, x=2.0, y=-0.3)
    b.part(1).box(0.9, 1.0, 0.0, 0.8, (70, 72, 75), (80, 82, 85), x=4.0, y=-0.3)
    return b.build()


Maker = Callable[[np.random.Generator], Mesh]

VEHICLES: dict[int, Maker] = {
    1: pedestrian,
    2: sitting_person,
    3: bicycle,
    4: car,
    5: van,
    6: truck,
    7: tricycle,
    8: awning_tricycle,
    9: bus,
    10: motor,
    11: excavator,
}
"""Model makers by VisDrone category."""


def container(rng: np.random.Generator) -> Mesh:
    """Shipping container: a lorry's body without the lorry."""
    paint = _pick_colour(rng, _CARGO_PAINTS, 0.2)
    length = 6.06 if rng.random() < 0.7 else 12.19
    b = MeshBuilder()
    b.part(0).box(length, 2.44, 0.0, 2.6, _shade(paint, 0.95), paint)
    for x in np.arange(-length / 2 + 0.3, length / 2 - 0.2, 0.6):
        b.patch(x, x + 0.12, -1.2, 1.2, 2.61, _shade(paint, 0.85))
    return b.build()


def shed(rng: np.random.Generator) -> Mesh:
    """Site hut or garden shed with a shallow roof."""
    length, width, height = (
        float(rng.uniform(2.5, 6.0)),
        float(rng.uniform(2.0, 3.0)),
        float(rng.uniform(2.0, 2.6)),
    )
    wall = _pick_colour(rng, (((205, 208, 210), 0.5), ((110, 130, 150), 0.3), ((150, 150, 140), 0.2)))
    roof = _pick_colour(rng, (((165, 100, 50), 0.35), ((60, 65, 140), 0.3), ((130, 132, 134), 0.35)))
    b = MeshBuilder()
    b.part(0).box(length, width, 0.0, height, wall, roof)
    top = _rectangle(length + 0.4, width + 0.4)
    b.part(1).frustum(top, _rectangle(length * 0.98, 0.1), height, height + 0.5, roof, roof)
    return b.build()


def stall(rng: np.random.Generator) -> Mesh:
    """Market stall or parasol: an awning without a tricycle."""
    size = float(rng.uniform(1.8, 3.2))
    cloth = _pick_colour(
        rng, (((55, 50, 185), 0.35), ((165, 90, 45), 0.3), ((210, 214, 216), 0.2), ((90, 150, 70), 0.15))
    )
    b = MeshBuilder()
    b.part(0).box(size * 0.7, size * 0.5, 0.0, 0.9, (90, 110, 130), (110, 125, 140))
    chamfer = size * 0.28 if rng.random() < 0.5 else 0.0
    rim = _rectangle(size, size, chamfer)
    b.part(1).frustum(rim, _rectangle(size * 0.1, size * 0.1, chamfer * 0.1), 2.0, 2.5, cloth, cloth)
    return b.build()


def bin_box(rng: np.random.Generator) -> Mesh:
    """Waste bin, switch cabinet or letter box: the size of a person seen from above."""
    paint = _pick_colour(rng, (((70, 110, 60), 0.4), ((120, 120, 118), 0.4), ((140, 90, 50), 0.2)))
    b = MeshBuilder()
    b.part(0).box(
        float(rng.uniform(0.5, 1.3)),
        float(rng.uniform(0.45, 0.8)),
        0.0,
        float(rng.uniform(0.9, 1.5)),
        paint,
        _shade(paint, 1.1),
    )
    return b.build()


def bollard(rng: np.random.Generator) -> Mesh:
    """Bollard, hydrant or traffic cone."""
    paint = _pick_colour(rng, (((60, 60, 60), 0.4), ((60, 120, 235), 0.3), ((200, 205, 205), 0.3)))
    b = MeshBuilder()
    b.part(0).frustum(
        _rectangle(0.36, 0.36, 0.08),
        _rectangle(0.2, 0.2, 0.05),
        0.0,
        float(rng.uniform(0.7, 1.1)),
        paint,
        _shade(paint, 1.1),
    )
    return b.build()


def bench(rng: np.random.Generator) -> Mesh:
    """Park bench."""
    wood: Colour = (62, 92, float(rng.uniform(115, 145)))
    b = MeshBuilder()
    b.part(0).box(0.5, 1.7, 0.35, 0.45, (60, 60, 60), wood)
    b.part(1).box(0.08, 1.7, 0.45, 0.85, wood, wood, x=-0.25)
    return b.build()


def lamp_post(rng: np.random.Generator) -> Mesh:
    """Street lamp with an arm over the road."""
    grey: Colour = (150, 152, 152)
    height = float(rng.uniform(6.5, 9.0))
    b = MeshBuilder()
    b.part(0).box(0.2, 0.2, 0.0, height, grey, grey)
    b.part(1).box(2.2, 0.12, height, height + 0.12, grey, grey, x=1.0)
    b.part(2).box(0.7, 0.28, height - 0.02, height + 0.12, grey, (205, 208, 210), x=2.1)
    return b.build()


def heap(rng: np.random.Generator) -> Mesh:
    """Pile of sand, gravel or rubble."""
    size = float(rng.uniform(1.5, 4.5))
    colour = _pick_colour(rng, (((95, 130, 160), 0.5), ((120, 122, 124), 0.5)), 0.2)
    b = MeshBuilder()
    base = _rectangle(size, size * float(rng.uniform(0.6, 1.0)), size * 0.2)
    b.part(0).frustum(base, base * 0.25, 0.0, size * 0.3, colour, _shade(colour, 1.1))
    return b.build()


def roof_unit(rng: np.random.Generator) -> Mesh:
    """Air conditioner, stair head, water tank or skylight on a flat roof: the size of a car."""
    kind = int(rng.choice(3, p=(0.55, 0.2, 0.25)))
    b = MeshBuilder()
    if kind == 0:
        length, width = float(rng.uniform(0.9, 2.6)), float(rng.uniform(0.8, 1.5))
        grey = _pick_colour(rng, (((190, 192, 192), 0.7), ((120, 122, 124), 0.3)))
        b.part(0).box(length, width, 0.0, float(rng.uniform(0.7, 1.4)), grey, _shade(grey, 1.05))
        top = float(b.build().vertices[:, 2].max()) + 0.01
        for x in np.arange(-length / 2 + 0.2, length / 2 - 0.5, 0.8):
            b.polygon(_disc(0.28, x + 0.3, 0.0, top), (70, 70, 70))
    elif kind == 1:
        wall = _pick_colour(rng, (((200, 205, 208), 0.6), ((150, 165, 180), 0.4)))
        b.part(0).box(float(rng.uniform(3.0, 5.0)), 2.6, 0.0, 2.4, wall, _shade(wall, 0.9))
    else:
        paint = _pick_colour(rng, (((205, 206, 205), 0.5), ((150, 95, 50), 0.3), ((90, 90, 95), 0.2)))
        ring = _disc(1.0, 0.0, 0.0, 0.0)[:, :2] * float(rng.uniform(0.6, 1.1))
        b.part(0).frustum(ring, ring * 0.92, 0.0, 1.6, paint, _shade(paint, 1.05))
    return b.build()


def _disc(radius: float, x: float, y: float, z: float) -> np.ndarray:
    angle = np.arange(MAX_CORNERS) * (2 * np.pi / MAX_CORNERS)
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle), np.full(MAX_CORNERS, z)], axis=1)


VARIANTS = 160
"""Number of different meshes of each kind; a world draws from them rather than building its own."""


@functools.cache
def _variant(maker: Maker, index: int) -> Mesh:
    return maker(np.random.default_rng([index, *maker.__name__.encode()]))


def draw(maker: Maker, rng: np.random.Generator) -> Mesh:
    """Return one of the `VARIANTS` meshes that `maker` makes."""
    return _variant(maker, int(rng.integers(VARIANTS)))
