"""From image messages to pixels."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from yolo_trt_node.node.images import ENCODINGS, ImageError, to_bgr

RNG = np.random.default_rng(0)
BGR = RNG.integers(0, 256, (5, 7, 3), np.uint8)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
ALPHA = RNG.integers(0, 256, (5, 7, 1), np.uint8)


def message(encoding, pixels, padding=0, /, **changes):
    rows = pixels.reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=77)
    fields = {
        "height": pixels.shape[0],
        "width": pixels.shape[1],
        "encoding": encoding,
        "step": padded.shape[1],
        "data": padded.tobytes(),
    }
    return SimpleNamespace(**{**fields, **changes})


CASES = {
    "bgr8": (BGR, BGR),
    "8UC3": (BGR, BGR),
    "rgb8": (BGR[..., ::-1].copy(), BGR),
    "bgra8": (np.concatenate([BGR, ALPHA], axis=2), BGR),
    "rgba8": (np.concatenate([BGR[..., ::-1], ALPHA], axis=2), BGR),
    "mono8": (GREY, np.repeat(GREY[..., None], 3, axis=2)),
    "8UC1": (GREY, np.repeat(GREY[..., None], 3, axis=2)),
}


def test_every_supported_encoding_is_tested():
    assert set(CASES) == set(ENCODINGS)


@pytest.mark.parametrize("padding", [0, 5])
@pytest.mark.parametrize("encoding", CASES)
def test_pixels_come_out_as_bgr_whatever_the_row_padding(encoding, padding):
    given, wanted = CASES[encoding]
    np.testing.assert_array_equal(to_bgr(message(encoding, given, padding)), wanted)


def test_bgr8_is_not_copied():
    picture = message("bgr8", BGR)
    assert np.shares_memory(to_bgr(picture), np.frombuffer(picture.data, np.uint8))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"encoding": ""}, "encoding '' is not supported; supported are bgr8, rgb8"),
        ({"encoding": "BGR8"}, "not supported"),
        ({"height": 0}, "empty image: 7 x 0"),
        ({"width": 0}, "empty image: 0 x 5"),
        ({"step": 20}, "step 20 is less than the 21 bytes"),
        ({"step": 22}, "5 rows of step 22 make 110"),
        ({"data": b""}, "0 bytes of data"),
        ({"data": b"\x00" * 106}, "106 bytes of data, but 5 rows of step 21 make 105"),
        ({"height": 4_294_967_295}, "corrupt image"),
        ({"width": 4_294_967_295, "step": 4_294_967_295}, "corrupt image"),
    ],
)
def test_messages_whose_fields_do_not_fit_are_refused_with_the_reason(changes, text):
    with pytest.raises(ImageError, match=text):
        to_bgr(message("bgr8", BGR, **changes))


def test_a_view_can_be_drawn_and_resized_from():
    assert cv2.resize(to_bgr(message("bgr8", BGR, 3)), (3, 3)).shape == (3, 3, 3)
