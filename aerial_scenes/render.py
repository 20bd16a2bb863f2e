"""Draws a world through a camera, and says what can be seen of each object.

Painter's algorithm: the ground picture is warped, shadows darken it, then buildings, trees and objects are
painted from back to front. Each annotated object also paints its number into an index picture, which yields
how much of it stays visible.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import cv2
import numpy as np

from aerial_scenes import textures
from aerial_scenes.camera import Camera
from aerial_scenes.shapes import Mesh
from aerial_scenes.world import Building, Prop, World, ground_shadow

_NEAR = 0.5
"""Nothing closer to the camera than this many metres along its axis is drawn."""
_SHIFT = 4
_ONE = 1 << _SHIFT


@dataclass(frozen=True)
class Look:
    """What air, lens and sensor do to a picture.

    Attributes:
        exposure: Factor on all light.
        contrast: Exponent of the tone curve about mid grey; 1 is linear.
        cast: Factors on blue, green and red.
        visibility: Metres at which haze takes 63 % of the contrast.
        haze_colour: BGR.
        vignette: Share of light lost in the corners.
        blur: Standard deviation of the lens blur in pixels.
        noise: Standard deviation of the sensor noise in grey levels.
        jpeg_quality: Of the compression round trip, 1 to 100.
        seed: Of the noise.
    """

    exposure: float
    contrast: float
    cast: tuple[float, float, float]
    visibility: float
    haze_colour: tuple[float, float, float]
    vignette: float
    blur: float
    noise: float
    jpeg_quality: int
    seed: int


@dataclass(frozen=True)
class Sighting:
    """One actor as the camera sees it.

    Attributes:
        actor: Index in `World.actors`.
        lap: How often its motion began anew.
        box: (x0, y0, x1, y1) in pixels, the edges of its outline, not clipped to the image.
        visible: Share of its pixels inside the image that nothing hides, 0 to 1.
        distance: Metres from the camera.
    """

    actor: int
    lap: int
    box: tuple[float, float, float, float]
    visible: float
    distance: float


@functools.lru_cache(maxsize=256)
def _facade_chain(style: int, storeys: int, bays: int) -> list[np.ndarray]:
    return textures.mip_chain(textures.facade(style, storeys, bays))


@functools.cache
def _roof_chain(kind: str) -> list[np.ndarray]:
    return textures.mip_chain(textures.roof_tile(kind))


@functools.lru_cache(maxsize=4)
def _noise_plate(height: int, width: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    noise = rng.standard_normal((height + 64, width + 64, 3), dtype=np.float32)
    # Demosaicing correlates neighbours and channels a little.
    noise = (
        cv2.GaussianBlur(noise, (3, 3), 0.55) * 1.6
        + 0.5 * rng.standard_normal(noise.shape[:2], dtype=np.float32)[..., None]
    )
    return np.clip(noise * 24 + 128, 0, 255).astype(np.uint8)


def _clip_near(points: np.ndarray, camera: Camera) -> np.ndarray:
    """Cut a polygon (K, 3) by the camera's near plane (Sutherland and Hodgman)."""
    depth = (points - np.array(camera.position)) @ camera.rotation[2] - _NEAR
    if (depth >= 0).all():
        return points
    kept = []
    for i in range(len(points)):
        j = (i + 1) % len(points)
        if depth[i] >= 0:
            kept.append(points[i])
        if (depth[i] >= 0) != (depth[j] >= 0):
            t = depth[i] / (depth[i] - depth[j])
            kept.append(points[i] + t * (points[j] - points[i]))
    return np.array(kept).reshape(-1, 3)


def _fixed(pixels: np.ndarray) -> np.ndarray:
    """Fixed-point pixels for OpenCV, kept inside what its fixed-point arithmetic can hold."""
    return np.round(np.clip(pixels, -20000, 20000) * _ONE).astype(np.int32)


@dataclass
class _Batch:
    """Vertices and faces of many placed meshes, as flat arrays; `first_face` delimits each mesh's faces."""

    pixels: np.ndarray
    faces: np.ndarray
    first_vertex: np.ndarray
    first_face: np.ndarray
    colours: list[list[float]]
    order: np.ndarray
    boxes: np.ndarray
    reference: np.ndarray


class Renderer:
    """Draws one world; keeps what does not change from frame to frame.

    Args:
        world: What to draw.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self._props: list[tuple[Prop, int]] = [(prop, -1) for prop in world.props]
        for index, building in enumerate(world.buildings):
            self._props += [(unit, index) for unit in building.units]
        self._prop_poses = np.array([(p.x, p.y, p.z, p.yaw) for p, _ in self._props]).reshape(-1, 4)
        self._prop_radii = np.array([p.mesh.radius for p, _ in self._props])
        self._actor_radii = np.array([a.mesh.radius for a in world.actors])
        self._trees = np.array([(t.x, t.y, t.height, t.radius) for t in world.trees]).reshape(-1, 4)
        lit = self._ambient + self._direct * math.sin(world.sun.elevation)
        self._exposure = 1 / lit

    @property
    def _ambient(self) -> float:
        return 0.92 - 0.42 * self.world.sun.strength

    @property
    def _direct(self) -> float:
        return 0.62 * self.world.sun.strength

    def draw(
        self, camera: Camera, time: float, look: Look, *, without: frozenset[int] = frozenset()
    ) -> tuple[np.ndarray, list[Sighting]]:
        """Draw one picture.

        Args:
            camera: The view; sizes and boxes are those of its image.
            time: Seconds since the world's beginning.
            look: Air, lens and sensor.
            without: Indices of actors to leave out.

        Returns:
            The image (height, width, 3) BGR uint8, and a sighting for each actor of which the image's area
            holds any part, near to far.
        """
        image, sightings = self._draw_scene(camera, time, without)
        return _develop(image, camera, look), sightings

    # Geometry.

    def _draw_scene(
        self, camera: Camera, time: float, without: frozenset[int]
    ) -> tuple[np.ndarray, list[Sighting]]:
        world = self.world
        states = [actor.motion.at(time) for actor in world.actors]
        poses = np.array([(p[0], p[1], 0.0, p[2]) for p, _ in states]).reshape(-1, 4)
        actors = [i for i in self._in_view(camera, poses, self._actor_radii) if i not in without]
        props = self._in_view(camera, self._prop_poses, self._prop_radii)
        meshes = [world.actors[i].mesh for i in actors] + [self._props[i][0].mesh for i in props]
        placed = np.concatenate([poses[actors], self._prop_poses[props]])
        attached = np.array([-1] * len(actors) + [self._props[i][1] for i in props], dtype=int)
        trees = self._in_view(camera, self._trees, self._trees[:, 3] if len(self._trees) else np.zeros(0))

        canvas = self._warp_map(world.ground, camera)
        mask = self._warp_map(world.shadow, camera)
        homography = camera.ground_homography()
        step = world.sun.shadow_step
        for i in actors:
            points = ground_shadow(world.actors[i].mesh.vertices, states[i][0], step)
            projected = np.column_stack([points, np.ones(len(points))]) @ homography.T
            if (projected[:, 2] < _NEAR).any():
                continue
            hull = cv2.convexHull((projected[:, :2] / projected[:, 2:]).astype(np.float32))
            cv2.fillConvexPoly(mask, _fixed(hull[:, 0]), 245, cv2.LINE_AA, _SHIFT)
        mask = cv2.GaussianBlur(mask, (3, 3), 0)
        shaded = self._ambient * self._exposure
        ramp = np.linspace(0, 1, 256)[:, None]
        # Shade is lit by the sky: darker and bluer.
        gain = 255 * (1 - ramp * (1 - shaded * np.array([1.06, 1.0, 0.95])))
        cv2.multiply(
            canvas,
            cv2.applyColorMap(mask, np.clip(gain, 0, 255).astype(np.uint8).reshape(256, 1, 3)),
            canvas,
            1 / 255,
        )

        ids = np.zeros(canvas.shape[:2], np.uint16)
        buildings, rank_of = self._building_order(camera)
        batch = self._batch(camera, meshes, placed) if meshes else None
        items: list[tuple[float, float, int, int]] = []
        position = np.array(camera.position)
        if batch is not None:
            lifts = np.array([world.actors[i].lift for i in actors] + [0.0] * len(props))
            distances = np.linalg.norm(batch.reference - position, axis=1) - lifts
            ranks = self._ranks(camera, batch.reference, batch.boxes, buildings)
            for k in range(len(meshes)):
                rank = rank_of.get(int(attached[k]), -1.0) + 0.5 if attached[k] >= 0 else ranks[k]
                items.append((float(rank), -float(distances[k]), 0, k))
        if len(trees):
            crowns = self._trees[trees]
            reference = crowns[:, :3] + np.array([0, 0, 0.3]) * crowns[:, 3:]
            centres, depth = camera.project(crowns[:, :3])
            size = crowns[:, 3] * camera.focal / depth
            boxes = np.column_stack([centres - size[:, None], centres + size[:, None]])
            distances = np.linalg.norm(reference - position, axis=1)
            # By its foot: a crown that rises above a roof in front of it is still behind the house.
            feet = crowns[:, :3] * np.array([1.0, 1.0, 0.0])
            ranks = self._ranks(camera, feet, boxes, buildings)
            for k in range(len(trees)):
                items.append((float(ranks[k]), -float(distances[k]), 1, k))
        for rank, index in enumerate(buildings):
            items.append((float(rank), 0.0, 2, index))
        items.sort()

        sun_image = camera.rotation[:2] @ world.sun.direction
        sun_angle = math.atan2(sun_image[1], sun_image[0])
        drawn: dict[int, tuple[int, tuple[slice, slice]]] = {}
        for _, _, kind, k in items:
            if kind == 2:
                self._draw_building(canvas, ids, camera, world.buildings[k])
            elif kind == 1:
                tree = world.trees[trees[k]]
                self._draw_tree(canvas, ids, camera, tree.crown, crowns[k], sun_angle)
            elif batch is not None:
                number = k + 1 if k < len(actors) else 0
                window = self._draw_mesh(canvas, ids, batch, k, number)
                if number and window is not None:
                    drawn[k] = (int(np.count_nonzero(ids[window] == number)), window)
        sightings = []
        for k, (count, window) in drawn.items():
            if count and batch is not None:
                visible = int(np.count_nonzero(ids[window] == k + 1)) / count
                x0, y0, x1, y1 = (float(v) for v in batch.boxes[k])
                distance = float(np.linalg.norm(batch.reference[k] - position))
                sightings.append(
                    Sighting(actors[k], states[actors[k]][1], (x0, y0, x1, y1), visible, distance)
                )
        sightings.sort(key=lambda s: (s.distance, s.actor))
        return canvas, sightings

    def _in_view(self, camera: Camera, poses: np.ndarray, radii: np.ndarray) -> list[int]:
        if not len(poses):
            return []
        pixels, depth = camera.project(poses[:, :3])
        reach = radii * camera.focal / np.maximum(depth, 0.1)
        inside = (
            (depth > radii + _NEAR)
            & (pixels[:, 0] > -reach)
            & (pixels[:, 0] < camera.width + reach)
            & (pixels[:, 1] > -reach)
            & (pixels[:, 1] < camera.height + reach)
        )
        return [int(i) for i in np.flatnonzero(inside)]

    def _warp_map(self, chain: list[np.ndarray], camera: Camera) -> np.ndarray:
        """Project a map of the ground; each band of rows takes the mip level that fits its scale."""
        x0, y0, x1, y1 = self.world.bounds
        homography = camera.ground_homography()
        width, height = camera.width, camera.height
        bands = 8
        edges = np.linspace(0, height, bands + 1).round().astype(int)
        out = np.empty((height, width, *chain[0].shape[2:]), np.uint8)
        finest = (x1 - x0) / chain[0].shape[1]
        levels = []
        for top, bottom in itertools.pairwise(edges):
            row = (top + bottom) / 2
            probe = np.array([[width / 2, row], [width / 2 + 1, row], [width / 2, row + 1]])
            ground = camera.ground_points(probe)
            across = np.linalg.norm(ground[1] - ground[0])
            along = np.linalg.norm(ground[2] - ground[0])
            scale = math.sqrt(across * along) / finest
            levels.append(int(np.clip(math.floor(math.log2(max(scale, 1e-6)) + 0.35), 0, len(chain) - 1)))
        begin = 0
        for band in range(1, bands + 1):
            if band < bands and levels[band] == levels[begin]:
                continue
            source = chain[levels[begin]]
            per_x, per_y = (x1 - x0) / source.shape[1], (y1 - y0) / source.shape[0]
            to_ground = np.array([[per_x, 0, x0 + per_x / 2], [0, per_y, y0 + per_y / 2], [0, 0, 1]])
            top, bottom = int(edges[begin]), int(edges[band])
            shift = np.array([[1, 0, 0], [0, 1, -top], [0, 0, 1.0]])
            out[top:bottom] = cv2.warpPerspective(
                source,
                shift @ homography @ to_ground,
                (width, bottom - top),
                borderMode=cv2.BORDER_REFLECT_101,
            )
            begin = band
        return out

    def _batch(self, camera: Camera, meshes: list[Mesh], poses: np.ndarray) -> _Batch:
        world = self.world
        vertex_counts = np.array([len(m.vertices) for m in meshes])
        face_counts = np.array([len(m.faces) for m in meshes])
        first_vertex = np.concatenate([[0], np.cumsum(vertex_counts)])
        part_counts = np.array([int(m.parts[-1]) + 1 for m in meshes])
        first_part = np.concatenate([[0], np.cumsum(part_counts)])
        of_vertex = np.repeat(np.arange(len(meshes)), vertex_counts)
        of_face = np.repeat(np.arange(len(meshes)), face_counts)
        local = np.concatenate([m.vertices for m in meshes]).astype(np.float64)
        cos, sin = np.cos(poses[:, 3]), np.sin(poses[:, 3])
        vertices = np.empty_like(local)
        vertices[:, 0] = cos[of_vertex] * local[:, 0] - sin[of_vertex] * local[:, 1] + poses[of_vertex, 0]
        vertices[:, 1] = sin[of_vertex] * local[:, 0] + cos[of_vertex] * local[:, 1] + poses[of_vertex, 1]
        vertices[:, 2] = local[:, 2] + poses[of_vertex, 2]
        pixels, _ = camera.project(vertices)
        faces = np.concatenate([m.faces for m in meshes]) + first_vertex[of_face][:, None]
        flat = np.concatenate([m.normals for m in meshes]).astype(np.float64)
        normals = np.empty_like(flat)
        normals[:, 0] = cos[of_face] * flat[:, 0] - sin[of_face] * flat[:, 1]
        normals[:, 1] = sin[of_face] * flat[:, 0] + cos[of_face] * flat[:, 1]
        normals[:, 2] = flat[:, 2]
        centroids = vertices[faces[:, :4]].mean(axis=1)
        to_camera = np.array(camera.position) - centroids
        facing = np.einsum("ij,ij->i", normals, to_camera) > 0
        corners = pixels[faces]
        following = corners[:, np.r_[1:8, 0]]
        area = 0.5 * np.abs(
            (corners[..., 0] * following[..., 1] - corners[..., 1] * following[..., 0]).sum(axis=1)
        )
        keep = facing & (area > 0.12)

        shade = self._shade_at(centroids)
        light = self._ambient * (0.78 + 0.22 * normals[:, 2])
        light += self._direct * np.maximum(0, normals @ world.sun.direction) * (1 - shade)
        colours = np.concatenate([m.colours for m in meshes]) * (light * self._exposure)[:, None]

        part = np.concatenate([m.parts for m in meshes]) + first_part[of_face]
        far = np.linalg.norm(to_camera, axis=1)
        part_far = np.bincount(part, far, first_part[-1]) / np.maximum(
            np.bincount(part, minlength=first_part[-1]), 1
        )
        layers = np.concatenate([m.layers for m in meshes])
        order = np.lexsort((np.arange(len(faces)), -part_far[part], layers, of_face))
        order = order[keep[order]]
        kept_counts = np.bincount(of_face[order], minlength=len(meshes))
        low = np.minimum.reduceat(pixels, first_vertex[:-1], axis=0)
        high = np.maximum.reduceat(pixels, first_vertex[:-1], axis=0)
        top = np.maximum.reduceat(vertices[:, 2], first_vertex[:-1])
        reference = np.column_stack([poses[:, :2], (poses[:, 2] + top) / 2])
        return _Batch(
            _fixed(pixels),
            _fixed(pixels)[faces],
            first_vertex,
            np.concatenate([[0], np.cumsum(kept_counts)]),
            np.clip(colours, 0, 255).tolist(),
            order,
            np.column_stack([low - 0.5, high + 0.5]),
            reference,
        )

    def _shade_at(self, points: np.ndarray) -> np.ndarray:
        """Return how much static shadow (0 to 1) falls on points (N, 3): that of the ground behind them."""
        step = self.world.sun.shadow_step
        x0, y0, x1, y1 = self.world.bounds
        shadow = self.world.shadow[0]
        u = (points[:, 0] + step[0] * points[:, 2] - x0) / (x1 - x0) * shadow.shape[1]
        v = (points[:, 1] + step[1] * points[:, 2] - y0) / (y1 - y0) * shadow.shape[0]
        rows = np.clip(v.astype(int), 0, shadow.shape[0] - 1)
        columns = np.clip(u.astype(int), 0, shadow.shape[1] - 1)
        return shadow[rows, columns] / 255.0

    # Order.

    def _building_order(self, camera: Camera) -> tuple[list[int], dict[int, float]]:
        """Return the buildings in view from back to front, and the rank of each."""
        world = self.world
        seen = []
        for index, building in enumerate(world.buildings):
            x0, y0, x1, y1 = building.rect
            top = building.height + building.ridge
            corners = np.array([(x, y, z) for x in (x0, x1) for y in (y0, y1) for z in (0.0, top)])
            pixels, depth = camera.project(corners)
            if depth.max() < _NEAR:
                continue
            if depth.min() > _NEAR and (
                pixels[:, 0].max() < 0
                or pixels[:, 0].min() > camera.width
                or pixels[:, 1].max() < 0
                or pixels[:, 1].min() > camera.height
            ):
                continue
            seen.append((index, -float(np.linalg.norm(corners.mean(axis=0) - camera.position))))
        seen.sort(key=lambda pair: pair[1])
        waiting = [index for index, _ in seen]
        order: list[int] = []
        cx, cy, _ = camera.position

        def before(a: int, b: int) -> bool:
            """Whether building `a` lies on the camera's side of a wall of `b`."""
            a0, b0, a1, b1 = world.buildings[a].rect
            c0, d0, c1, d1 = world.buildings[b].rect
            return (
                (cx < c0 and a1 <= c0)
                or (cx > c1 and a0 >= c1)
                or (cy < d0 and b1 <= d0)
                or (cy > d1 and b0 >= d1)
            )

        while waiting:
            for candidate in waiting:
                if not any(
                    before(candidate, other) and not before(other, candidate)
                    for other in waiting
                    if other != candidate
                ):
                    break
            else:  # a cycle: take the farthest
                candidate = waiting[0]
            waiting.remove(candidate)
            order.append(candidate)
        return order, {index: float(rank) for rank, index in enumerate(order)}

    def _ranks(
        self, camera: Camera, points: np.ndarray, boxes: np.ndarray, buildings: list[int]
    ) -> np.ndarray:
        """Return for each point the place before the first building that may hide it, in painting order."""
        ranks = np.full(len(points), len(buildings) + 1.0)
        cx, cy, cz = camera.position
        x, y, z = points.T
        for rank in range(len(buildings) - 1, -1, -1):
            building = self.world.buildings[buildings[rank]]
            x0, y0, x1, y1 = building.rect
            top = building.height + building.ridge
            corners = np.array([(a, b, c) for a in (x0, x1) for b in (y0, y1) for c in (0.0, top)])
            pixels, depth = camera.project(corners)
            front = np.zeros(len(points), bool)
            if cx < x0:
                front |= x < x0
            if cx > x1:
                front |= x > x1
            if cy < y0:
                front |= y < y0
            if cy > y1:
                front |= y > y1
            if cz > top:
                front |= z > top
            behind = ~front
            if depth.min() > _NEAR:
                low, high = pixels.min(axis=0), pixels.max(axis=0)
                behind &= (
                    (boxes[:, 0] < high[0])
                    & (boxes[:, 2] > low[0])
                    & (boxes[:, 1] < high[1])
                    & (boxes[:, 3] > low[1])
                )
            ranks[behind] = rank - 0.25
        return ranks

    # Painting.

    def _draw_mesh(
        self, canvas: np.ndarray, ids: np.ndarray, batch: _Batch, k: int, number: int
    ) -> tuple[slice, slice] | None:
        height, width = ids.shape
        x0, y0, x1, y1 = batch.boxes[k]
        u0, v0 = max(0, math.floor(x0)), max(0, math.floor(y0))
        u1, v1 = min(width, math.ceil(x1) + 1), min(height, math.ceil(y1) + 1)
        if u1 <= u0 or v1 <= v0:
            return None
        for face in batch.order[batch.first_face[k] : batch.first_face[k + 1]]:
            cv2.fillConvexPoly(canvas, batch.faces[face], batch.colours[face], cv2.LINE_AA, _SHIFT)
        hull = cv2.convexHull(batch.pixels[batch.first_vertex[k] : batch.first_vertex[k + 1]])
        cv2.fillConvexPoly(ids, hull, number, cv2.LINE_8, _SHIFT)
        return slice(v0, v1), slice(u0, u1)

    def _draw_tree(
        self,
        canvas: np.ndarray,
        ids: np.ndarray,
        camera: Camera,
        index: int,
        crown: np.ndarray,
        sun_angle: float,
    ) -> None:
        x, y, height, radius = (float(v) for v in crown)
        points, depth = camera.project(np.array([(x, y, 0.0), (x, y, height)]))
        (fu, fv), (u, v) = points
        scale = camera.focal / float(depth[1])
        size = radius * scale
        shade = float(self._shade_at(np.array([[x, y, height + radius]]))[0])
        if math.hypot(fu - u, fv - v) > size * 0.8 and radius > 1.5:
            trunk = np.array([34, 44, 54]) * (1 - 0.4 * shade)
            cv2.line(
                canvas,
                (round(fu), round(fv)),
                (round(u), round(v)),
                trunk.tolist(),
                max(1, round(0.3 * scale)),
                cv2.LINE_AA,
            )
        levels = textures.crown(index)
        pixels = 2 * size / 0.92
        level = int(
            np.clip(math.floor(math.log2(textures.CROWN_PIXELS / max(pixels, 1)) + 0.3), 0, len(levels) - 1)
        )
        colour, inverse = levels[level]
        n = colour.shape[0]
        half = pixels / 2 * 1.1 + 2
        rows, columns = canvas.shape[:2]
        u0, v0 = max(0, math.floor(u - half)), max(0, math.floor(v - half))
        u1, v1 = min(columns, math.ceil(u + half) + 1), min(rows, math.ceil(v + half) + 1)
        if u1 <= u0 or v1 <= v0:
            return
        tall = 1 + 0.18 * math.sin(camera.pitch)
        cos, sin = math.cos(sun_angle), math.sin(sun_angle)
        matrix = np.diag([1.0, tall]) @ np.array([[cos, -sin], [sin, cos]]) * (pixels / n)
        shift = np.array([u - u0, v - v0]) - matrix @ np.array([(n - 1) / 2, (n - 1) / 2])
        affine = np.column_stack([matrix, shift])
        window = canvas[v0:v1, u0:u1]
        leaves = cv2.warpAffine(colour, affine, (u1 - u0, v1 - v0))
        gaps = cv2.warpAffine(inverse, affine, (u1 - u0, v1 - v0), borderValue=(255, 255, 255))
        sun = self.world.sun.strength
        gain = (0.86 + 0.14 * sun) * (1 - 0.45 * sun * shade)
        cv2.multiply(window, gaps, window, 1 / 255)
        cv2.add(window, cv2.convertScaleAbs(leaves, alpha=gain), window)
        cv2.ellipse(
            ids, (round(u), round(v)), (round(size * 0.86), round(size * 0.86 * tall)), 0, 0, 360, 0, -1
        )

    def _draw_building(self, canvas: np.ndarray, ids: np.ndarray, camera: Camera, building: Building) -> None:
        x0, y0, x1, y1 = building.rect
        height = building.height
        cx, cy, _ = camera.position
        storeys = max(1, round(height / 3.1))
        style = building.facade % 24
        # Corners anticlockwise from the south west; wall i runs from corner i to corner i + 1.
        corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
        outward = ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))
        visible = (cy < y0, cx > x1, cy > y1, cx < x0)
        for i in range(4):
            if not visible[i]:
                continue
            a, b = corners[i], corners[(i + 1) % 4]
            length = float(np.abs(b - a).sum())
            chain = _facade_chain(style, storeys, max(1, round(length / 3.4)))
            rows, columns = chain[0].shape[:2]
            origin = np.array([*a, height])
            axis_u = np.array([*((b - a) / columns), 0.0])
            axis_v = np.array([0, 0, -height / rows])
            polygon = np.array([(*a, 0.0), (*b, 0.0), (*b, height), (*a, height)])
            self._draw_textured(
                canvas, ids, camera, polygon, origin, axis_u, axis_v, chain, self._light((*outward[i], 0.0))
            )
        if building.ridge > 0:
            self._draw_gable(canvas, ids, camera, building)
            return
        chain = _roof_chain(building.roof)
        unit = textures.ROOF_METRES_PER_PIXEL
        polygon = np.column_stack([corners, np.full(4, height)])
        origin = np.array([x0, y0, height])
        self._draw_textured(
            canvas,
            ids,
            camera,
            polygon,
            origin,
            np.array([unit, 0, 0]),
            np.array([0, unit, 0]),
            chain,
            1.0,
            wrap=True,
        )
        inset = np.array(
            [(x0 + 0.3, y0 + 0.3), (x1 - 0.3, y0 + 0.3), (x1 - 0.3, y1 - 0.3), (x0 + 0.3, y1 - 0.3)]
        )
        pixels, depth = camera.project(np.column_stack([inset, np.full(4, height)]))
        if depth.min() > _NEAR:
            scale = camera.focal / float(depth.mean())
            # The parapet, and its shadow on the sides away from the sun's light.
            dx, dy = self.world.sun.shadow_step
            reach = 0.8 * min(3.0, math.hypot(dx, dy))
            shadow = inset[[3, 0]] if dx > 0 else inset[[1, 2]]
            drop = np.array([reach * np.sign(dx), 0.0])
            self._darken(canvas, camera, np.array([*shadow, *(shadow[::-1] + drop)]), height)
            shadow = inset[[0, 1]] if dy > 0 else inset[[2, 3]]
            drop = np.array([0.0, reach * np.sign(dy)])
            self._darken(canvas, camera, np.array([*shadow, *(shadow[::-1] + drop)]), height)
            cv2.polylines(
                canvas,
                [_fixed(pixels)],
                True,
                (186, 190, 192),
                max(1, round(0.35 * scale)),
                cv2.LINE_AA,
                _SHIFT,
            )

    def _darken(self, canvas: np.ndarray, camera: Camera, quad: np.ndarray, height: float) -> None:
        """Put a horizontal quadrilateral (4, 2) at `height` into shade."""
        pixels, _ = camera.project(np.column_stack([quad, np.full(4, height)]))
        rows, columns = canvas.shape[:2]
        u0, v0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
        u1, v1 = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 1, (columns, rows))
        if u1 <= u0 or v1 <= v0:
            return
        mask = np.zeros((v1 - v0, u1 - u0), np.uint8)
        cv2.fillConvexPoly(mask, _fixed(pixels - (u0, v0)), 255, cv2.LINE_8, _SHIFT)
        window = canvas[v0:v1, u0:u1]
        cv2.copyTo(cv2.convertScaleAbs(window, alpha=self._ambient * self._exposure), mask, window)

    def _draw_gable(self, canvas: np.ndarray, ids: np.ndarray, camera: Camera, building: Building) -> None:
        x0, y0, x1, y1 = building.rect
        low, top = building.height, building.height + building.ridge
        along_x = x1 - x0 >= y1 - y0
        over = 0.5
        if along_x:
            mid = (y0 + y1) / 2
            ridge = np.array([(x0 - over, mid, top), (x1 + over, mid, top)])
            eaves = (
                np.array([(x0 - over, y0 - over, low), (x1 + over, y0 - over, low)]),
                np.array([(x0 - over, y1 + over, low), (x1 + over, y1 + over, low)]),
            )
            ends = (
                np.array([(x0, y0, low), (x0, y1, low), (x0, mid, top)]),
                np.array([(x1, y0, low), (x1, y1, low), (x1, mid, top)]),
            )
            end_normals = ((-1.0, 0.0, 0.0), (1.0, 0.0, 0.0))
        else:
            mid = (x0 + x1) / 2
            ridge = np.array([(mid, y0 - over, top), (mid, y1 + over, top)])
            eaves = (
                np.array([(x0 - over, y0 - over, low), (x0 - over, y1 + over, low)]),
                np.array([(x1 + over, y0 - over, low), (x1 + over, y1 + over, low)]),
            )
            ends = (
                np.array([(x0, y0, low), (x1, y0, low), (mid, y0, top)]),
                np.array([(x0, y1, low), (x1, y1, low), (mid, y1, top)]),
            )
            end_normals = ((0.0, -1.0, 0.0), (0.0, 1.0, 0.0))
        position = np.array(camera.position)
        for triangle, normal in zip(ends, end_normals, strict=True):
            if (position - triangle[0]) @ np.array(normal) > 0:
                shape = _clip_near(triangle, camera)
                if len(shape) >= 3:
                    pixels, _ = camera.project(shape)
                    tone = np.array([150, 165, 178]) * self._light(normal)
                    cv2.fillConvexPoly(
                        canvas, _fixed(pixels), np.clip(tone, 0, 255).tolist(), cv2.LINE_AA, _SHIFT
                    )
                    cv2.fillConvexPoly(ids, _fixed(pixels), 0, cv2.LINE_8, _SHIFT)
        chain = _roof_chain(building.roof)
        unit = textures.ROOF_METRES_PER_PIXEL
        for eave in eaves:
            down = eave[0] - ridge[0]
            along = ridge[1] - ridge[0]
            upward = np.cross(along, down)
            upward *= np.sign(upward[2]) / np.linalg.norm(upward)
            if (position - ridge[0]) @ upward <= 0:
                continue
            polygon = np.array([ridge[0], ridge[1], eave[1], eave[0]])
            axis_u = along / np.linalg.norm(along) * unit
            axis_v = down / np.linalg.norm(down) * unit
            self._draw_textured(
                canvas,
                ids,
                camera,
                polygon,
                ridge[0],
                axis_u,
                axis_v,
                chain,
                self._light(tuple(upward)),
                wrap=True,
            )
        pixels, depth = camera.project(ridge)
        if depth.min() > _NEAR:
            scale = camera.focal / float(depth.mean())
            cv2.polylines(
                canvas,
                [_fixed(pixels)],
                False,
                (120, 124, 132),
                max(1, round(0.3 * scale)),
                cv2.LINE_AA,
                _SHIFT,
            )

    def _light(self, normal: tuple[float, ...]) -> float:
        """Return the brightness of a surface relative to the sunlit ground."""
        direct = self._direct * max(0.0, float(np.dot(normal, self.world.sun.direction)))
        return (self._ambient * (0.78 + 0.22 * normal[2]) + direct) * self._exposure

    def _draw_textured(
        self,
        canvas: np.ndarray,
        ids: np.ndarray,
        camera: Camera,
        polygon: np.ndarray,
        origin: np.ndarray,
        axis_u: np.ndarray,
        axis_v: np.ndarray,
        chain: list[np.ndarray],
        gain: float,
        wrap: bool = False,
    ) -> None:
        """Lay a texture over a plane polygon (K, 3); the axes are metres per pixel of the finest level."""
        shape = _clip_near(polygon, camera)
        if len(shape) < 3:
            return
        pixels, _ = camera.project(shape)
        rows, columns = canvas.shape[:2]
        u0, v0 = np.maximum(np.floor(pixels.min(axis=0)).astype(int), 0)
        u1, v1 = np.minimum(np.ceil(pixels.max(axis=0)).astype(int) + 1, (columns, rows))
        if u1 <= u0 or v1 <= v0:
            return
        following = np.roll(shape, -1, axis=0)
        area = 0.5 * float(np.linalg.norm(np.cross(shape, following).sum(axis=0)))
        texels = area / (float(np.linalg.norm(axis_u)) * float(np.linalg.norm(axis_v)))
        following = np.roll(pixels, -1, axis=0)
        covered = 0.5 * abs(float((pixels[:, 0] * following[:, 1] - pixels[:, 1] * following[:, 0]).sum()))
        if covered < 1:
            return
        level = int(
            np.clip(math.floor(0.5 * math.log2(max(texels / covered, 1e-6)) + 0.35), 0, len(chain) - 1)
        )
        source = chain[level]
        step_u, step_v = chain[0].shape[1] / source.shape[1], chain[0].shape[0] / source.shape[0]
        homography = camera.plane_homography(origin, axis_u * step_u, axis_v * step_v)
        shift = np.array([[1, 0, -u0], [0, 1, -v0], [0, 0, 1.0]])
        border = cv2.BORDER_WRAP if wrap else cv2.BORDER_REPLICATE
        patch = cv2.warpPerspective(
            source, shift @ homography, (int(u1 - u0), int(v1 - v0)), borderMode=border
        )
        if abs(gain - 1) > 0.01:
            patch = cv2.convertScaleAbs(patch, alpha=gain)
        mask = np.zeros(patch.shape[:2], np.uint8)
        cv2.fillConvexPoly(mask, _fixed(pixels - (u0, v0)), 255, cv2.LINE_8, _SHIFT)
        cv2.copyTo(patch, mask, canvas[v0:v1, u0:u1])
        cv2.copyTo(np.zeros_like(mask, dtype=np.uint16), mask, ids[v0:v1, u0:u1])


def _develop(image: np.ndarray, camera: Camera, look: Look) -> np.ndarray:
    """Apply haze, lens, sensor and compression."""
    rows, columns = image.shape[:2]
    # Haze grows with the distance of the ground seen in a row; over the columns it hardly changes.
    at = np.linspace(0, rows - 1, 24)
    points = camera.ground_points(np.column_stack([np.full(24, columns / 2), at]), reach=5000.0)
    distance = np.hypot(np.linalg.norm(points - np.array(camera.position)[:2], axis=1), camera.position[2])
    air = 1 - np.exp(-distance / look.visibility)
    x = np.linspace(-1, 1, 32)[None, :]
    y = np.linspace(-1, 1, 24)[:, None]
    lens = 1 - look.vignette * (x**2 + y**2) / 2
    gain = (lens * (1 - air)[:, None] * 255).clip(0, 255).astype(np.uint8)
    gain = cv2.cvtColor(cv2.resize(gain, (columns, rows)), cv2.COLOR_GRAY2BGR)
    cv2.multiply(image, gain, image, 1 / 255)
    if float(air.max()) > 0.01:
        veil = (air[:, None, None] * np.array(look.haze_colour)).clip(0, 255).astype(np.uint8)
        cv2.add(image, cv2.resize(veil, (columns, rows)), image)
    level = np.arange(256) / 255.0
    curve = []
    for factor in look.cast:
        light = np.clip(level * look.exposure * factor, 0, 1.6)
        tone = 0.5 * (2 * np.minimum(light, 0.5)) ** look.contrast + np.where(light > 0.5, light - 0.5, 0)
        # Highlights roll off instead of clipping.
        tone = np.where(tone > 0.8, 0.8 + 0.2 * np.tanh((tone - 0.8) / 0.2), tone)
        curve.append(np.clip(tone * 255, 0, 255))
    table = np.stack(curve, axis=1).round().astype(np.uint8).reshape(256, 1, 3)
    image = cv2.LUT(image, table)
    if look.blur > 0.2:
        image = (
            cv2.GaussianBlur(image, (0, 0), look.blur)
            if look.blur > 0.9
            else cv2.GaussianBlur(image, (3, 3), look.blur)
        )
    if look.noise > 0:
        rng = np.random.default_rng(look.seed)
        plate = _noise_plate(camera.height, camera.width)
        dy, dx = int(rng.integers(64)), int(rng.integers(64))
        weight = look.noise / 24
        image = cv2.addWeighted(
            image, 1.0, plate[dy : dy + camera.height, dx : dx + camera.width], weight, -128 * weight
        )
    done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, look.jpeg_quality))
    if not done:
        raise RuntimeError(f"OpenCV could not compress a {camera.width}x{camera.height} image as JPEG")
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))
