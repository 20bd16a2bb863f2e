"""Places on the ground, against cameras that are known exactly."""

import math

import cv2
import numpy as np
import pytest
from yolo_trt_node.projection import (
    Ground,
    PinholeCamera,
    ProjectionError,
    contact_pixels,
    ground_points,
)

WIDTH, HEIGHT = 1920, 1080
K = np.array([[1100.0, 0, 955.0], [0, 1090.0, 545.0], [0, 0, 1]])
IDENTITY = np.eye(3).reshape(-1)
P = np.concatenate((K, np.zeros((3, 1))), axis=1).reshape(-1)
LENSES = {
    "no distortion": ("", []),
    "plumb_bob": ("plumb_bob", [-0.28, 0.09, 0.0007, -0.0004, -0.012]),
    "rational": ("rational_polynomial", [2.1, 0.8, 0.0003, -0.0002, 0.03, 2.45, 1.4, 0.15]),
    "fisheye": ("equidistant", [-0.02, 0.004, -0.003, 0.0006]),
}
POSITION = np.array([12.0, -7.0, 62.0])
GROUND = Ground(height=3.0)


def calibrated(lens: str, **changes) -> PinholeCamera:
    model, d = LENSES[lens]
    return PinholeCamera.from_calibration(WIDTH, HEIGHT, model, d, K.reshape(-1), IDENTITY, P, **changes)


def attitude(pitch_deg: float, yaw_deg: float = 30.0, roll_deg: float = 0.0) -> np.ndarray:
    """Optical frame to fixed frame; pitch 0 looks straight down, 90 at the horizon."""
    pitch, yaw, roll = (math.radians(angle) for angle in (pitch_deg, yaw_deg, roll_deg))
    forward = np.array([math.sin(pitch) * math.cos(yaw), math.sin(pitch) * math.sin(yaw), -math.cos(pitch)])
    right = np.array([math.sin(yaw), -math.cos(yaw), 0.0])
    down = np.cross(forward, right)
    turned = math.cos(roll) * right + math.sin(roll) * down
    return np.stack((turned, np.cross(forward, turned), forward), axis=1)


def project(points: np.ndarray, rotation: np.ndarray, position: np.ndarray, lens: str) -> np.ndarray:
    """Where a camera sees points (N x 3, fixed frame), by OpenCV's own forward model."""
    model, d = LENSES[lens]
    local = (points - position) @ rotation
    if model == "equidistant":
        rays = (local[:, :2] / local[:, 2:]).reshape(-1, 1, 2)
        return cv2.fisheye.distortPoints(rays, K, np.array(d)).reshape(-1, 2)
    pixels, _ = cv2.projectPoints(local.reshape(-1, 1, 3), np.zeros(3), np.zeros(3), K, np.array(d))
    return pixels.reshape(-1, 2)


def seen(rotation: np.ndarray, lens: str, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Places on the ground within 300 m that lie in the image, and their pixels."""
    rng = np.random.default_rng(0)
    # From undistorted pixels, so that all lie in view; the forward model alone says where they are seen.
    pixels = rng.uniform((200, 150), (WIDTH - 200, HEIGHT - 150), (4 * count, 2))
    rays = np.column_stack(((pixels - K[:2, 2]) / K.diagonal()[:2], np.ones(len(pixels)))) @ rotation.T
    rays = rays[rays[:, 2] < -0.05]
    places = POSITION + rays * ((GROUND.height - POSITION[2]) / rays[:, 2])[:, None]
    places = places[np.linalg.norm(places - POSITION, axis=1) < 300][:count]
    assert len(places) > 40
    return places, project(places, rotation, POSITION, lens)


def around(pixels: np.ndarray, size: float = 1e-3) -> np.ndarray:
    return np.concatenate((pixels - size / 2, pixels + size / 2), axis=1)


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize(("pitch", "roll"), [(0, 0), (0, 90), (25, 0), (45, -8), (60, 5), (80, 2)])
def test_places_come_back_to_a_hundredth_of_a_percent(lens, pitch, roll):
    rotation = attitude(pitch, roll_deg=roll)
    places, pixels = seen(rotation, lens)
    found = ground_points(around(pixels), calibrated(lens), rotation, POSITION, GROUND)
    np.testing.assert_array_equal(found.index, np.arange(len(places)))
    away = np.linalg.norm(found.positions - places, axis=1) / np.linalg.norm(places - POSITION, axis=1)
    assert away.max() < 1e-4
    assert (found.positions[:, 2] == GROUND.height).all()


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("pitch", [0, 20, 45, 65])
def test_objects_with_a_height_are_placed_to_one_percent_of_their_distance(lens, pitch):
    """Boxes around blocks as tall as they are long (people in the small, huts in the large)."""
    rng = np.random.default_rng(int(pitch))
    rotation = attitude(pitch)
    places, _ = seen(rotation, lens, 60)
    boxes = []
    for place in places:
        half = rng.uniform(0.3, 0.7)
        corners = np.array(np.meshgrid([-half, half], [-half, half], [0, 2 * half])).reshape(3, -1).T
        pixels = project(place + corners, rotation, POSITION, lens)
        boxes.append([*pixels.min(axis=0), *pixels.max(axis=0)])
    found = ground_points(np.array(boxes), calibrated(lens), rotation, POSITION, GROUND)
    away = np.linalg.norm(found.positions - places, axis=1) / np.linalg.norm(places - POSITION, axis=1)
    assert away.max() < 0.01


def test_the_contact_is_the_center_seen_from_above_and_the_lower_edge_seen_from_the_side():
    camera = calibrated("no distortion")
    box = np.array([[935.0, 515.0, 975.0, 575.0]])
    np.testing.assert_allclose(contact_pixels(box, camera, attitude(0)), [[955, 545]], atol=1e-6)
    np.testing.assert_allclose(contact_pixels(box, camera, attitude(90)), [[955, 575]], atol=1e-6)
    # A camera on its side sees the ground at the side.
    lying = contact_pixels(box, camera, attitude(90, roll_deg=90))
    assert min(abs(lying[0, 0] - 935), abs(lying[0, 0] - 975)) < 1e-6


def test_nothing_for_what_is_above_the_horizon_or_out_of_range():
    rotation = attitude(80)
    camera = calibrated("no distortion")
    level = 545 - 1090 * math.tan(math.radians(10))  # the horizon's row
    boxes = around(np.array([[955, level - 5.0], [955, level + 2.0], [955, level + 300.0], [955, 1000.0]]))
    found = ground_points(boxes, camera, rotation, POSITION, GROUND)
    np.testing.assert_array_equal(found.index, [2, 3])
    assert ground_points(boxes, camera, attitude(170), POSITION, GROUND).index.size == 0
    under = np.array([0.0, 0.0, GROUND.height - 1])
    assert ground_points(boxes, camera, rotation, under, GROUND).index.size == 0


def test_no_boxes_give_no_places():
    found = ground_points(np.zeros((0, 4)), calibrated("fisheye"), attitude(30), POSITION, GROUND)
    assert found.positions.shape == (0, 3)
    assert found.covariances.shape == (0, 3, 3)


def test_pixels_that_no_ray_reaches_are_left_out():
    """Beyond its turning point the distortion polynomial folds back: no answer is better than a wrong one."""
    d = [-0.5, 0.0, 0.0, 0.0, 0.0]
    camera = PinholeCamera.from_calibration(WIDTH, HEIGHT, "plumb_bob", d, K.reshape(-1), IDENTITY, P)
    boxes = around(np.array([[955.0, 545.0], [1900.0, 1060.0]]))
    assert np.isnan(camera.rays(np.array([[1900.0, 1060.0]]))).all()
    assert ground_points(boxes, camera, attitude(20), POSITION, GROUND).index.tolist() == [0]


@pytest.mark.parametrize("lens", ["plumb_bob", "fisheye"])
def test_covariances_are_what_a_thousand_noisy_cameras_scatter(lens):
    rng = np.random.default_rng(1)
    rotation = attitude(40)
    places, pixels = seen(rotation, lens, 60)
    places, pixels = places[:3], pixels[:3]
    ground = Ground(3.0, 500.0, pixel_sigma=2.0, height_sigma=0.8, attitude_sigma=math.radians(0.4))
    camera = calibrated(lens)
    told = ground_points(around(pixels), camera, rotation, POSITION, ground).covariances
    scattered = []
    for _ in range(4000):
        turn, _ = cv2.Rodrigues(rng.normal(0, ground.attitude_sigma, 3))
        lower = Ground(ground.height + rng.normal(0, ground.height_sigma))
        noisy = around(pixels + rng.normal(0, ground.pixel_sigma, pixels.shape))
        scattered.append(ground_points(noisy, camera, turn @ rotation, POSITION, lower).positions)
    for index, covariance in enumerate(told):
        real = np.cov(np.array(scattered)[:, index].T)
        np.testing.assert_allclose(covariance, real, atol=0.12 * np.abs(real).max())


def test_widths_are_metres_across_the_view():
    rotation = attitude(0)
    half = 2.5 * 1100 / (POSITION[2] - GROUND.height)
    box = np.array([[955 - half, 540, 955 + half, 550]])
    found = ground_points(box, calibrated("no distortion"), rotation, POSITION, GROUND)
    np.testing.assert_allclose(found.widths, [5.0])


def test_binned_and_cropped_images_mean_the_same_places():
    rotation = attitude(30)
    _, pixels = seen(rotation, "plumb_bob", 50)
    whole = ground_points(around(pixels), calibrated("plumb_bob"), rotation, POSITION, GROUND)
    part = calibrated("plumb_bob", binning=(2, 2), roi=(100, 60, 1600, 900))
    assert (part.width, part.height) == (800, 450)
    smaller = (pixels - (100, 60) - 0.5) / 2
    found = ground_points(around(smaller, 5e-4), part, rotation, POSITION, GROUND)
    np.testing.assert_allclose(found.positions, whole.positions, rtol=1e-6)


def test_rectified_images_use_p_and_r():
    turn, _ = cv2.Rodrigues(np.array([0.01, -0.02, 0.005]))
    p = np.array([[900.0, 0, 940, -30], [0, 900.0, 530, 0], [0, 0, 1, 0]])
    camera = PinholeCamera.from_calibration(
        WIDTH, HEIGHT, *LENSES["plumb_bob"], K.reshape(-1), turn.reshape(-1), p.reshape(-1), rectified=True
    )
    ray = np.array([0.2, -0.1, 1.0])
    ahead = turn @ ray
    pixel = p[:, :3] @ (ahead / ahead[2])
    found = camera.rays(pixel[None, :2])[0]
    np.testing.assert_allclose(found / found[2], ray, atol=1e-9)


@pytest.mark.parametrize(
    ("model", "d", "k", "text"),
    [
        ("plumb_bob", [0.0] * 5, np.zeros(9), "not calibrated"),
        ("plumb_bob", [0.1] * 3, K.reshape(-1), "'plumb_bob' with 3 coefficients"),
        ("kannala_brandt", [0.1] * 4, K.reshape(-1), "'kannala_brandt' with 4 coefficients.*equidistant"),
        ("plumb_bob", [0.0] * 5, K.reshape(-1) * np.nan, "not calibrated"),
    ],
)
def test_a_camera_that_cannot_be_projected_with_is_refused_with_the_reason(model, d, k, text):
    with pytest.raises(ProjectionError, match=text):
        PinholeCamera.from_calibration(WIDTH, HEIGHT, model, d, k, IDENTITY, P)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"k": [0.0] * 9}, "not calibrated"),
        ({"k": [float("nan")] * 9}, "not calibrated"),
        ({"k": [1e9, 0, 320, 0, 1e9, 240, 0, 0, 1.0]}, "calibration is absurd"),
        ({"k": [500.0, 0, 1e9, 0, 500.0, 240, 0, 0, 1.0]}, "calibration is absurd"),
        ({"d": [float("nan")] * 5}, "distortion coefficients D are absurd"),
        ({"d": [1e30, 0, 0, 0, 0]}, "distortion coefficients D are absurd"),
        ({"width": 0}, "0 x 480 pixels"),
        ({"rectified": True, "r": [2.0, 0, 0, 0, 1, 0, 0, 0, 1]}, "R is no rotation"),
        ({"rectified": True, "r": [float("nan")] * 9}, "R is no rotation"),
    ],
)
def test_a_calibration_that_is_none_is_named(change, told):
    k = [500.0, 0, 320, 0, 500.0, 240, 0, 0, 1.0]
    given = {
        "width": 640, "height": 480, "model": "plumb_bob", "d": [0.1, 0, 0, 0, 0], "k": k,
        "r": [1.0, 0, 0, 0, 1, 0, 0, 0, 1], "p": [*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0],
    }  # fmt: skip
    PinholeCamera.from_calibration(**given)
    with pytest.raises(ProjectionError, match=told):
        PinholeCamera.from_calibration(**{**given, **change})
