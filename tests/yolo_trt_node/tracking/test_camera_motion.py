"""The camera's motion is seen in the ground."""

import cv2
import numpy as np
import pytest
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.tracking.camera_motion import CameraMotion

HEIGHT, WIDTH = 540, 960


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 255, (80, 130, 3), np.uint8)
    return cv2.resize(coarse, (2600, 1600), interpolation=cv2.INTER_CUBIC)


def view(ground: np.ndarray, motion: np.ndarray, size=(WIDTH, HEIGHT)) -> np.ndarray:
    """The ground as seen after a motion of the image (old pixel to new pixel)."""
    start = np.array([[1, 0, -400], [0, 1, -300], [0, 0, 1.0]])
    return cv2.warpPerspective(ground, motion @ start, size, flags=cv2.INTER_AREA)


TILT = np.array([[1.02, -0.015, 9.0], [0.02, 1.01, -6.0], [1.5e-5, -3e-5, 1.0]])


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_turn_zoom_shift_and_tilt_are_found_to_a_fraction_of_a_pixel(ground, scale):
    size = (WIDTH * scale, HEIGHT * scale)
    enlarge = np.diag([scale, scale, 1.0])
    motion = enlarge @ TILT @ np.linalg.inv(enlarge)
    camera = CameraMotion()
    first = camera.update(Frame.from_bgr(view(ground, enlarge, size)))
    np.testing.assert_array_equal(first, np.eye(3))
    found = camera.update(Frame.from_bgr(view(ground, motion @ enlarge, size)))
    corners = np.array([[0, 0, 1], [size[0], 0, 1], [0, size[1], 1], [size[0], size[1], 1.0]]).T
    a, b = found @ corners, motion @ corners
    assert np.abs(a[:2] / a[2] - b[:2] / b[2]).max() < 0.5 * scale


def test_objects_that_move_do_not_move_the_ground(ground):
    rng = np.random.default_rng(4)
    before, after = view(ground, np.eye(3)), view(ground, np.eye(3))
    for _ in range(12):
        x, y = int(rng.integers(40, WIDTH - 120)), int(rng.integers(40, HEIGHT - 80))
        patch = rng.integers(0, 255, (24, 40, 3), np.uint8)
        before[y : y + 24, x : x + 40] = patch
        after[y : y + 24, x + 14 : x + 54] = patch
    camera = CameraMotion()
    camera.update(Frame.from_bgr(before))
    np.testing.assert_allclose(camera.update(Frame.from_bgr(after)), np.eye(3), atol=0.05)


def test_without_anything_to_hold_on_to_it_assumes_none():
    camera = CameraMotion()
    blank = Frame.from_bgr(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    for _ in range(2):
        np.testing.assert_array_equal(camera.update(blank), np.eye(3))


def test_scenes_that_have_nothing_in_common_give_none():
    rng = np.random.default_rng(5)
    camera = CameraMotion()
    for _ in range(2):
        noise = rng.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)
        np.testing.assert_array_equal(camera.update(Frame.from_bgr(noise)), np.eye(3))


@pytest.mark.parametrize("encoding", ["rgb8", "bgra8", "rgba8", "mono8", "nv12", "yuyv"])
def test_every_encoding_of_the_detector_shows_the_motion(ground, encoding):
    def frame(bgr: np.ndarray) -> Frame:
        if encoding == "nv12":
            gray = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
            data = np.concatenate((gray, np.full((HEIGHT // 2, WIDTH), 128, np.uint8)))
        elif encoding == "yuyv":
            data = np.full((HEIGHT, WIDTH, 2), 128, np.uint8)
            data[:, :, 0] = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
        else:
            code = {
                "rgb8": cv2.COLOR_BGR2RGB,
                "bgra8": cv2.COLOR_BGR2BGRA,
                "rgba8": cv2.COLOR_BGR2RGBA,
                "mono8": cv2.COLOR_BGR2GRAY,
            }[encoding]
            data = cv2.cvtColor(bgr, code)
        return Frame(data, HEIGHT, WIDTH, encoding, data.strides[0])

    shift = np.array([[1, 0, 7.0], [0, 1, -4.0], [0, 0, 1]])
    camera = CameraMotion()
    camera.update(frame(view(ground, np.eye(3))))
    found = camera.update(frame(view(ground, shift)))
    np.testing.assert_allclose(found @ [480, 270, 1], [487, 266, 1], atol=0.3)


def test_the_cameras_memory_is_not_kept():
    # A driver that reuses its buffer must not change the last frame behind our back.
    rng = np.random.default_rng(6)
    coarse = rng.integers(0, 255, (45, 80), np.uint8)
    picture = cv2.resize(coarse, (700, 400), interpolation=cv2.INTER_CUBIC)
    buffer = np.ascontiguousarray(picture[20:380, 20:660])
    camera = CameraMotion()
    frame = Frame(buffer, 360, 640, "mono8", 640)
    camera.update(frame)
    buffer[:] = picture[20:380, 25:665]
    np.testing.assert_allclose(camera.update(frame) @ [300, 200, 1], [295, 200, 1], atol=0.3)
