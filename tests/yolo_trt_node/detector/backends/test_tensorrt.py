"""The TensorRT backend on a recording fake: order of calls, shapes, streams, sharing, fallbacks."""

import logging
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
from support import fake_tensorrt
from support.toy_detector import expected_box, paint_cells
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.backends import gpu, open_model, tensorrt_session
from yolo_trt_node.detector.backends.tensorrt import SharedEngine
from yolo_trt_node.detector.letterbox import Letterbox, Preprocessor
from yolo_trt_node.detector.options import LoadOptions
from yolo_trt_node.images.frames import Frame

ALL = pytest.mark.parametrize("fake", fake_tensorrt.VERSIONS, indirect=True)
COLOR = (114, 114, 114)


def images(count: int, height: int = 64, width: int = 64) -> np.ndarray:
    random = np.random.default_rng(count)
    return random.random((count, 3, height, width), np.float32)


def open_session(path, height=64, width=64, **options):
    model, _ = open_model(path, backend="tensorrt", options=LoadOptions(**options))
    return model.session(height, width)


@ALL
class TestCalls:
    def test_image_goes_up_before_the_network_and_its_answer_comes_down_after(self, fake, toy):
        session = open_session(toy, cuda_graph=False)
        fake.calls.clear()

        session.infer(images(1))

        assert fake.calls == ["memcpy_htod", "network", "memcpy_dtoh", "synchronize"]

    def test_shape_is_set_once_for_each_batch_size(self, fake, toy):
        session = open_session(toy, max_batch=4)
        fake.calls.clear()

        for count in (4, 4, 2, 2, 2, 4):
            session.infer(images(count))

        assert [call for call in fake.calls if call.startswith("shape")] == ["shape 2"]

    def test_jetsons_shared_memory_is_not_copied(self, fake, toy, monkeypatch):
        monkeypatch.setattr(fake, "host_memory_is_shared", True)
        monkeypatch.setattr(gpu.Gpu, "kernel", lambda self: None)
        session = open_session(toy, cuda_graph=False)
        fake.calls.clear()

        session.infer(images(1))

        assert not [call for call in fake.calls if call.startswith("memcpy")]

    def test_a_closed_session_says_so(self, fake, toy):
        session = open_session(toy)
        session.close()

        with pytest.raises(RuntimeError, match="closed"):
            session.infer(images(1))
        session.close()


@ALL
class TestGraph:
    def test_is_captured_at_the_second_run_and_replayed(self, fake, toy):
        session = open_session(toy)
        plain = [session.infer(images(1)).copy() for _ in range(4)]

        assert fake.calls.count("graph_launch") == 3
        assert all(np.array_equal(plain[0], other) for other in plain)

    def test_follows_a_change_of_batch(self, fake, toy):
        session = open_session(toy, max_batch=3)
        without = open_session(toy, max_batch=3, cuda_graph=False)

        for count in (1, 1, 1, 3, 3, 3, 1, 1):
            np.testing.assert_array_equal(session.infer(images(count)), without.infer(images(count)))

    def test_is_kept_for_each_batch_size_of_cameras_that_take_turns(self, fake, toy):
        session = open_session(toy, max_batch=3)
        without = open_session(toy, max_batch=3, cuda_graph=False)
        for _ in range(2):
            for count in (1, 3, 2):
                session.infer(images(count))
        fake.calls.clear()

        for count in (1, 3, 2, 3, 1):
            found = session.infer(images(count)).copy()
            np.testing.assert_array_equal(found, without.infer(images(count)))

        assert fake.calls.count("graph_launch") == 5

    def test_of_the_batch_size_unused_longest_goes_where_there_are_many(self, fake, toy, monkeypatch):
        monkeypatch.setattr(tensorrt_session, "_LANES", 2)
        session = open_session(toy, max_batch=3)
        for count in (1, 1, 2, 2, 3, 3):
            session.infer(images(count))

        assert list(session._held.lanes) == [2, 3]
        assert len(fake.graphs) == 2

    @pytest.mark.parametrize(
        "trouble", [{"refuse": "cuStreamEndCapture"}, {"missing": "cuGraphInstantiateWithFlags"}]
    )
    def test_that_cannot_be_captured_is_done_without_and_told(self, fake, toy, monkeypatch, caplog, trouble):
        monkeypatch.setattr(gpu, "driver_library", lambda: fake.library(**trouble))
        session = open_session(toy)
        wanted = session.infer(images(1)).copy()

        for _ in range(3):
            np.testing.assert_array_equal(session.infer(images(1)), wanted)

        assert caplog.text.count("running without a CUDA graph") == 1
        assert "graph_launch" not in fake.calls


@ALL
class TestFrames:
    @pytest.mark.parametrize("encoding", ["bgr8", "rgba8", "mono8", "nv12", "yuyv"])
    def test_are_letterboxed_on_the_gpu_as_on_the_cpu(self, fake, toy, encoding):
        random = np.random.default_rng(3)
        row = {"bgr8": 3, "rgba8": 4, "mono8": 1, "nv12": 1, "yuyv": 2}[encoding] * 90
        rows = 75 if encoding == "nv12" else 50
        padded = random.integers(0, 256, (rows, row + 7), np.uint8)
        frames = [Frame(padded[:, :row], 50, 90, encoding, row + 7) for _ in range(3)]
        session = open_session(toy, 40, 64, max_batch=2)
        preprocess = Preprocessor(40, 64, channels="RGB", scale=1 / 255, color=COLOR)
        batch, _ = preprocess(frames)
        wanted = session.infer(batch).copy()
        layouts = [Letterbox.fit(50, 90, 40, 64)] * 3

        for _ in range(3):
            found = session.infer_frames(frames, layouts, COLOR, "RGB", 1 / 255)
            # OpenCV's builds for other processors round a level differently here and there.
            np.testing.assert_allclose(found, wanted, atol=0.01)

        assert fake.calls.count("letterbox") == 9

    def test_reach_the_kernel_through_the_detector(self, fake, toy):
        detector = Detector.load(toy, DetectorOptions(backend="tensorrt"))
        image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(3, 4, "red")])

        (found,) = detector.detect([image])

        assert "letterbox" in fake.calls
        np.testing.assert_allclose(found.boxes, [expected_box(3, 4)], atol=1e-3)

    def test_of_growing_size_get_a_larger_buffer(self, fake, toy):
        session = open_session(toy)
        for side in (32, 96, 48):
            frame = Frame.from_bgr(np.full((side, side, 3), 200, np.uint8))
            session.infer_frames([frame], [Letterbox.fit(side, side, 64, 64)], COLOR, "RGB", 1 / 255)

        session.close()

        assert fake.allocations() == 0

    def test_of_many_layouts_keep_the_tables_of_some(self, fake, toy, monkeypatch):
        monkeypatch.setattr(gpu, "_TABLES_KEPT", 2)
        session = open_session(toy)
        for side in range(40, 46):
            frame = Frame.from_bgr(np.full((side, side + 9, 3), side, np.uint8))
            layout = Letterbox.fit(side, side + 9, 64, 64)
            found = session.infer_frames([frame], [layout], COLOR, "RGB", 1 / 255).copy()
            batch, _ = Preprocessor(64, 64, channels="RGB", scale=1 / 255, color=COLOR)([frame])
            np.testing.assert_allclose(found, session.infer(batch), atol=0.01)
            assert len(session._loader._tables) <= 3

    def test_are_letterboxed_by_the_kernel_that_is_shipped_and_nothing_is_compiled(self, fake, toy):
        open_session(toy)

        assert fake.calls.count("ptx") == 1
        assert "nvcc" not in fake.calls

    def test_are_letterboxed_by_nvcc_s_kernel_where_the_driver_refuses_the_ptx(self, fake, toy, monkeypatch):
        monkeypatch.setattr(fake, "takes_ptx", False)
        monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/somewhere/{name}")

        session = open_session(toy)

        assert "nvcc" in fake.calls
        assert session.infer_frames is not None

    def test_are_letterboxed_on_the_cpu_where_there_is_neither_and_the_log_says_so(
        self, fake, toy, monkeypatch, caplog
    ):
        monkeypatch.setattr(fake, "takes_ptx", False)
        monkeypatch.setattr(gpu.shutil, "which", lambda name: None)
        monkeypatch.setattr(gpu, "_CUDA_HOMES", ())
        monkeypatch.delenv("CUDA_HOME", raising=False)
        detector = Detector.load(toy, DetectorOptions(backend="tensorrt"))
        image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(3, 4, "red")])

        for _ in range(2):
            (found,) = detector.detect([image])

        assert len(found) == 1
        assert "letterbox" not in fake.calls
        assert caplog.text.count("the letterbox runs on the CPU") == 1
        assert "unsupported toolchain; and there is no nvcc" in caplog.text


class TestSharing:
    @ALL
    def test_detectors_of_one_model_share_one_engine(self, fake, toy):
        sessions = [open_session(toy) for _ in range(3)]

        assert fake.calls.count("deserialize") == 1
        assert len({id(lane.context) for one in sessions for lane in one._held.lanes.values()}) == 3

    @ALL
    def test_so_do_those_with_a_free_batch(self, fake, toy):
        sessions = [open_session(toy, max_batch=2) for _ in range(2)]

        assert fake.calls.count("deserialize") == 1
        for session in sessions:
            session.infer(images(2))

    def test_engine_goes_with_its_last_session(self, fake, toy):
        session, other = open_session(toy), open_session(toy)
        session.close()
        assert len(SharedEngine._loaded) == 1

        other.close()

        assert len(SharedEngine._loaded) == 0

    def test_two_threads_in_one_session_are_told_apart(self, fake, toy, monkeypatch):
        session = open_session(toy)
        inside, leave = threading.Event(), threading.Event()
        queue = session._queue

        def slow(lane, count: int) -> None:
            inside.set()
            assert leave.wait(20)
            queue(lane, count)

        monkeypatch.setattr(session, "_queue", slow)
        thread = threading.Thread(target=session.infer, args=(images(1),))
        thread.start()
        try:
            assert inside.wait(20)
            with pytest.raises(RuntimeError, match="one thread at a time; load a Detector for each"):
                session.infer(images(1))
        finally:
            leave.set()
            thread.join()


class TestProcesses:
    def test_nothing_touches_cuda_before_a_model_is_loaded(self, fake, toy):
        Detector.load(toy, DetectorOptions(backend="onnxruntime", threads=1))

        assert fake.calls == []

    def test_opening_a_model_makes_no_context_yet(self, fake, toy):
        open_model(toy, backend="tensorrt", options=LoadOptions())

        assert fake.calls == ["init"]

    def test_a_fork_of_a_process_that_uses_cuda_says_so(self, fake, toy, monkeypatch):
        session = open_session(toy)
        monkeypatch.setattr(gpu.Gpu._opened, "_process", os.getpid() + 1)

        with pytest.raises(RuntimeError, match=r"this is a fork of it: load the model after the fork"):
            session.infer(images(1))

    def test_process_ends_cleanly_with_sessions_alive(self, fake, toy):
        code = (
            "import sys\n"
            "from yolo_trt_node.detector import Detector, DetectorOptions\n"
            "import yolo_trt_node.detector.backends.gpu as gpu\n"
            "from pycuda import driver\n"
            "gpu.driver_library = driver.library\n"
            "detector = Detector.load(sys.argv[1], DetectorOptions(backend='tensorrt'))\n"
            "for _ in range(3): detector.prepare(64, 64)\n"
            "print('graphs', driver.calls.count('graph_launch'))\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", code, str(toy)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert ran.returncode == 0, ran.stderr
        assert ran.stdout == "graphs 2\n"
        assert "Exception" not in ran.stderr


@pytest.mark.parametrize("fake", ["8.6.1", "10.0.1"], indirect=True)
def test_a_tensorrt_that_is_too_old_is_refused_by_its_number(fake, toy):
    with pytest.raises(ModelError, match=r"TensorRT [810.6]*\.1 is too old: 10\.1 .* JetPack 6\.1"):
        open_session(toy)


class TestPrecision:
    def built(self, toy, **options) -> dict:
        model, _ = open_model(toy, backend="tensorrt", options=LoadOptions(**options))
        return fake_tensorrt.facts_of(bytes(model.engine(64, 64).plan))

    @pytest.mark.parametrize("fake", ["10.3.0"], indirect=True)
    @pytest.mark.parametrize(("precision", "flags"), [("auto", ["FP16"]), ("fp16", ["FP16"]), ("fp32", [])])
    def test_is_set_by_flags_where_they_exist(self, fake, toy, precision, flags):
        assert self.built(toy, precision=precision)["flags"] == flags
        assert open_session(toy, precision=precision).precision.startswith("fp16" if flags else "fp32")

    @pytest.mark.parametrize("fake", ["11.4.0"], indirect=True)
    def test_is_the_files_where_networks_are_strongly_typed(self, fake, toy):
        assert open_session(toy).precision == "fp32 (250 of 250 layers)"
        with pytest.raises(
            ModelError,
            match=r"the precision from the ONNX file, which is fp32; export the model in fp16",
        ):
            open_session(toy, precision="fp16")

    def test_that_the_builder_ignored_is_told(self, fake, toy, monkeypatch, caplog):
        monkeypatch.setattr(
            "yolo_trt_node.detector.backends.tensorrt_engine.read_precision",
            lambda *_: "fp32 (3 of 5 layers, 2 fp16)",
        )

        session = open_session(toy, precision="fp16")

        assert session.precision.startswith("fp32")
        assert "asked for fp16, but the engine's layers are fp32 (3 of 5 layers, 2 fp16)" in caplog.text


@ALL
def test_engine_is_static_for_one_image_and_has_a_profile_for_more(fake, toy):
    options = LoadOptions(engine_workspace_mb=77)
    model, _ = open_model(toy, backend="tensorrt", options=options)
    single = fake_tensorrt.facts_of(bytes(model.engine(40, 64).plan))
    model, _ = open_model(toy, backend="tensorrt", options=LoadOptions(max_batch=6))
    several = fake_tensorrt.facts_of(bytes(model.engine(40, 64).plan))

    assert (single["input"], single["profiles"]) == ([1, 3, 40, 64], [])
    assert single["memory"] == {"WORKSPACE": 77 << 20}
    assert single["detailed"]
    assert several["input"] == [-1, 3, 40, 64]
    assert several["profiles"] == [{"images": [[1, 3, 40, 64], [6, 3, 40, 64], [6, 3, 40, 64]]}]


def test_a_build_is_told_in_the_log(fake, toy, caplog, tmp_path):
    with caplog.at_level(logging.INFO, logger="yolo_trt_node"):
        open_session(toy, engine_cache=str(tmp_path / "engines"))

    assert "building the engine" in caplog.text
    assert "for Fake GPU" in caplog.text
    assert "the engine's layers are fp16" in caplog.text


class TestRtx:
    """TensorRT-RTX compiles its kernels where it runs, and knows when it can be captured."""

    @pytest.fixture
    def rtx(self, fake, toy, tmp_path):
        def start(**options):
            """A session as a new process would open it."""
            SharedEngine._loaded.clear()
            fake.calls.clear()
            options = LoadOptions(engine_cache=str(tmp_path / "engines"), **options)
            model, _ = open_model(toy, backend="tensorrt_rtx", options=options)
            return model.session(64, 64)

        return start

    def test_a_warm_start_compiles_nothing(self, fake, rtx, tmp_path):
        session = rtx()
        cold = session.infer(images(1)).copy()
        assert "jit" in fake.calls
        session.close()
        (kept,) = (tmp_path / "engines").glob("*.engine.runtime")
        assert kept.stat().st_mode & 0o777 == 0o600

        warm = rtx().infer(images(1))

        assert "jit" not in fake.calls
        np.testing.assert_array_equal(warm, cold)

    def test_kernels_of_another_machine_are_compiled_again(self, fake, rtx, tmp_path):
        rtx().infer(images(1))
        (kept,) = (tmp_path / "engines").glob("*.engine.runtime")
        kept.write_bytes(b"of another driver")

        rtx().infer(images(1))

        assert "jit" in fake.calls
        assert kept.read_bytes() != b"of another driver"

    def test_kernels_that_others_could_have_written_are_not_used(self, fake, rtx, tmp_path, caplog):
        rtx().infer(images(1))
        (kept,) = (tmp_path / "engines").glob("*.engine.runtime")
        kept.chmod(0o666)

        rtx().infer(images(1))

        assert "jit" in fake.calls
        assert "could have been written by others (its mode is 0666)" in caplog.text
        assert kept.stat().st_mode & 0o777 == 0o600

    def test_a_static_engine_is_captured_by_us_and_a_free_batch_by_rtx(self, fake, rtx):
        static = rtx()
        for _ in range(3):
            static.infer(images(1))
        assert fake.calls.count("graph_launch") == 2

        free = rtx(max_batch=2)
        for count in (1, 1, 1, 2, 2, 2):
            free.infer(images(count))

        assert "graph_launch" not in fake.calls
        config = next(iter(free._held.lanes.values())).context._config
        assert config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
        assert config.dynamic_shapes_kernel_specialization_strategy.name == "EAGER"

    def test_what_rtx_calls_not_capturable_runs_without_a_graph(self, fake, rtx, monkeypatch, caplog):
        session = rtx()
        (lane,) = session._held.lanes.values()
        monkeypatch.setattr(type(lane.context), "is_stream_capturable", lambda self, stream: False)

        for _ in range(3):
            session.infer(images(1))

        assert "graph_launch" not in fake.calls
        assert caplog.text.count("running without a CUDA graph") == 1

    def test_no_timings_are_kept_where_there_are_none(self, rtx, tmp_path):
        rtx()

        assert not list((tmp_path / "engines").glob("*.timing"))
