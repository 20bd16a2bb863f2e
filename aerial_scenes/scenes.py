"""Aerial scenes as code: seeded pictures from a drone with VisDrone annotations.

`SceneSpec` says what the pictures of a set have in common; `render_scene` makes one picture from a seed. The
same seed and spec give the same pixels and annotations in every process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from aerial_scenes.camera import Camera
from aerial_scenes.render import Look, Renderer, Sighting
from aerial_scenes.visdrone import IGNORED_REGION, OTHERS, Annotation
from aerial_scenes.world import DISTRICTS, Rect, Sun, World, build_world

Range = tuple[float, float]

_GROUND_RESOLUTIONS = (0.03, 0.04, 0.055, 0.075, 0.1, 0.14, 0.2, 0.28, 0.4)
"""Metres per pixel of ground pictures: few values, so that worlds share material pictures."""


@dataclass(frozen=True)
class SceneSpec:
    """What the pictures of a set have in common.

    Pairs are the ends of the range that each picture draws from. The defaults are like VisDrone's: its
    commonest image size, and oblique views from 15 to 100 m.

    Attributes:
        width: Image width in pixels.
        height: Image height in pixels.
        metres_per_pixel: Ground width of a pixel in the image's centre, across the view; drawn log-uniformly.
        pitch_deg: Angle between the view axis and straight down.
        roll_deg: Rotation about the view axis.
        focal_px: Focal length in pixels.
        density: Factor on the number of objects.
        districts: Kinds of surroundings to draw from, keys of `world.DISTRICTS`.
        sun_elevation_deg: Height of the sun.
        overcast: Probability of a day without direct sun.
        dusk: Probability of a dim picture with a strong colour cast and more noise.
        visibility_m: Distance at which haze takes 63 % of the contrast; drawn log-uniformly.
        exposure: Factor on all light.
        blur_px: Standard deviation of the lens blur.
        noise: Standard deviation of the sensor noise in grey levels.
        jpeg_quality: Of the compression that every picture has gone through.
        min_box_px: Objects whose box is narrower or lower are not annotated, but covered by ignored regions.
        min_visible: Objects of which less than this share is visible are not annotated.
        crowd: Groups of more than this many objects of under 16 pixels on less than a sixteenth of the
            image's width are covered by an ignored region instead of being annotated.
        max_ground_pixels: Limit on the size of the ground picture in memory.
    """

    width: int = 1360
    height: int = 765
    metres_per_pixel: Range = (0.022, 0.13)
    pitch_deg: Range = (15.0, 60.0)
    roll_deg: Range = (-2.5, 2.5)
    focal_px: Range = (900.0, 1250.0)
    density: Range = (0.45, 1.15)
    districts: tuple[str, ...] = ("centre", "centre", "suburb", "suburb", "industry", "country")
    sun_elevation_deg: Range = (28.0, 68.0)
    overcast: float = 0.3
    dusk: float = 0.12
    visibility_m: Range = (250.0, 4000.0)
    exposure: Range = (0.78, 1.22)
    blur_px: Range = (0.35, 0.9)
    noise: Range = (1.0, 5.0)
    jpeg_quality: tuple[int, int] = (70, 95)
    min_box_px: float = 4.0
    min_visible: float = 0.12
    crowd: int = 14
    max_ground_pixels: int = 12_000_000

    def __post_init__(self) -> None:
        if self.width < 32 or self.height < 32:
            raise ValueError(
                f"SceneSpec: images must be at least 32x32 pixels, got {self.width}x{self.height}"
            )
        for name in (
            "metres_per_pixel",
            "pitch_deg",
            "roll_deg",
            "focal_px",
            "density",
            "sun_elevation_deg",
            "visibility_m",
            "exposure",
            "blur_px",
            "noise",
            "jpeg_quality",
        ):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"SceneSpec.{name}: the range {low} to {high} is empty")
        for name in ("metres_per_pixel", "focal_px", "visibility_m", "exposure"):
            if getattr(self, name)[0] <= 0:
                raise ValueError(f"SceneSpec.{name} must be positive, got {getattr(self, name)[0]}")
        if self.density[0] < 0:
            raise ValueError(f"SceneSpec.density must not be negative, got {self.density[0]}")
        if not 5 <= self.sun_elevation_deg[0] <= self.sun_elevation_deg[1] <= 90:
            raise ValueError(f"SceneSpec.sun_elevation_deg must lie in 5 to 90, got {self.sun_elevation_deg}")
        unknown = set(self.districts) - set(DISTRICTS)
        if unknown or not self.districts:
            raise ValueError(
                f"SceneSpec.districts: {sorted(unknown) or 'none given'}; known are {', '.join(DISTRICTS)}"
            )
        if self.pitch_deg[0] < 0:
            raise ValueError(f"SceneSpec.pitch_deg must not be negative, got {self.pitch_deg[0]}")
        # The upper corner that the roll lifts: t up and u sideways from the axis, in focal lengths.
        roll = math.radians(max(abs(self.roll_deg[0]), abs(self.roll_deg[1])))
        half_width, half_height = self.width / 2 / self.focal_px[0], self.height / 2 / self.focal_px[0]
        t = half_height * math.cos(roll) + half_width * math.sin(roll)
        u = half_width * math.cos(roll) - half_height * math.sin(roll)
        pitch = math.radians(self.pitch_deg[1])
        horizon = math.degrees(
            math.acos((math.cos(pitch) - t * math.sin(pitch)) / math.sqrt(1 + t * t + u * u))
        )
        if horizon > 88:
            raise ValueError(
                f"SceneSpec: with a pitch of {self.pitch_deg[1]} degrees and a focal length of "
                f"{self.focal_px[0]} pixels "
                f"the image's corner looks {horizon:.0f} degrees up from straight down; keep it at "
                "88 or less "
                "(smaller pitch_deg or longer focal_px)"
            )

    def scaled(self, factor: float, *, width: int | None = None, height: int | None = None) -> SceneSpec:
        """Return the spec of pictures of the same world, `factor` times as many pixels per metre.

        Resizing a picture of this spec by `factor` shows objects as a picture of the scaled spec does.

        Args:
            factor: Pixels of the new spec per pixel of this one.
            width: Image width of the new spec; by default this one's times `factor`.
            height: Image height, likewise.

        Raises:
            ValueError: The factor is not positive, or the new size leaves the spec's limits.
        """
        if factor <= 0:
            raise ValueError(f"SceneSpec.scaled: the factor must be positive, got {factor}")
        return replace(
            self,
            width=round(self.width * factor) if width is None else width,
            height=round(self.height * factor) if height is None else height,
            metres_per_pixel=(self.metres_per_pixel[0] / factor, self.metres_per_pixel[1] / factor),
            focal_px=(self.focal_px[0] * factor, self.focal_px[1] * factor),
            min_box_px=self.min_box_px * factor,
        )


@dataclass(frozen=True)
class Scene:
    """A picture and what is on it.

    Attributes:
        image: (height, width, 3) uint8, BGR.
        annotations: In VisDrone's terms; near objects first, then ignored regions.
    """

    image: np.ndarray
    annotations: tuple[Annotation, ...]


@dataclass(frozen=True)
class View:
    """The choices by which pictures of one spec differ: made once for a still image or for a flight.

    Attributes:
        metres_per_pixel: In the image's centre.
        pitch: Radians from straight down.
        roll: Radians.
        yaw: Radians anticlockwise from east.
        focal: Pixels.
        density: Factor on the number of objects.
        district: Key of `world.DISTRICTS`.
        sun: The light.
        look: Air, lens and sensor.
    """

    metres_per_pixel: float
    pitch: float
    roll: float
    yaw: float
    focal: float
    density: float
    district: str
    sun: Sun
    look: Look

    def camera(self, spec: SceneSpec, target: tuple[float, float]) -> Camera:
        """Return the camera whose image shows the ground point `target` in its centre."""
        return Camera.above(
            target,
            self.metres_per_pixel,
            yaw=self.yaw,
            pitch=self.pitch,
            roll=self.roll,
            focal=self.focal,
            width=spec.width,
            height=spec.height,
        )


def draw_view(rng: np.random.Generator, spec: SceneSpec) -> View:
    """Draw a view from the spec's ranges."""

    def log_uniform(ends: Range) -> float:
        return float(math.exp(rng.uniform(math.log(ends[0]), math.log(ends[1]))))

    metres_per_pixel = log_uniform(spec.metres_per_pixel)
    pitch = math.radians(rng.uniform(*spec.pitch_deg))
    overcast = rng.random() < spec.overcast
    dusk = rng.random() < spec.dusk
    elevation = rng.uniform(*spec.sun_elevation_deg)
    if overcast:
        # Light from all of the sky: what shadow there is lies below the objects.
        sun = Sun(float(rng.uniform(0, 2 * math.pi)), math.radians(78), float(rng.uniform(0.15, 0.4)))
    else:
        sun = Sun(float(rng.uniform(0, 2 * math.pi)), math.radians(elevation), float(rng.uniform(0.7, 1.0)))
    warm = float(rng.normal(0, 0.035)) + (0.06 if elevation < 35 and not overcast else 0.0)
    exposure = float(rng.uniform(*spec.exposure))
    noise = float(rng.uniform(*spec.noise))
    cast = (1 - warm, 1 + float(rng.normal(0, 0.012)), 1 + warm)
    if dusk:
        exposure *= float(rng.uniform(0.42, 0.65))
        noise *= 1.7
        tint = rng.uniform(-0.18, 0.22)
        cast = (1 - float(tint), 1 - 0.1 * abs(float(tint)), 1 + float(tint))
    visibility = log_uniform(spec.visibility_m)
    look = Look(
        exposure=exposure,
        contrast=float(rng.uniform(0.92, 1.25)),
        cast=cast,
        visibility=visibility,
        haze_colour=(205.0, 200.0, 194.0),
        vignette=float(rng.uniform(0.0, 0.22)),
        blur=float(rng.uniform(*spec.blur_px)),
        noise=noise,
        jpeg_quality=int(rng.integers(spec.jpeg_quality[0], spec.jpeg_quality[1] + 1)),
        seed=int(rng.integers(1 << 31)),
    )
    return View(
        metres_per_pixel=metres_per_pixel,
        pitch=pitch,
        roll=math.radians(rng.uniform(*spec.roll_deg)),
        yaw=float(rng.uniform(0, 2 * math.pi)),
        focal=float(rng.uniform(*spec.focal_px)),
        density=float(rng.uniform(*spec.density)),
        district=spec.districts[int(rng.integers(len(spec.districts)))],
        sun=sun,
        look=look,
    )


def world_for(rng: np.random.Generator, view: View, spec: SceneSpec, cameras: Sequence[Camera]) -> World:
    """Build a world that reaches as far as the given cameras see, and a margin beyond."""
    reach = 7 * view.metres_per_pixel * view.focal
    points = np.concatenate([camera.footprint(reach) for camera in cameras])
    margin = 12.0
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    bounds: Rect = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
    area = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])
    wanted = max(view.metres_per_pixel * 0.8, math.sqrt(area / spec.max_ground_pixels))
    resolution = next((r for r in _GROUND_RESOLUTIONS if r >= wanted), wanted)
    height = min(camera.position[2] for camera in cameras)
    return build_world(
        rng,
        bounds,
        metres_per_pixel=resolution,
        density=view.density * float(np.clip(math.sqrt(0.05 / view.metres_per_pixel), 0.6, 1.7)),
        sun=view.sun,
        district=view.district,
        max_height=0.5 * height,
        # Low flights are flown over people, high ones over traffic.
        footfall=float(np.clip(0.85 * math.sqrt(0.05 / view.metres_per_pixel), 0.5, 1.5)),
        spread=0.3 * view.metres_per_pixel * spec.width,
    )


def annotate(
    world: World, sightings: Sequence[Sighting], spec: SceneSpec, *, target_ids: bool = False
) -> tuple[Annotation, ...]:
    """Turn sightings into annotations as VisDrone's annotators would.

    Objects more than half outside the image become ignored regions; so do groups of objects too small to
    annotate, and crowds of tiny ones. Objects that are hardly visible are left out.

    Args:
        world: The world seen.
        sightings: From `Renderer.draw`.
        spec: Sizes and thresholds.
        target_ids: Give each object an identity that lasts over the frames of a flight.
    """
    kept: list[tuple[Annotation, tuple[float, float]]] = []
    ignored: list[Annotation] = []
    tiny: list[tuple[float, float, float, float]] = []
    for sighting in sightings:
        x0, y0, x1, y1 = sighting.box
        # Pixel i covers i - 0.5 to i + 0.5; boxes are in whole pixels.
        left, top = max(0, math.floor(x0 + 0.5)), max(0, math.floor(y0 + 0.5))
        right, bottom = min(spec.width, math.ceil(x1 + 0.5)), min(spec.height, math.ceil(y1 + 0.5))
        if right <= left or bottom <= top or sighting.visible < spec.min_visible:
            continue
        inside = (min(x1, spec.width - 0.5) - max(x0, -0.5)) * (min(y1, spec.height - 0.5) - max(y0, -0.5))
        outside = 1 - inside / ((x1 - x0) * (y1 - y0))
        truncation = int(outside > 0.01)
        occlusion = 0 if sighting.visible > 0.97 else 1 if sighting.visible >= 0.5 else 2
        if outside > 0.5:
            ignored.append(Annotation(left, top, right - left, bottom - top, 0, IGNORED_REGION, 1, occlusion))
            continue
        if min(x1 - x0, y1 - y0) < spec.min_box_px:
            tiny.append((left, top, right, bottom))
            continue
        category = world.actors[sighting.actor].category
        score = 0 if category == OTHERS else 1
        target = 1 + sighting.actor + sighting.lap * len(world.actors) if target_ids else 0
        annotation = Annotation(
            left, top, right - left, bottom - top, score, category, truncation, occlusion, target
        )
        kept.append((annotation, ((x0 + x1) / 2, (y0 + y1) / 2)))
    cell = spec.width / 16
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (annotation, centre) in enumerate(kept):
        if math.sqrt(annotation.width * annotation.height) < 16:
            groups.setdefault((int(centre[0] // cell), int(centre[1] // cell)), []).append(index)
    crowded = {index for members in groups.values() if len(members) > spec.crowd for index in members}
    for index in crowded:
        a = kept[index][0]
        tiny.append((a.left, a.top, a.left + a.width, a.top + a.height))
    regions: dict[tuple[int, int], list[tuple[float, float, float, float]]] = {}
    for box in tiny:
        regions.setdefault(
            (int((box[0] + box[2]) / 2 // cell), int((box[1] + box[3]) / 2 // cell)), []
        ).append(box)
    for boxes in regions.values():
        table = np.array(boxes)
        left, top = (int(v) for v in table[:, :2].min(axis=0))
        right, bottom = (int(v) for v in table[:, 2:].max(axis=0))
        ignored.append(Annotation(left, top, right - left, bottom - top, 0, IGNORED_REGION))
    return (*(annotation for index, (annotation, _) in enumerate(kept) if index not in crowded), *ignored)


def render_scene(seed: int, spec: SceneSpec) -> Scene:
    """Make one picture.

    Args:
        seed: Any non-negative integer; decides everything that the spec leaves open.
        spec: What the pictures have in common.

    Returns:
        The image and its annotations; equal seeds and specs give equal scenes.

    Raises:
        ValueError: The seed is negative.
    """
    if seed < 0:
        raise ValueError(f"a scene's seed must not be negative, got {seed}")
    rng = np.random.default_rng(seed)
    view = draw_view(rng, spec)
    camera = view.camera(spec, (0.0, 0.0))
    world = world_for(rng, view, spec, [camera])
    image, sightings = Renderer(world).draw(camera, 0.0, view.look)
    return Scene(image, annotate(world, sightings, spec))
