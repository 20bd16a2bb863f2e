"""The letterbox: geometry, pixels, and the way back."""

import tracemalloc

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.frames import encode, picture
from yolo_trt_node.detector.letterbox import Letterbox, Preprocessor, matched_shape
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS
from yolo_trt_node.images.frames import Frame

sides = st.integers(1, 4000)


@given(sides, sides)
def test_scaled_image_lies_inside_the_input(height, width):
    box = Letterbox.fit(height, width, 384, 640)
    assert 0 <= box.top <= box.top + box.scaled_height <= 384
    assert 0 <= box.left <= box.left + box.scaled_width <= 640


@given(sides, sides)
def test_corners_of_the_image_return_to_themselves(height, width):
    box = Letterbox.fit(height, width, 640, 640)
    network = np.array(
        [[box.left, box.top, box.left + box.scaled_width, box.top + box.scaled_height]], np.float32
    )
    np.testing.assert_allclose(
        box.to_image(network)[0], [0, 0, width, height], atol=max(height, width) * 1e-6
    )


@given(sides, sides)
def test_matched_shape_holds_the_image_at_full_scale_and_wastes_less_than_a_stride(height, width):
    rows, columns = matched_shape(height, width, 640, 640, 32)
    assert rows % 32 == columns % 32 == 0
    assert rows <= 640
    assert columns <= 640
    scale = min(640 / height, 640 / width)
    assert rows >= round(height * scale)
    assert columns >= round(width * scale)
    assert rows - height * scale <= 32
    assert columns - width * scale <= 32


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((1080, 1920), (384, 640)),
        ((480, 640), (480, 640)),
        ((1920, 1080), (640, 384)),
        ((512, 640), (512, 640)),
    ],
)
def test_common_cameras(size, shape):
    assert matched_shape(*size, 640, 640, 32) == shape


def test_an_odd_row_of_padding_lies_below_as_in_ultralytics():
    box = Letterbox.fit(63, 64, 64, 64)
    assert (box.top, box.left, box.scaled_height) == (0, 0, 63)


def plain(frame, layout, channels, color):
    """The definition, step by step: to BGR, scale, pad, order, 3 x height x width, 8 bits."""
    wanted = np.empty((layout.height, layout.width, 3), np.uint8)
    wanted[:] = color
    scaled = cv2.resize(
        frame.to_bgr(), (layout.scaled_width, layout.scaled_height), interpolation=cv2.INTER_LINEAR
    )
    wanted[
        layout.top : layout.top + layout.scaled_height, layout.left : layout.left + layout.scaled_width
    ] = scaled
    return (wanted[..., ::-1] if channels == "RGB" else wanted).transpose(2, 0, 1)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "size", [(45, 81), (32, 48), (24, 48), (91, 33), (3, 200), (200, 3), (2, 2), (96, 144), (64, 96)]
)
def test_pixels_equal_the_plain_definition(size, encoding, channels):
    color = (10, 114, 200)
    frame = encode(picture(*size), encoding, padding=5)
    preprocess = Preprocessor(32, 48, channels=channels, scale=1 / 255, color=color)
    preprocess([encode(picture(50, 60, seed=9), "bgr8")])  # leaves its traces in the buffers
    batch, (layout,) = preprocess([frame])
    wanted = plain(frame, layout, channels, color).astype(np.float32) / 255
    np.testing.assert_allclose(batch[0], wanted, atol=1e-6)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_scaling_by_whole_factors_equals_opencv(factor, channels):
    image = np.random.default_rng(factor).integers(0, 256, (18 * factor, 32 * factor, channels), np.uint8)
    encoding = {1: "mono8", 3: "rgb8", 4: "rgba8"}[channels]
    frame = Frame(image, *image.shape[:2], encoding, image.strides[0])
    options = {"channels": "RGB", "scale": 1.0, "color": (1, 2, 3)}
    batch, (layout,) = Preprocessor(18, 32, **options)([frame])
    np.testing.assert_array_equal(batch[0], plain(frame, layout, "RGB", (1, 2, 3)))


def test_a_batch_holds_frames_of_every_encoding_and_size_side_by_side():
    frames = [encode(picture(40 + 10 * i, 70, seed=i), encoding) for i, encoding in enumerate(ENCODINGS)]
    options = {"channels": "RGB", "scale": 1.0, "color": (1, 2, 3)}
    batch, layouts = Preprocessor(64, 64, **options)(frames)
    assert batch.shape == (len(ENCODINGS), 3, 64, 64)
    for tensor, frame, layout in zip(batch, frames, layouts, strict=True):
        np.testing.assert_array_equal(tensor, plain(frame, layout, "RGB", (1, 2, 3)))


def test_memory_is_reused_from_frame_to_frame():
    preprocess = Preprocessor(64, 96, channels="RGB", scale=1.0, color=(1, 2, 3))
    frames = [encode(picture(90, 160), encoding) for encoding in ENCODINGS]
    preprocess(frames)
    tracemalloc.start()
    preprocess(frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 * 96  # less than a single plane of the network's input


def test_a_read_only_view_with_padded_rows_is_read():
    wide = np.random.default_rng(1).integers(0, 256, (20, 40, 3), np.uint8)
    view = wide[:, :30]
    view.flags.writeable = False
    preprocess = Preprocessor(32, 32, channels="RGB", scale=1.0, color=(0, 0, 0))
    padded = preprocess([view])[0].copy()
    np.testing.assert_array_equal(padded, preprocess([np.ascontiguousarray(view)])[0])
