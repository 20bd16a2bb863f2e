"""Pictures that the renderer lays over the ground, walls, roofs and tree crowns.

Everything is made from fixed seeds and cached per process, so that a world costs copies rather than noise.
Images are BGR uint8.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np

TILE_PIXELS = 768


def fractal_noise(size: int, exponent: float, seed: int, stretch: float = 1.0) -> np.ndarray:
    """Return periodic noise with a power-law spectrum, (size, size) float32, mean 0 and standard deviation 1.

    Args:
        size: Side in pixels.
        exponent: Amplitude falls with frequency to this power: 0 is white noise, 2 is cloudy.
        seed: Seed of the noise.
        stretch: Above 1 makes the structures longer along x.
    """
    rng = np.random.default_rng(seed)
    white = np.fft.rfft2(rng.standard_normal((size, size)))
    fy = np.fft.fftfreq(size)[:, None]
    fx = np.fft.rfftfreq(size)[None, :] * stretch
    frequency = np.hypot(fx, fy)
    frequency[0, 0] = np.inf
    noise = np.fft.irfft2(white * frequency**-exponent, s=(size, size))
    return (noise / noise.std()).astype(np.float32)


# Base colour (BGR), fine grain, coarse mottle (both in grey levels), hue drift towards a second colour (BGR).
_MATERIALS: dict[str, tuple[tuple[int, int, int], float, float, tuple[int, int, int]]] = {
    "asphalt": ((112, 110, 108), 6.0, 5.0, (4, 4, 6)),
    "asphalt_dark": ((82, 80, 79), 5.5, 5.0, (4, 4, 4)),
    "concrete": ((160, 165, 167), 5.0, 7.0, (-4, 2, 6)),
    "pavers": ((138, 148, 158), 6.0, 6.0, (-6, 0, 8)),
    "plaza": ((150, 158, 164), 5.0, 6.0, (-5, 0, 6)),
    "grass": ((52, 98, 84), 11.0, 9.0, (-6, 2, 18)),
    "lawn": ((56, 116, 88), 8.0, 6.0, (-4, 4, 14)),
    "meadow": ((70, 116, 118), 12.0, 10.0, (-8, -8, 16)),
    "crops": ((62, 104, 92), 9.0, 8.0, (-6, 0, 16)),
    "soil": ((98, 124, 146), 10.0, 11.0, (-6, -4, 8)),
    "dirt": ((122, 146, 164), 9.0, 11.0, (-8, -4, 6)),
    "court_red": ((82, 84, 150), 4.0, 4.0, (2, 2, 6)),
    "court_green": ((92, 124, 74), 4.0, 4.0, (2, 4, 2)),
    "water": ((104, 92, 68), 2.5, 3.0, (4, 8, 2)),
}


@functools.lru_cache(maxsize=64)
def material(name: str, metres_per_pixel: float) -> np.ndarray:
    """Return a tileable picture of a ground material, (768, 768, 3)."""
    base, grain, mottle, drift = _MATERIALS[name]
    # zlib-like stable number of the name: hash() differs between processes.
    seed = sum((i + 1) * ord(c) for i, c in enumerate(name))
    size = TILE_PIXELS
    fine = fractal_noise(size, 0.45, seed)
    # Mottles of a fixed size in metres: wavelengths of about 2 to 15 m whatever the resolution.
    coarse = fractal_noise(size, 1.35, seed + 1)
    hue = fractal_noise(size, 1.6, seed + 2)
    value = grain * fine + mottle * coarse
    if name == "crops":
        row = max(3, round(0.75 / metres_per_pixel))
        rows = size // max(1, size // row)
        phase = np.arange(size) * (2 * math.pi / rows)
        value += (13 * np.sin(phase))[:, None] + 5 * fractal_noise(size, 0.8, seed + 3, stretch=6)
    image = np.stack([base[c] + value + drift[c] * np.clip(hue, -2, 2) * 0.6 for c in range(3)], axis=2)
    if name in ("grass", "meadow", "lawn"):
        speck = fractal_noise(size, 0.3, seed + 4) > 2.0
        image[speck] += (20, 32, 34)
    if name in ("asphalt", "asphalt_dark"):
        # Wheel tracks, oil and repaired patches.
        streak = fractal_noise(size, 1.1, seed + 5, stretch=5)
        image -= (5.0 * np.clip(streak, 0, 2))[:, :, None]
        cracks = np.abs(fractal_noise(size, 1.2, seed + 6)) < 0.012
        image[cracks] -= 16
    image = np.clip(image, 0, 255).astype(np.uint8)
    joints = {"pavers": 1.2, "plaza": 3.0, "concrete": 4.5}.get(name)
    if joints is not None:
        step = size / max(1, round(size * metres_per_pixel / joints))
        thickness = 1
        tone = 0.9 if metres_per_pixel < 0.07 else 0.95
        dark = (np.array(base) * tone).tolist()
        rng = np.random.default_rng(seed)
        if name == "plaza":
            count = round(size / step)
            for i in range(count):
                for j in range(count):
                    if (i + j) % 2 == 0:
                        y0, y1, x0, x1 = (round(v * step) for v in (i, i + 1, j, j + 1))
                        image[y0:y1, x0:x1] = cv2.convertScaleAbs(
                            image[y0:y1, x0:x1], alpha=float(rng.uniform(0.86, 0.93))
                        )
        for i in range(round(size / step)):
            at = round(i * step)
            cv2.line(image, (at, 0), (at, size), dark, thickness)
            cv2.line(image, (0, at), (size, at), dark, thickness)
    return image


def material_patch(
    name: str, metres_per_pixel: float, height: int, width: int, offset: tuple[int, int]
) -> np.ndarray:
    """Return a (height, width, 3) cut of the endless material picture, starting at `offset` (y, x) pixels."""
    tile = material(name, metres_per_pixel)
    rows = (np.arange(height) + offset[0]) % TILE_PIXELS
    columns = (np.arange(width) + offset[1]) % TILE_PIXELS
    return (
        tile[rows][:, columns]
        if height * 2 < TILE_PIXELS
        else np.take(tile.take(columns, axis=1), rows, axis=0)
    )


WALL_METRES_PER_PIXEL = 0.12


@functools.cache
def _wall_noise(style: int) -> np.ndarray:
    return fractal_noise(256, 0.9, 2000 + style)


def facade(style: int, storeys: int, bays: int) -> np.ndarray:
    """Return an upright wall with windows, a storey 3.1 m high and a bay 3.4 m wide, at 0.12 m per pixel."""
    rng = np.random.default_rng(1000 + style)
    scale = 1 / WALL_METRES_PER_PIXEL
    height, width = round(storeys * 3.1 * scale), round(bays * 3.4 * scale)
    walls = (
        (178, 188, 196),
        (140, 158, 176),
        (118, 126, 160),
        (196, 200, 198),
        (150, 146, 138),
        (150, 176, 198),
    )
    wall = np.array(walls[style % len(walls)], dtype=np.float32)
    noise = _wall_noise(style)
    image = np.empty((height, width, 3), np.float32)
    tiled = np.tile(noise, (height // 256 + 1, width // 256 + 1))[:height, :width]
    image[:] = wall + 5 * tiled[:, :, None]
    image = np.clip(image, 0, 255).astype(np.uint8)
    band = bool(style % 3 == 1)
    window_w, window_h = float(rng.uniform(1.3, 2.2)), float(rng.uniform(1.3, 1.8))
    for storey in range(storeys):
        y = (storey + 0.5) * 3.1 * scale
        if style % 2:
            cv2.line(
                image, (0, int(y + 1.5 * scale)), (width, int(y + 1.5 * scale)), (wall * 0.85).tolist(), 1
            )
        for bay in range(bays):
            x = (bay + 0.5) * 3.4 * scale
            half_w = (1.7 if band else window_w / 2) * scale
            half_h = window_h / 2 * scale
            ground = storey == storeys - 1
            pane = np.array((78, 66, 56)) * rng.uniform(0.6, 1.5)
            if ground and style % 4 != 3:
                half_h, half_w = 1.2 * scale, 1.5 * scale
                pane = (
                    np.array(
                        ((70, 66, 60), (60, 60, 140), (140, 90, 50), (90, 150, 190))[int(rng.integers(4))]
                    )
                    * 0.9
                )
            p0 = (round(x - half_w), round(y - half_h))
            p1 = (round(x + half_w), round(y + half_h))
            cv2.rectangle(image, p0, p1, pane.tolist(), -1)
            cv2.line(image, (p0[0], p1[1] + 1), (p1[0], p1[1] + 1), (wall * 1.12).clip(0, 255).tolist(), 1)
            if not band:
                cv2.line(image, (round(x), p0[1]), (round(x), p1[1]), (wall * 0.95).tolist(), 1)
            if not ground and rng.random() < 0.25:
                box = (round(x + half_w * 0.2), p1[1] + 2)
                cv2.rectangle(image, box, (box[0] + 7, box[1] + 5), (190, 192, 192), -1)
    return image


ROOF_METRES_PER_PIXEL = 0.1
ROOF_KINDS = (
    "bitumen",
    "gravel",
    "concrete",
    "metal_blue",
    "metal_red",
    "metal_grey",
    "tiles_red",
    "tiles_dark",
)


@functools.cache
def roof_tile(kind: str) -> np.ndarray:
    """Return a tileable picture (512, 512, 3) of a roof covering at 0.1 m per pixel; ribs run along y."""
    colours = {
        "bitumen": (92, 92, 94),
        "gravel": (150, 158, 164),
        "concrete": (168, 174, 178),
        "metal_blue": (158, 116, 76),
        "metal_red": (84, 88, 158),
        "metal_grey": (178, 180, 178),
        "tiles_red": (74, 92, 152),
        "tiles_dark": (86, 84, 92),
    }
    size = 512
    seed = 3000 + ROOF_KINDS.index(kind)
    value = 4.0 * fractal_noise(size, 0.5, seed) + 8.0 * fractal_noise(size, 1.3, seed + 50)
    at = np.arange(size)
    if kind.startswith("metal"):
        value += np.where(at % 8 < 2, -11.0, 4.0)[None, :] + np.where(at % 128 < 2, -14.0, 0.0)[:, None]
        value += 6 * fractal_noise(size, 1.0, seed + 90, stretch=0.15)
    elif kind.startswith("tiles"):
        value += np.where(at % 4 < 1, -14.0, 3.0)[:, None] + np.where(at % 4 < 1, -5.0, 1.0)[None, :]
    else:
        value += np.where(at % 64 < 1, -10.0, 0.0)[None, :] - 8 * np.clip(
            fractal_noise(size, 1.7, seed + 70), 0, 3
        )
    return np.clip(np.array(colours[kind], np.float32) + value[:, :, None], 0, 255).astype(np.uint8)


CROWN_PIXELS = 256
CROWNS = 14


@functools.cache
def crown(index: int) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Return a tree crown lit from the right (+x), as a mip chain of halved sizes.

    Each level is a pair of (N, N, 3) uint8 images: colour premultiplied by coverage, and 255 minus coverage.
    The crown fills the disc of radius 0.46 N. Indices below 9 are broadleaf trees, 9 to 10 conifers, 11 to
    13 bushes.
    """
    rng = np.random.default_rng(4000 + index)
    size = CROWN_PIXELS * 2
    centre, radius = size / 2, 0.46 * size
    greens = np.array(
        [(46, 96, 72), (40, 84, 60), (54, 112, 92), (38, 74, 62), (50, 108, 104), (60, 104, 78)], float
    )
    base = greens[index % len(greens)] * rng.uniform(0.85, 1.1)
    if index == 6:
        base = np.array((52, 110, 138.0))  # autumn
    if index in (9, 10):
        base = np.array((48, 74, 50.0))
    colour = np.zeros((size, size, 3), np.uint8)
    alpha = np.zeros((size, size), np.uint8)
    lobes = rng.integers(4, 9)
    phase = rng.uniform(0, 2 * math.pi, 3)

    def outline(angle: np.ndarray) -> np.ndarray:
        wave = 0.07 * np.sin(lobes * angle + phase[0]) + 0.06 * np.sin(3 * angle + phase[1])
        return 0.87 + wave + 0.04 * np.sin(13 * angle + phase[2])

    count = 2000
    r = np.sqrt(rng.uniform(0, 1, count))
    theta = rng.uniform(0, 2 * math.pi, count)
    r = r * outline(theta)
    x, y = r * np.cos(theta), r * np.sin(theta)
    # Boughs: bumps on the dome that carry their own light and shade.
    bumps = rng.uniform(-0.75, 0.75, (16, 2))
    distance = np.hypot(x[:, None] - bumps[:, 0], y[:, None] - bumps[:, 1])
    nearest = distance.argmin(axis=1)
    local_x = (x - bumps[nearest, 0]) / 0.4
    local_z = 1 - distance.min(axis=1) / 0.5
    z = np.sqrt(np.maximum(0.0, 1 - r**2)) + 0.35 * local_z + rng.normal(0, 0.12, count)
    light = 0.42 + 0.3 * np.clip(0.5 * x + 0.75 * local_x, -1, 1) + 0.4 * np.clip(z, 0, 1.4) / 1.4
    light += rng.normal(0, 0.1, count)
    if index in (9, 10):
        light += 0.18 * np.sin(11 * theta) - 0.1
    order = np.argsort(z)
    leaf = rng.uniform(0.016, 0.055, count) * radius
    for i in order:
        point = (round((centre + x[i] * radius) * 16), round((centre + y[i] * radius) * 16))
        tone = base * max(0.25, light[i]) * 1.5 + np.array((0, 6, 10)) * rng.normal()
        size_i = round(leaf[i] * 16)
        cv2.circle(colour, point, size_i, tone.clip(4, 250).tolist(), -1, cv2.LINE_AA, 4)
        cv2.circle(alpha, point, size_i, 255, -1, cv2.LINE_AA, 4)
    # Leaf noise; and holes between the leaves towards the rim.
    noise = fractal_noise(512, 0.35, 4500 + index)[:size, :size]
    textured = np.clip(colour * (1 + 0.13 * noise[:, :, None]), 0, 255)
    coverage = alpha / 255.0
    premultiplied = (textured * coverage[:, :, None]).astype(np.uint8)
    inverse = cv2.cvtColor(255 - alpha, cv2.COLOR_GRAY2BGR)
    levels = []
    while size >= 12:
        size //= 2
        premultiplied = cv2.resize(premultiplied, (size, size), interpolation=cv2.INTER_AREA)
        inverse = cv2.resize(inverse, (size, size), interpolation=cv2.INTER_AREA)
        levels.append((premultiplied, inverse))
    return tuple(levels)


def mip_chain(image: np.ndarray, smallest: int = 16) -> list[np.ndarray]:
    """Return the image and its successive halvings by area averaging."""
    chain = [image]
    while min(chain[-1].shape[:2]) >= 2 * smallest and len(chain) < 6:
        height, width = chain[-1].shape[:2]
        chain.append(cv2.resize(chain[-1], (width // 2, height // 2), interpolation=cv2.INTER_AREA))
    return chain
