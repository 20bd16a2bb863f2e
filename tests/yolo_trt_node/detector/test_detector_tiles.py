"""The detector with tiles and with several cameras, on a model that finds rectangles of any size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.frames import encode
from support.toy_detector import BGR, LEAST, NAMES, write_rectangle_detector
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.backends import onnx_runtime
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS

GRAY = 114
SIDE = 64


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_rectangle_detector(tmp_path_factory.mktemp("model") / "rectangles.onnx", side=SIDE)


@pytest.fixture
def batches(monkeypatch):
    """The sizes of the batches that reach the network."""
    sizes = []
    infer = onnx_runtime.OnnxSession.infer

    def recording(self, batch):
        sizes.append(len(batch))
        return infer(self, batch)

    monkeypatch.setattr(onnx_runtime.OnnxSession, "infer", recording)
    return sizes


def paint(height, width, *objects):
    image = np.full((height, width, 3), GRAY, np.uint8)
    for left, top, right, bottom, class_id in objects:
        image[top:bottom, left:right] = BGR[NAMES[class_id]]
    return image


def overlap(box, others):
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(0).prod(axis=1)
    return shared / ((box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared)


@st.composite
def scenes(draw, least):
    """An image's height and width, and objects whose colours do not run together when it is scaled down."""
    height, width = draw(st.tuples(st.integers(70, 200), st.integers(70, 260)))
    gap = 4 * max(height, width) // SIDE
    fraction, size = st.floats(0, 1), st.one_of(st.integers(least, 20), st.integers(20, 260))
    objects = []
    for x, y, w, h, class_id in draw(
        st.lists(st.tuples(fraction, fraction, size, size, st.integers(0, 2)), max_size=8)
    ):
        w, h = min(w, width), min(h, height)
        left, top = int(x * (width - w)), int(y * (height - h))
        new = (left, top, left + w, top + h, class_id)
        if all(
            new[2] + gap <= o[0] or o[2] + gap <= new[0] or new[3] + gap <= o[1] or o[3] + gap <= new[1]
            for o in objects
        ):
            objects.append(new)
    return height, width, objects


def test_tiles_find_objects_of_any_size_anywhere_exactly_once(model):
    detector = Detector.load(model, DetectorOptions(tiling="auto", threads=1))

    @given(scene=scenes(least=LEAST))
    @settings(max_examples=80, deadline=None)
    def check(scene):
        height, width, objects = scene
        (found,) = detector.detect([paint(height, width, *objects)])
        truth = np.array(objects, np.float32).reshape(-1, 5)
        assert sorted(found.class_ids) == sorted(truth[:, 4])
        blur = 3 * max(height, width) / SIDE
        for box in truth:
            same = found.boxes[found.class_ids == box[4]]
            # What a tile sees whole is exact; what only the whole image shows is as coarse as that.
            exact = (box[2:4] - box[:2]).max() <= int(0.2 * SIDE) - 8
            error = np.abs(same - box[:4]).max(axis=1)
            assert error.min() <= (1e-3 if exact else blur)

    check()


@pytest.mark.parametrize("tiling", ["auto", "2x2", "2x3"])
def test_tiles_agree_with_the_plain_pass_on_what_it_sees(model, tiling):
    plain = Detector.load(model, DetectorOptions(threads=1))
    tiled = Detector.load(model, DetectorOptions(tiling=tiling, threads=1))

    @given(scene=scenes(least=12))
    @settings(max_examples=25, deadline=None)
    def check(scene):
        height, width, objects = scene
        image = paint(height, width, *objects)
        (expected,), (found,) = plain.detect([image]), tiled.detect([image])
        for box, class_id in zip(expected.boxes, expected.class_ids, strict=True):
            assert (overlap(box, found.boxes[found.class_ids == class_id]) > 0.4).sum() == 1
        assert len(found) == len(objects)

    check()


def test_small_objects_that_the_plain_pass_misses_are_found(model):
    image = paint(256, 256, (101, 57, 104, 60, 0), (31, 200, 34, 204, 2))
    (plain,) = Detector.load(model).detect([image])
    (tiled,) = Detector.load(model, DetectorOptions(tiling="auto")).detect([image])
    assert len(plain) < 2
    order = np.argsort(tiled.class_ids)
    np.testing.assert_allclose(tiled.boxes[order], [(101, 57, 104, 60), (31, 200, 34, 204)], atol=1e-3)


def test_tiles_are_off_unless_asked_for(model):
    assert len(Detector.load(model).views(120, 200).windows) == 1


def test_tiles_of_several_cameras_share_few_batches_of_bounded_size(model, batches):
    detector = Detector.load(model, DetectorOptions(tiling="2x2", max_batch=6))
    cameras = [
        paint(120, 120, (10, 10, 20, 20, 0)),
        paint(120, 200, (150, 100, 160, 110, 1), (10, 80, 90, 110, 0)),
        paint(200, 200, (10, 150, 20, 160, 2)),
        paint(64, 64),
    ]
    found = detector.detect(cameras)
    assert [sorted(d.class_ids) for d in found] == [[0], [0, 1], [2], []]
    # 5 views of each square camera make 3 batches, not 3 times 1; the wide camera has a shape of its own.
    assert sorted(batches) == [5, 5, 5, 5]
    for image, together in zip(cameras, found, strict=True):
        (alone,) = detector.detect([image])
        np.testing.assert_array_equal(alone.boxes, together.boxes)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_frames_are_tiled_in_their_own_encoding(model, encoding):
    frame = encode(paint(150, 202, (11, 31, 23, 43, 0), (120, 20, 160, 130, 2)), encoding, 6)
    detector = Detector.load(model, DetectorOptions(tiling="auto"))
    (found,), (expected,) = detector.detect([frame]), detector.detect([frame.to_bgr()])
    np.testing.assert_array_equal(found.boxes, expected.boxes)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)
    assert sorted(found.class_ids) == ([] if encoding == "mono8" else [0, 2])


def test_a_batch_size_fixed_in_the_model_is_kept(tmp_path, batches):
    path = write_rectangle_detector(tmp_path / "fixed.onnx", side=SIDE, static_batch=4)
    image = paint(128, 128, (10, 10, 14, 14, 0), (100, 90, 110, 100, 1))
    detector = Detector.load(path, DetectorOptions(tiling="auto"))
    batches.clear()  # a first load tries the model out
    (found,) = detector.detect([image])
    assert sorted(found.class_ids) == [0, 1]
    assert set(batches) == {4}
    assert len(batches) == -(-len(detector.views(128, 128).windows) // 4)


def test_stages_are_timed_over_all_batches_of_an_image(model, batches):
    detector = Detector.load(model, DetectorOptions(tiling="2x2", max_batch=1))
    (found,) = detector.detect([paint(120, 120)])
    assert len(batches) == 5
    assert set(found.timing) == {"preprocess", "inference", "postprocess"}
    assert all(seconds > 0 for seconds in found.timing.values())


def test_tiling_changes_between_two_images(model):
    detector = Detector.load(model)
    assert len(detector.views(120, 200).windows) == 1
    detector.set_options(DetectorOptions(tiling="2x3", tile_overlap=0.3))
    assert len(detector.views(120, 200).windows) == 7
    with pytest.raises(ValueError, match="tiling is 'many'"):
        detector.set_options(DetectorOptions(tiling="many"))
    assert (detector.options.tiling, detector.options.tile_overlap) == ("2x3", 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tiling": "4"}, "use none, auto, or ROWSxCOLUMNS"),
        ({"tile_overlap": 0.0}, "tile_overlap is 0.0, but must lie between 0.05 and 0.5"),
        ({"tile_overlap": 0.6}, "tile_overlap"),
        ({"max_batch": 0}, "max_batch is 0, but must lie between 1 and 256"),
    ],
)
def test_tiling_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DetectorOptions(**options)
