import hashlib
import math
import subprocess
import sys
from dataclasses import replace

import cv2
import numpy as np
import pytest

from aerial_scenes.camera import Camera
from aerial_scenes.render import Renderer, Sighting
from aerial_scenes.scenes import SceneSpec, annotate, draw_view, render_scene, world_for
from aerial_scenes.visdrone import IGNORED_REGION, OTHERS, VISDRONE_CLASSES, Annotation
from aerial_scenes.world import DISTRICTS

# Over town in a small picture: cars of 25 to 50 pixels.
SMALL = SceneSpec(
    width=480,
    height=272,
    metres_per_pixel=(0.1, 0.16),
    focal_px=(350.0, 450.0),
    districts=("centre", "suburb"),
    dusk=0.0,
    density=(1.2, 1.6),
)
SEEDS = range(6)


@pytest.fixture(scope="module")
def scenes():
    return [render_scene(seed, SMALL) for seed in SEEDS]


def digest(scene):
    return hashlib.sha256(scene.image.tobytes() + repr(scene.annotations).encode()).hexdigest()


def test_same_seed_gives_same_scene_in_another_process(scenes):
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_scenes import SMALL, digest, render_scene\n"
        "print(digest(render_scene(3, SMALL)))"
    )
    from pathlib import Path

    result = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == digest(scenes[3])


def test_different_seeds_give_different_scenes(scenes):
    assert len({digest(scene) for scene in scenes}) == len(scenes)


def test_image_has_the_spec_size_and_boxes_lie_inside(scenes):
    for scene in scenes:
        assert scene.image.shape == (272, 480, 3)
        assert scene.image.dtype == np.uint8
        for a in scene.annotations:
            assert a.width > 0
            assert a.height > 0
            assert 0 <= a.left <= a.left + a.width <= 480
            assert 0 <= a.top <= a.top + a.height <= 272


def test_scenes_hold_many_objects_of_many_classes(scenes):
    seen = [a.category for scene in scenes for a in scene.annotations if a.evaluated]
    assert len(seen) > 20 * len(scenes)
    assert len(set(seen)) >= 7


def test_annotation_fields_follow_visdrone_semantics(scenes):
    for a in (a for scene in scenes for a in scene.annotations):
        assert a.score == (0 if a.category in (IGNORED_REGION, OTHERS) else 1)
        assert a.truncation in (0, 1)
        assert a.occlusion in (0, 1, 2)
        touches = a.left == 0 or a.top == 0 or a.left + a.width == 480 or a.top + a.height == 272
        assert touches or a.truncation == 0


def drawn(seed, spec):
    rng = np.random.default_rng(seed)
    view = draw_view(rng, spec)
    camera = view.camera(spec, (0.0, 0.0))
    world = world_for(rng, view, spec, [camera])
    look = replace(view.look, noise=0.0, jpeg_quality=100, blur=0.0)
    renderer = Renderer(world)
    image, sightings = renderer.draw(camera, 0.0, look)
    return renderer, camera, look, image, sightings


def test_boxes_enclose_the_pixels_that_the_object_changes():
    renderer, camera, look, image, sightings = drawn(1, replace(SMALL, metres_per_pixel=(0.08, 0.08)))
    clear = [
        s
        for s in sightings
        if s.visible > 0.95 and s.box[0] > 5 and s.box[2] < 475 and s.box[1] > 5 and s.box[3] < 267
    ]
    assert len(clear) >= 5
    # High sun: shadows, which are no part of the box, stay dark but close; ask for strong change in the box.
    for sighting in clear[:8]:
        without, _ = renderer.draw(camera, 0.0, look, without=frozenset({sighting.actor}))
        change = np.abs(image.astype(int) - without.astype(int)).max(axis=2) > 12
        x0, y0, x1, y1 = (round(v) for v in sighting.box)
        inside = change[max(0, y0) : y1 + 1, max(0, x0) : x1 + 1]
        assert inside.mean() > 0.25
        # Each side of the box is reached by the object.
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        slack = 3 + 0.12 * max(inside.shape)
        assert rows[0] <= slack
        assert columns[0] <= slack
        assert inside.shape[0] - 1 - rows[-1] <= slack
        assert inside.shape[1] - 1 - columns[-1] <= slack


def test_nothing_changes_away_from_the_object_and_its_shadow():
    renderer, camera, look, image, sightings = drawn(1, SMALL)
    target = next(s for s in sightings if s.visible > 0.95)
    without, _ = renderer.draw(camera, 0.0, look, without=frozenset({target.actor}))
    change = np.abs(image.astype(int) - without.astype(int)).max(axis=2) > 12
    x0, y0, x1, y1 = target.box
    reach = 3 * max(x1 - x0, y1 - y0) + 16
    rows, columns = np.nonzero(change)
    assert columns.min() >= x0 - reach
    assert columns.max() <= x1 + reach
    assert rows.min() >= y0 - reach
    assert rows.max() <= y1 + reach


def test_occlusion_falls_when_what_hides_is_taken_away():
    for seed in SEEDS:
        renderer, camera, look, _, sightings = drawn(seed, SMALL)
        hidden = [
            s for s in sightings if 0.2 < s.visible < 0.8 and renderer.world.actors[s.actor].category == 4
        ]
        for target in hidden:
            others = frozenset(range(len(renderer.world.actors))) - {target.actor}
            bare = Renderer(replace(renderer.world, trees=[], props=[], buildings=[]))
            _, alone = bare.draw(camera, 0.0, look, without=others)
            assert [s.actor for s in alone] == [target.actor]
            assert alone[0].visible == 1.0
            return
    pytest.fail("no scene has a car that is partly hidden")


def sighted(box, visible=1.0, actor=0):
    return Sighting(actor, 0, box, visible, 50.0)


@pytest.fixture(scope="module")
def world():
    return drawn(0, SMALL)[0].world


@pytest.mark.parametrize(
    ("visible", "occlusion"), [(1.0, 0), (0.98, 0), (0.9, 1), (0.5, 1), (0.49, 2), (0.13, 2)]
)
def test_occlusion_levels(world, visible, occlusion):
    (annotation,) = annotate(world, [sighted((50, 50, 90, 80), visible)], SMALL)
    assert annotation.occlusion == occlusion


def test_hardly_visible_objects_are_not_annotated(world):
    assert annotate(world, [sighted((50, 50, 90, 80), 0.05)], SMALL) == ()


@pytest.mark.parametrize(
    ("left", "truncation", "ignored"),
    [(0.0, 0, False), (-10.5, 1, False), (-19.5, 1, False), (-22.5, 1, True)],
)
def test_truncation_is_the_part_outside(world, left, truncation, ignored):
    (annotation,) = annotate(world, [sighted((left, 50, left + 40, 80))], SMALL)
    assert annotation.left == 0
    assert annotation.truncation == truncation
    assert (annotation.category == IGNORED_REGION) == ignored
    assert (annotation.score == 0) == ignored


def test_tiny_objects_become_one_ignored_region(world):
    tiny = [sighted((100, 100, 102, 103), actor=0), sighted((106, 104, 108, 107), actor=1)]
    (region,) = annotate(world, tiny, SMALL)
    assert (region.category, region.score) == (IGNORED_REGION, 0)
    assert region.left <= 100
    assert region.left + region.width >= 108


def test_crowds_of_small_objects_become_an_ignored_region(world):
    spec = replace(SMALL, crowd=3)
    crowd = [sighted((91 + 5 * i, 91, 99 + 5 * i, 100), actor=i) for i in range(4)]
    assert [a.category for a in annotate(world, crowd, spec)] == [IGNORED_REGION]
    assert len(annotate(world, crowd[:3], spec)) == 3


def test_half_scale_picture_resembles_the_resized_full_scale_one():
    # The same world through both specs: what a network sees after resizing must look alike.
    full = replace(
        SMALL, metres_per_pixel=(0.05, 0.05), pitch_deg=(30.0, 30.0), blur_px=(0.3, 0.3), noise=(1.0, 1.0)
    )
    half = full.scaled(0.5)
    assert (half.width, half.height) == (240, 136)
    assert half.metres_per_pixel == (0.1, 0.1)
    rng = np.random.default_rng(5)
    view = draw_view(rng, full)
    camera = view.camera(full, (0.0, 0.0))
    world = world_for(rng, view, full, [camera])
    renderer = Renderer(world)
    large, seen = renderer.draw(camera, 0.0, view.look)
    small_view = replace(view, metres_per_pixel=0.1, focal=view.focal / 2)
    small, seen_small = renderer.draw(small_view.camera(half, (0.0, 0.0)), 0.0, view.look)
    resized = cv2.resize(large, (240, 136), interpolation=cv2.INTER_AREA)
    assert np.abs(resized.astype(int) - small.astype(int)).mean() < 8
    boxes = {s.actor: s.box for s in seen_small}
    shared = [s for s in seen if s.actor in boxes]
    assert len(shared) > 5
    for s in shared:
        np.testing.assert_allclose((np.array(s.box) + 0.5) / 2 - 0.5, boxes[s.actor], atol=1.0)


@pytest.mark.parametrize("district", sorted(DISTRICTS))
@pytest.mark.parametrize("size", [(320, 320), (640, 192)])
def test_every_district_and_shape_renders(district, size):
    spec = replace(
        SMALL,
        districts=(district,),
        width=size[0],
        height=size[1],
        pitch_deg=(0.0, 35.0),
        max_ground_pixels=1_000_000,
    )
    for seed in range(4):
        assert render_scene(seed, spec).image.shape == (size[1], size[0], 3)


def test_camera_projects_what_ground_points_sees():
    camera = Camera.above(
        (12.0, -7.0), 0.08, yaw=0.7, pitch=0.6, roll=0.05, focal=900.0, width=640, height=360
    )
    pixels = np.array([[0.0, 0.0], [639.0, 10.0], [319.5, 179.5], [200.0, 300.0]])
    ground = camera.ground_points(pixels)
    np.testing.assert_allclose(ground[2], (12.0, -7.0), atol=1e-6)
    back, depth = camera.project(np.column_stack([ground, np.zeros(4)]))
    np.testing.assert_allclose(back, pixels, atol=1e-6)
    assert (depth > 0).all()
    homogeneous = np.column_stack([ground, np.ones(4)]) @ camera.ground_homography().T
    np.testing.assert_allclose(homogeneous[:, :2] / homogeneous[:, 2:], pixels, atol=1e-6)
    across = np.linalg.norm(np.subtract(*camera.ground_points(np.array([[320.0, 179.5], [319.0, 179.5]]))))
    assert math.isclose(across, 0.08, rel_tol=0.02)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"width": 8}, "32x32"),
        ({"metres_per_pixel": (0.2, 0.1)}, "metres_per_pixel: the range"),
        ({"metres_per_pixel": (0.0, 0.1)}, "metres_per_pixel must be positive"),
        ({"districts": ("moon",)}, "moon"),
        ({"districts": ()}, "none given"),
        ({"pitch_deg": (10.0, 80.0)}, "straight down"),
        ({"density": (-1.0, 1.0)}, "density"),
        ({"sun_elevation_deg": (0.0, 30.0)}, "sun_elevation_deg"),
    ],
)
def test_impossible_specs_are_refused_by_field(change, words):
    with pytest.raises(ValueError, match="SceneSpec") as error:
        SceneSpec(**change)
    assert words in str(error.value)


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="must not be negative, got -1"):
        render_scene(-1, SMALL)


def test_class_names_are_visdrones():
    assert len(VISDRONE_CLASSES) == 10
    assert (VISDRONE_CLASSES[0], VISDRONE_CLASSES[3], VISDRONE_CLASSES[9]) == ("pedestrian", "car", "motor")
    assert Annotation(0, 0, 1, 1, 1, 4).evaluated
