"""What every backend promises, checked on every backend in the same way."""

import threading

import numpy as np
import pytest
from support.toy_detector import NAMES, expected_box, model_card, paint_cells, write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.backends import open_model


def scene(cells, height=64, width=64):
    return paint_cells(np.full((height, width, 3), 114, np.uint8), cells)


def batch_of(*images) -> np.ndarray:
    """Images H x W x 3 BGR as an input batch N x 3 x H x W float32."""
    return np.stack([image[..., ::-1].transpose(2, 0, 1) for image in images]).astype(np.float32) / 255


def reference(path, batch) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path))
    (image,) = session.get_inputs()
    dtype = np.float16 if "float16" in image.type else np.float32
    return np.concatenate([session.run(None, {image.name: one[None].astype(dtype)})[0] for one in batch])


def session_of(path, backend, options, height=64, width=64):
    model, _ = open_model(path, backend=backend, options=options)
    return model.session(height, width)


def test_says_what_the_file_says(toy, backend, options):
    model, reason = open_model(toy, backend=backend, options=options)

    assert model.backend == backend
    assert backend in reason
    assert "model_card" in model.metadata
    (image,), (prediction,) = model.inputs, model.outputs
    assert image.shape == (None, 3, None, None)
    assert image.dtype == "float32"
    assert prediction.shape[:2] == (None, 7)


@pytest.mark.parametrize("size", [(64, 64), (40, 64), (64, 24)])
def test_predicts_what_onnx_runtime_predicts(toy, backend, options, size):
    batch = batch_of(scene([(1, 2, "red"), (2, 1, "blue")], *size))

    prediction = session_of(toy, backend, options, *size).infer(batch)

    assert prediction.dtype == np.float32
    np.testing.assert_allclose(prediction, reference(toy, batch), atol=1e-3)


def test_takes_any_number_of_images_and_keeps_their_order(toy, backend, options):
    session = session_of(toy, backend, options)
    images = batch_of(*(scene([(row, column, "green")]) for row in range(3) for column in range(3)))

    for count in (1, 3, 9, 4, 1):
        np.testing.assert_allclose(session.infer(images[:count]), reference(toy, images[:count]), atol=1e-3)


def test_answers_again_and_again_alike(toy, backend, options):
    session = session_of(toy, backend, options)
    first, second = batch_of(scene([(3, 3, "red")])), batch_of(scene([(6, 6, "blue")]))
    wanted = reference(toy, first)

    for _ in range(3):
        np.testing.assert_allclose(session.infer(first), wanted, atol=1e-3)
        session.infer(second)


def test_a_strided_batch_is_read_rightly(toy, backend, options):
    batch = batch_of(scene([(3, 3, "red")]))
    reversed_twice = np.ascontiguousarray(batch[..., ::-1])[..., ::-1]

    prediction = session_of(toy, backend, options).infer(reversed_twice)

    np.testing.assert_allclose(prediction, reference(toy, batch), atol=1e-3)


@pytest.mark.parametrize("changes", [{"static": True}, {"half": True}])
def test_fixed_shapes_and_half_inputs_are_served(tmp_path, backend, options, changes):
    path = write_toy_detector(tmp_path / "toy.onnx", **changes)
    batch = batch_of(scene([(3, 3, "red")]))

    prediction = session_of(path, backend, options).infer(batch)

    assert prediction.dtype == np.float32
    np.testing.assert_allclose(prediction, reference(path, batch), atol=2e-2)


def test_sessions_of_two_shapes_live_beside_each_other(toy, backend, options):
    model, _ = open_model(toy, backend=backend, options=options)
    wide, tall = model.session(32, 64), model.session(64, 32)
    batch_wide, batch_tall = (
        batch_of(scene([(1, 2, "red")], 32, 64)),
        batch_of(scene([(2, 1, "red")], 64, 32)),
    )

    for _ in range(2):
        np.testing.assert_allclose(wide.infer(batch_wide), reference(toy, batch_wide), atol=1e-3)
        np.testing.assert_allclose(tall.infer(batch_tall), reference(toy, batch_tall), atol=1e-3)


def test_detectors_in_several_threads_do_not_disturb_each_other(toy, backend):
    errors = []

    def fly(row: int) -> None:
        try:
            detector = Detector.load(toy, DetectorOptions(backend=backend, threads=1))
            image = scene([(row, 3, "red")])
            for _ in range(5):
                (found,) = detector.detect([image])
                np.testing.assert_allclose(found.boxes, [expected_box(row, 3)], atol=0.5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=fly, args=(row,)) for row in range(2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_a_detector_finds_the_same_boxes(toy, backend):
    detector = Detector.load(toy, DetectorOptions(backend=backend, threads=1))

    found, nothing = detector.detect([scene([(3, 4, "red"), (5, 1, "blue")]), scene([])])

    assert sorted(NAMES[i] for i in found.class_ids) == ["blue", "red"]
    assert len(nothing) == 0
    assert backend in detector.backend_reason


def test_the_precision_in_force_is_told(toy, backend, options):
    precision = session_of(toy, backend, options).precision

    assert precision.split()[0] in ("fp32", "fp16", "bf16")


def test_int8_without_a_quantized_model_is_refused(toy, backend, options):
    with pytest.raises(ModelError, match=f"backend {backend} cannot run: .*int8"):
        Detector.load(toy, DetectorOptions(backend=backend, precision="int8"))


def test_a_damaged_file_is_refused_with_its_name_and_size(toy, backend, options):
    toy.write_bytes(toy.read_bytes()[:300])

    with pytest.raises(ModelError, match=r"cannot read .*toy\.onnx \(300 bytes\).*export it again"):
        open_model(toy, backend=backend, options=options)


def test_a_file_that_is_no_detector_is_refused_before_anything_is_compiled(tmp_path, backend):
    path = write_toy_detector(tmp_path / "toy.onnx", metadata={"task": "segment", **_card()})

    with pytest.raises(ModelError, match="task 'segment'"):
        Detector.load(path, DetectorOptions(backend=backend))


def _card() -> dict:
    import json

    return {"model_card": json.dumps(model_card(64, 64))}
