"""A landing pad in a generated scene, and a detector that finds it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from yolo_autonomy.frames import ENU_FROM_NED, Floats

from aerial_scenes.camera import Camera
from aerial_scenes.render import Renderer
from aerial_scenes.scenes import SceneSpec, draw_view
from aerial_scenes.shapes import MeshBuilder
from aerial_scenes.world import Prop, build_world

PAD_M = 1.2
ROOF_M = 2.6
"""Height of the roof that a pad may lie on."""
_SLAB_M = 1.5
_PURPLE = (215.0, 40.0, 225.0)
_WHITE = (245.0, 245.0, 245.0)
_H = ((-0.3, 0.3, -0.25, -0.17), (-0.3, 0.3, 0.17, 0.25), (-0.04, 0.04, -0.17, 0.17))
_CLEAR_M = 7.0  # around the pad nothing stands
_EXTENT_M = 60.0


def pad_props(east: float, north: float, yaw: float, height: float) -> list[Prop]:
    """Return a purple pad with a white H, on the ground or on a canopy of a height in metres.

    The renderer leaves out what it is nearer to than its size: so the canopy is made of small slabs.
    """
    cos, sin = math.cos(yaw), math.sin(yaw)
    props = []
    for column in range(-2, 3) if height > 0 else (0,):
        for row in range(-1, 2) if height > 0 else (0,):
            builder = MeshBuilder()
            if height > 0:
                builder.part(0).box(_SLAB_M, _SLAB_M, -0.2, 0.0, (150, 155, 160), (120, 124, 128))
            if column == row == 0:
                side = PAD_M / 2
                builder.part(1).patch(-side, side, -side, side, 0.02, _PURPLE)
                for x, y, x_reach, y_reach in (
                    (0, -0.21, 0.3, 0.04),
                    (0, 0.21, 0.3, 0.04),
                    (0, 0, 0.04, 0.17),
                ):
                    builder.part(2).patch(x - x_reach, x + x_reach, y - y_reach, y + y_reach, 0.03, _WHITE)
            along, across = column * _SLAB_M, row * _SLAB_M
            props.append(
                Prop(
                    builder.build(),
                    east + cos * along - sin * across,
                    north + sin * along + cos * across,
                    yaw,
                    height,
                )
            )
    return props


class Site:
    """A piece of country with a pad, and pictures of it.

    Args:
        seed: decides what stands around.
        height: of the roof that the pad lies on, metres; 0: on the ground.
        size: width and height of the pictures in pixels.
        focal: length in pixels.

    Attributes:
        pad: 3, the pad's middle in NED, metres; the world's origin is that of the frame.
    """

    def __init__(self, seed: int, height: float, size: tuple[int, int], focal: float) -> None:
        """Build the world: a second of work."""
        rng = np.random.default_rng(seed)
        spec = SceneSpec(width=size[0], height=size[1], focal_px=(focal, focal), pitch_deg=(0.0, 10.0))
        self._view = draw_view(rng, replace(spec, dusk=0.0, metres_per_pixel=(0.05, 0.05)))
        half = _EXTENT_M / 2
        world = build_world(
            rng,
            (-half, -half, half, half),
            metres_per_pixel=0.04,
            density=0.7,
            sun=self._view.sun,
            district="suburb",
            max_height=7.0,
            footfall=0.5,
            spread=20.0,
        )
        east, north = rng.uniform(-6, 6, 2).tolist()

        def clear(x: float, y: float, reach: float = 0.0) -> bool:
            return math.hypot(x - east, y - north) > _CLEAR_M + reach

        yaw = float(rng.uniform(0, 2 * math.pi))
        buildings = [
            item
            for item in world.buildings
            if clear(min(max(east, item.rect[0]), item.rect[2]), min(max(north, item.rect[1]), item.rect[3]))
        ]
        world = replace(
            world,
            buildings=buildings,
            trees=[item for item in world.trees if clear(item.x, item.y, item.radius)],
            props=[item for item in world.props if clear(item.x, item.y)]
            + pad_props(east, north, yaw, height),
            actors=[item for item in world.actors if clear(*item.motion.at(0.0)[0][:2])],
        )
        self._renderer = Renderer(world)
        self._size, self._focal = size, focal
        self.pad: Floats = np.array([north, east, -height])

    def picture(self, position: Floats, rotation: Floats, time_s: float) -> NDArray[np.uint8]:
        """Take a picture.

        Args:
            position: 3, of the camera in NED, metres.
            rotation: 3 x 3, from the optical frame to NED.
            time_s: since the beginning; the world's traffic moves.

        Returns:
            height x width x 3 uint8 BGR.
        """
        right, _, forward = (ENU_FROM_NED @ rotation).T
        yaw = math.atan2(forward[1], forward[0])
        level = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
        camera = Camera(
            (float(position[1]), float(position[0]), float(-position[2])),
            yaw,
            math.acos(float(np.clip(-forward[2], -1, 1))),
            math.atan2(float(right @ np.cross(forward, level)), float(right @ level)),
            self._focal,
            *self._size,
        )
        look = replace(self._view.look, seed=round(time_s * 1000))
        return self._renderer.draw(camera, time_s, look)[0].astype(np.uint8)

    def rays(self, pixels: Floats) -> Floats:
        """Return the directions in which pixels look: N x 2 to N x 3 in the optical frame, z = 1."""
        middle = (np.array(self._size) - 1) / 2
        return np.column_stack([(pixels - middle) / self._focal, np.ones(len(pixels))])


# Where the pixels are purple, the rectangle around them all is the first anchor's answer; the others, one a
# cell of 8 x 8 pixels as in every such detector, answer nothing.
_GRAPH = """
<ir_version: 8, opset_import: ["": 17]>
pads (float[batch, 3, height, width] images) => (float[batch, 5, anchors] output0)
<float zero = {0.0}, float one = {1.0}, float half = {0.5}, float least = {0.18},
 int64 down = {2}, int64 across = {3}, int64[1] last = {3}, int64[6] rest = {0, 0, 0, 0, 0, CELLS}>
{
    smooth = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [1, 1]> (images)
    red, green, blue = Split <axis = 1> (smooth)
    dimmer = Min (red, blue)
    purple = Sub (dimmer, green)
    is_pad = Greater (purple, least)
    mask = Cast <to = 1> (is_pad)
    columns = ReduceMax <axes = [2], keepdims = 1> (mask)
    rows = ReduceMax <axes = [3], keepdims = 1> (mask)
    score = ReduceMax <axes = [2, 3], keepdims = 1> (mask)

    column_zeros = Mul (columns, zero)
    column_ones = Add (column_zeros, one)
    x_end = CumSum (column_ones, across)
    x_width = ReduceMax <axes = [2, 3], keepdims = 1> (x_end)
    x_seen = Mul (columns, x_end)
    right = ReduceMax <axes = [2, 3], keepdims = 1> (x_seen)
    x_from_right = CumSum <reverse = 1> (column_ones, across)
    x_seen_back = Mul (columns, x_from_right)
    x_back = ReduceMax <axes = [2, 3], keepdims = 1> (x_seen_back)
    left = Sub (x_width, x_back)

    row_zeros = Mul (rows, zero)
    row_ones = Add (row_zeros, one)
    y_end = CumSum (row_ones, down)
    y_height = ReduceMax <axes = [2, 3], keepdims = 1> (y_end)
    y_seen = Mul (rows, y_end)
    bottom = ReduceMax <axes = [2, 3], keepdims = 1> (y_seen)
    y_from_bottom = CumSum <reverse = 1> (row_ones, down)
    y_seen_back = Mul (rows, y_from_bottom)
    y_back = ReduceMax <axes = [2, 3], keepdims = 1> (y_seen_back)
    top = Sub (y_height, y_back)

    x_sum = Add (left, right)
    x = Mul (x_sum, half)
    y_sum = Add (top, bottom)
    y = Mul (y_sum, half)
    w_raw = Sub (right, left)
    w = Mul (w_raw, score)
    h_raw = Sub (bottom, top)
    h = Mul (h_raw, score)
    answer = Concat <axis = 1> (x, y, w, h, score)
    box = Squeeze (answer, last)
    output0 = Pad (box, rest, zero)
}
"""


def write_pad_detector(path: Path, size: tuple[int, int]) -> Path:
    """Write an ONNX detector of the pad, for pictures of a width and height in pixels (multiples of 8)."""
    cells = size[0] * size[1] // 64
    model = onnx.parser.parse_model(_GRAPH.replace("CELLS", str(cells - 1)))
    card = {
        "format_version": 1,
        "task": "detect",
        "names": ["pad"],
        "input": {
            "height": size[1],
            "width": size[0],
            "channels": "RGB",
            "scale": 1 / 255,
            "letterbox_color": [114, 114, 114],
        },
        "head": "raw",
        "stride": 8,
        "score_threshold": 0.5,
        "iou_threshold": 0.7,
    }
    onnx.helper.set_model_props(model, {"model_card": json.dumps(card)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path
