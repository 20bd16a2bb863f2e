"""Frames in the camera's own encoding."""

import cv2
import numpy as np
import pytest
from support.frames import encode, picture
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS
from yolo_trt_node.images.frames import Frame

IMAGE = picture(46, 62)


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_frame_is_a_view_of_the_memory_given_and_becomes_bgr(encoding, padding):
    frame = encode(IMAGE, encoding, padding)
    given = frame.data.base if frame.data.base is not None else frame.data
    assert np.shares_memory(frame.pixels, given)
    bgr = frame.to_bgr()
    assert bgr.shape == IMAGE.shape
    if encoding in ("nv12", "yuyv", "mono8"):
        # Chroma is lost, brightness is not (limited range and rounding cost a few levels).
        gray, wanted = (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(int) for image in (bgr, IMAGE))
        assert (
            np.abs(
                cv2.blur(gray.astype(np.float32), (9, 9)) - cv2.blur(wanted.astype(np.float32), (9, 9))
            ).max()
            < 12
        )
    else:
        np.testing.assert_array_equal(bgr, IMAGE)
    into = np.zeros_like(IMAGE)
    if encoding != "bgr8":
        assert frame.to_bgr(into) is into
        np.testing.assert_array_equal(into, bgr)


def test_yuv_is_bt_601_with_the_limited_range():
    # ITU-R BT.601: white is Y 235, black Y 16, pure red Y 81, U 90, V 240.
    for (y, u, v), bgr in (((235, 128, 128), 255), ((16, 128, 128), 0), ((81, 90, 240), (0, 0, 255))):
        nv12 = np.array([[y] * 4] * 2 + [[u, v] * 2], np.uint8)
        yuyv = np.array([[y, u, y, v] * 2] * 2, np.uint8)
        for encoding, data in (("nv12", nv12), ("yuyv", yuyv)):
            frame = Frame(data, 2, 4, encoding, data.shape[1])
            np.testing.assert_allclose(frame.to_bgr().astype(int), np.broadcast_to(bgr, (2, 4, 3)), atol=2)


@pytest.mark.parametrize(
    "view",
    [
        IMAGE,
        IMAGE[:, :31],
        IMAGE[5:9],
        IMAGE[::2],
        IMAGE[::-1],
        IMAGE[:, ::2],
        IMAGE[..., ::-1],
        IMAGE[:1],
        IMAGE[:, :1],
        IMAGE.transpose(1, 0, 2),
    ],
)
def test_any_array_of_pixels_can_be_wrapped(view):
    frame = Frame.from_bgr(view)
    np.testing.assert_array_equal(frame.pixels, view)
    assert frame.data.strides[1] == 1
    assert len(frame.data) == 1 or frame.data.strides[0] == frame.step


def test_a_crop_is_wrapped_without_a_copy():
    assert np.shares_memory(Frame.from_bgr(IMAGE[3:20, 5:30]).data, IMAGE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.zeros(12, np.uint8), 2, 2, "bayer", 6), "unknown encoding 'bayer'"),
        ((np.zeros(0, np.uint8), 0, 2, "bgr8", 6), "empty frame of 2 x 0 pixels"),
        ((np.zeros(11, np.uint8), 2, 2, "bgr8", 6), "holds no bgr8 frame of 2 x 2 pixels"),
        ((np.zeros(12, np.uint8), 2, 2, "bgr8", 5), "holds no bgr8"),
        ((np.zeros(12, np.uint8), 2, 2, "bgr8", 8), "holds no bgr8"),
        ((np.zeros(12, np.float32), 2, 2, "bgr8", 6), "holds no bgr8"),
        ((np.zeros((4, 8), np.uint8)[:, :6], 2, 2, "bgr8", 8), "holds no bgr8"),
        ((np.zeros((2, 12), np.uint8)[:, ::2], 2, 2, "bgr8", 12), "holds no bgr8"),
        ((np.zeros(100, np.uint8), 3, 4, "nv12", 4), "nv12 frame has even sides, not 4 x 3"),
        ((np.zeros(100, np.uint8), 3, 5, "yuyv", 10), "yuyv frame has even sides, not 5 x 3"),
    ],
)
def test_data_that_holds_no_such_image_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Frame(*arguments)


def test_the_last_row_needs_no_padding():
    # Some drivers cut the buffer after the last pixel.
    frame = Frame(np.arange(14, dtype=np.uint8), 2, 2, "bgr8", 8)
    np.testing.assert_array_equal(frame.data, [[0, 1, 2, 3, 4, 5], [8, 9, 10, 11, 12, 13]])


@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "part", [(0, 0, 62, 46), (0, 0, 2, 2), (10, 4, 40, 46), (60, 44, 62, 46), (0, 20, 62, 22)]
)
def test_a_part_of_a_frame_shows_that_part(encoding, padding, part):
    frame = encode(IMAGE, encoding, padding)
    left, top, right, bottom = part
    cut = frame.crop(*part)
    assert (cut.height, cut.width, cut.encoding) == (bottom - top, right - left, encoding)
    np.testing.assert_array_equal(cut.to_bgr(), frame.to_bgr()[top:bottom, left:right])
    if encoding != "nv12":
        assert np.shares_memory(cut.data, frame.data)


@pytest.mark.parametrize(
    ("encoding", "part", "message"),
    [
        ("bgr8", (0, 0, 63, 46), "no part of a frame of 62 x 46"),
        ("bgr8", (-1, 0, 62, 46), "no part"),
        ("bgr8", (5, 5, 5, 6), "no part"),
        ("nv12", (1, 0, 3, 2), r"cut at even pixels, not at \(1, 0\)"),
        ("nv12", (0, 1, 2, 3), "cut at even pixels"),
        ("yuyv", (1, 0, 3, 2), "cut at even pixels"),
        ("nv12", (0, 0, 3, 2), "even sides"),
    ],
)
def test_parts_that_cannot_be_cut_are_refused(encoding, part, message):
    with pytest.raises(ValueError, match=message):
        encode(IMAGE, encoding).crop(*part)
