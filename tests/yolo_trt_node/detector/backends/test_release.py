"""GPU memory is given back when a session is closed or dropped, not when the collector happens to run.

``pytest -s`` prints the figures of the long reload.
"""

import gc
import time

import numpy as np
import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.backends import open_model
from yolo_trt_node.detector.backends.tensorrt_engine import SharedEngine
from yolo_trt_node.detector.options import LoadOptions

RELOADS = 400


@pytest.fixture
def no_collector():
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def eager_collector():
    """The garbage collector runs at every allocation, so that finalisers run wherever they can."""
    usual = gc.get_threshold()
    gc.freeze()  # what is there already need not be looked through each time
    gc.set_threshold(1)
    yield
    gc.set_threshold(*usual)
    gc.unfreeze()


def images(count: int) -> np.ndarray:
    return np.zeros((count, 3, 64, 64), np.float32)


def open_session(path, **options):
    model, _ = open_model(path, backend="tensorrt", options=LoadOptions(**options))
    return model.session(64, 64)


def test_a_prediction_outlives_its_session(fake, toy, no_collector):
    session = open_session(toy)
    prediction = session.infer(images(1))
    wanted = prediction.copy()

    session.close()

    np.testing.assert_array_equal(prediction, wanted)
    del prediction
    assert fake.allocations() == 0


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_session_gives_everything_back_without_the_collector(fake, toy, no_collector, how):
    session = open_session(toy, max_batch=2)
    for _ in range(3):
        session.infer(images(1))
        session.infer(images(2))
    assert fake.allocations()
    assert len(fake.graphs) == 2

    if how == "close":
        session.close()
    else:
        del session

    assert fake.allocations() == 0
    assert not fake.graphs
    assert not fake.frees_outside_context


def test_a_detector_closes_its_sessions_and_refuses_to_run(fake, toy, no_collector):
    detector = Detector.load(toy, DetectorOptions(backend="tensorrt"))
    detector.prepare(64, 64)
    detector.prepare(32, 64)

    detector.close()

    assert fake.allocations() == 0
    with pytest.raises(RuntimeError, match="the detector is closed"):
        detector.detect([np.zeros((64, 64, 3), np.uint8)])
    detector.close()


def test_a_detector_closes_the_session_of_the_shape_that_makes_room(fake, toy, no_collector, monkeypatch):
    monkeypatch.setattr("yolo_trt_node.detector.detector._SHAPES_KEPT", 1)
    detector = Detector.load(toy, DetectorOptions(backend="tensorrt"))
    detector.prepare(64, 64)
    ((_, first),) = detector._prepared.values()

    detector.prepare(32, 64)

    ((_, second),) = detector._prepared.values()
    assert (first._close.alive, second._close.alive) == (False, True)


def test_an_engine_file_ends_with_its_detector(fake, toy, tmp_path, no_collector):
    model, _ = open_model(
        toy, backend="tensorrt", options=LoadOptions(engine_cache=str(tmp_path / "engines"))
    )
    path = model.engine(64, 64).path
    detector = Detector.load(path, DetectorOptions(backend="tensorrt"))
    detector.prepare(64, 64)

    detector.close()

    assert fake.allocations() == 0


def test_after_an_error_that_lasts_all_is_tried_and_nothing_raised(fake, toy, monkeypatch):
    session = open_session(toy)
    session.infer(images(1))
    tried = []
    monkeypatch.setattr(type(session._output), "free", lambda self: tried.append(self) or fake.mem_alloc(1))
    monkeypatch.setattr(fake, "sticky_error", "an illegal memory access was encountered")

    with pytest.raises(fake.LaunchError):
        session.infer(images(1))
    session.close()

    assert len(tried) >= 2
    assert not session._close.alive


def test_reloading_two_engines_neither_hangs_nor_keeps_memory(
    fake, tmp_path, eager_collector, request, capsys
):
    options = LoadOptions(max_batch=2, engine_cache=str(tmp_path / "engines"))
    paths = [write_toy_detector(tmp_path / f"{size}.onnx", size=(size, size)) for size in (64, 32)]
    models = [open_model(path, backend="tensorrt", options=options)[0] for path in paths]
    stored = [model.engine(64, 64) for model in models]
    for model, engine in zip(models, stored, strict=True):
        model.engine = lambda height, width, engine=engine: engine
    started, after = time.perf_counter(), set()
    for turn in range(RELOADS):
        if turn % 10 == 0:
            # Left for the collector, which will come in the middle of the next load.
            cycle = [models[turn % 2].session(64, 64)]
            cycle.append(cycle)
            del cycle
        session = models[(turn + 1) % 2].session(64, 64)
        session.infer(images(1 + turn % 2))
        session.close()
        del session
        gc.collect(0)
        after.add(fake.allocations())
    with capsys.disabled():
        if request.config.option.capture == "no":
            took = time.perf_counter() - started
            print(f"\n{RELOADS} reloads in {took:.1f} s; allocations after each close: {sorted(after)}")

    assert after == {0}
    assert not SharedEngine._loaded
    assert not fake.frees_outside_context
