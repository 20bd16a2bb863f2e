"""Engines on disk: what is kept, what is trusted, what is built again, and how a build may fail."""

import errno
import hashlib
import json
import logging
import os
import re
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import fake_gpu, fake_tensorrt
from support.toy_detector import paint_cells, write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError, engine_process, engines
from yolo_trt_node.detector.child import command
from yolo_trt_node.detector.engine_builder import BuildSpec
from yolo_trt_node.detector.engines import EngineCache, EngineRequest
from yolo_trt_node.detector.onnx_file import read_header

from yolo_trt_node import build_engine

VERSION = "10.3.0"


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    driver = fake_gpu.install(monkeypatch, VERSION)
    yield driver
    fake_gpu.remove()


@pytest.fixture
def cache(tmp_path):
    return EngineCache(tmp_path / "deep" / "engines")


@pytest.fixture
def order(toy):
    return order_for(toy)


def order_for(model, gpu="Fake GPU", version=VERSION, multiprocessors=8, **changes):
    recipe = BuildSpec(**{"backend": "tensorrt", "precision": "fp16", "height": 64, "width": 64, **changes})
    return EngineRequest(model, read_header(model), recipe, version, gpu, multiprocessors)


def built_at(engine) -> int:
    return engine.path.stat().st_mtime_ns


class TestCache:
    def test_builds_once_and_then_finds(self, cache, order):
        first = cache.get(order)
        stamp = built_at(first)

        again = cache.get(order)

        assert built_at(again) == stamp
        assert again.plan == first.plan

    def test_is_private_to_the_user(self, cache, order):
        old = os.umask(0)
        try:
            path = cache.get(order).path
        finally:
            os.umask(old)

        assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    @pytest.mark.parametrize(
        "changes",
        [
            {"gpu": "Other GPU"},
            {"multiprocessors": 16},
            {"version": "10.4.0"},
            {"precision": "fp32"},
            {"height": 32},
            {"batches": (1, 2, 4)},
            {"compute_capability": "8.7"},
            {"backend": "tensorrt_rtx"},
        ],
    )
    def test_tells_engines_apart_by_all_that_shapes_them(self, cache, toy, order, changes):
        other = order_for(toy, **changes)

        assert cache._path(other, other.key()) != cache._path(order, order.key())

    def test_tells_models_apart_by_content_not_by_name(self, cache, order, toy):
        before = cache.get(order).path
        write_toy_detector(toy, size=(32, 64))

        assert cache.get(order_for(toy)).path != before

    def test_card_tells_what_the_engine_is(self, cache, order):
        engine = cache.get(order)
        card = json.loads((engine.path.parent / f"{engine.path.name}.json").read_text())

        assert card["key"]["gpu"] == "Fake GPU"
        assert card["key"]["version"] == VERSION
        assert (card["key"]["precision"], card["key"]["height"]) == ("fp16", 64)
        assert card["sha256"] == hashlib.sha256(engine.path.read_bytes()).hexdigest()
        assert "model_card" in card["metadata"]
        assert engine.metadata == card["metadata"]

    def test_leaves_no_parts_behind(self, cache, order):
        cache.get(order)

        suffixes = sorted(path.suffix for path in cache.folder.iterdir())
        assert suffixes == [".engine", ".json", ".lock", ".timing"]

    def test_timings_are_kept_for_the_next_build(self, cache, toy):
        plans = [bytes(cache.get(order_for(toy, height=height)).plan) for height in (32, 40, 48)]

        assert [fake_tensorrt.facts_of(plan)["timings_known"] for plan in plans] == [0, 1, 2]

    def test_timings_of_nobody_known_are_dropped(self, cache, order):
        cache.folder.mkdir(parents=True, mode=0o700)
        (cache.folder / f"tensorrt-{VERSION}-Fake_GPU-8.timing").write_bytes(b"garbage\n\n")

        assert fake_tensorrt.facts_of(bytes(cache.get(order).plan))["timings_known"] == 0

    def test_weights_in_a_file_beside_belong_to_the_model(self, order, toy, tmp_path):
        import onnx

        model = onnx.load(toy)
        for one in model.graph.initializer:  # as bytes: only those go into a file beside
            one.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(one), one.name))
        path = tmp_path / "outside.onnx"
        # As text: old versions of onnx write beside a path of that type only.
        onnx.save(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
        before = order_for(path).key()
        content = bytearray((tmp_path / "w.bin").read_bytes())
        content[0] ^= 1
        (tmp_path / "w.bin").write_bytes(content)

        assert order_for(path).key() != before


@pytest.mark.parametrize(
    ("status", "told"), [("pmode:0002 fmode:quiet", "Fake GPU in nvpmodel's mode 2;"), ("", "Fake GPU;")]
)
def test_a_jetsons_power_mode_is_told_with_the_build(
    cache, order, tmp_path, monkeypatch, caplog, status, told
):
    caplog.set_level(logging.INFO)
    (tmp_path / "status").write_text(status)
    monkeypatch.setattr(engines, "_NVPMODEL", tmp_path / "status")
    monkeypatch.setattr(
        engines, "run_builder", lambda *_, destination, **__: destination.write_bytes(b"x") and {"seconds": 1}
    )

    cache.get(order)

    assert told in caplog.text


class TestEnginesOfNoUse:
    def spoil(self, path, how):
        card = path.with_name(path.name + ".json")
        if how == "cut short":
            path.write_bytes(path.read_bytes()[:-7])
        elif how == "changed":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)
        elif how == "without card":
            card.unlink()
        elif how == "with broken card":
            card.write_text("{")
        elif how == "with foreign card":
            facts = json.loads(card.read_text())
            facts["key"]["gpu"] = "Other GPU"
            card.write_text(json.dumps(facts))

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            ("cut short", "it is damaged"),
            ("changed", "it is damaged"),
            ("without card", "json is missing"),
            ("with broken card", "its card cannot be read"),
            ("with foreign card", "it was made for another gpu"),
        ],
    )
    def test_are_built_again_and_it_is_told(self, cache, order, caplog, how, told):
        good = cache.get(order)
        model = fake_tensorrt.facts_of(bytes(good.plan))["model"]
        self.spoil(good.path, how)

        again = cache.get(order)

        assert fake_tensorrt.facts_of(bytes(again.plan))["model"] == model
        assert cache.get(order).sha256 == again.sha256
        assert f"building {good.path} again: " in caplog.text
        assert told in caplog.text

    def test_that_tensorrt_refuses_are_built_again(self, toy, tmp_path, caplog):
        options = DetectorOptions(backend="tensorrt", engine_cache=str(tmp_path / "engines"))
        Detector.load(toy, options).prepare(64, 64)
        (path,) = (tmp_path / "engines").glob("*.engine")
        # As after a change of the driver: whole, rightly labelled, and yet of no use.
        path.write_bytes(b"made for another driver")
        card = path.with_name(path.name + ".json")
        facts = json.loads(card.read_text())
        facts["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        card.write_text(json.dumps(facts))

        Detector.load(toy, options).prepare(64, 64)

        assert "of no use" in caplog.text
        assert path.read_bytes().startswith(b"fake engine")


class TestTrust:
    def test_a_folder_that_others_can_write_is_refused(self, cache, order):
        cache.folder.mkdir(parents=True)
        cache.folder.chmod(0o777)

        with pytest.raises(ModelError, match=r"could have been written by others \(its mode is 0777\)"):
            cache.get(order)

    def test_an_engine_that_others_can_write_is_refused_unless_told_otherwise(self, cache, order):
        cache.get(order).path.chmod(0o666)

        with pytest.raises(ModelError, match=r"chmod go-w .*or set trust_engines to true"):
            cache.get(order)
        assert EngineCache(cache.folder, trust=True).get(order).plan

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_an_engine_of_another_user_is_refused(self, cache, order):
        os.chown(cache.get(order).path, 12345, -1)

        with pytest.raises(ModelError, match="it belongs to user 12345"):
            cache.get(order)


class TestFoldersThatCannotBeUsed:
    def test_read_only(self, cache, order, monkeypatch):
        def refuse(*_, **__):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(engines.os, "open", refuse)

        with pytest.raises(
            ModelError, match=r"engine cache .*engines cannot be written .*name another with engine_cache"
        ):
            cache.get(order)

    def test_a_file_in_its_place(self, tmp_path, order):
        (tmp_path / "engines").write_text("")

        with pytest.raises(ModelError, match=r"engine cache .*cannot be used"):
            EngineCache(tmp_path / "engines" / "below").get(order)

    def test_full(self, toy, tmp_path):
        # A limit on the size of files is the nearest to a full disk that needs no disk of its own.
        script = (
            "import resource, sys\n"
            "from yolo_trt_node.build_engine import main\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
            "sys.exit(main(sys.argv[1:]))\n"
        )
        ran = subprocess.run(
            [sys.executable, "-c", script, str(toy), "--engine-cache", str(tmp_path / "engines")],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert ran.returncode == 1
        assert re.search(r"the engine cache .*engines is full .*make room", ran.stderr), ran.stderr
        assert not list((tmp_path / "engines").glob("*part"))
        assert not list((tmp_path / "engines").glob("*.engine"))


class TestBuildsThatFail:
    @pytest.mark.parametrize(
        ("how", "told"),
        [
            ("refuse", r"cannot build the engine: .*no implementation found for node Conv_3"),
            ("crash", r"ended after \d+ s without an engine: it crashed with signal 11"),
            ("killed", r"killed \(signal 9\), most likely for lack of memory; lower engine_workspace_mb"),
        ],
    )
    def test_leave_this_process_alive_with_the_reason(self, cache, order, monkeypatch, how, told):
        monkeypatch.setenv("FAKE_TENSORRT_BUILD", how)

        with pytest.raises(ModelError, match=told):
            cache.get(order)

        monkeypatch.delenv("FAKE_TENSORRT_BUILD")
        assert cache.get(order).plan
        assert not list(cache.folder.glob("*part"))

    def test_a_shape_that_the_model_fixes_otherwise(self, cache, tmp_path):
        path = write_toy_detector(tmp_path / "static.onnx", static=True)

        with pytest.raises(ModelError, match="height is fixed at 64, and 32 is asked for"):
            cache.get(order_for(path, height=32))

    def test_a_builder_imports_nothing_from_the_current_folder(self, cache, order, tmp_path, monkeypatch):
        hostile = tmp_path / "here"
        hostile.mkdir()
        for name in ("tensorrt", "json", "yolo_trt_node", "sitecustomize"):
            (hostile / f"{name}.py").write_text("raise SystemExit('imported from the current folder')")
        monkeypatch.chdir(hostile)
        monkeypatch.setattr(sys, "path", ["", str(hostile), *sys.path])
        assert cache.get(order).path.is_file()

    def test_a_builder_ends_with_the_process_that_asked(self, order, tmp_path, monkeypatch):
        monkeypatch.setenv("FAKE_TENSORRT_BUILD", "slow")
        request = json.dumps(
            {
                "model": str(order.model),
                "recipe": {**order.recipe.__dict__},
                "destination": str(tmp_path / "engine"),
                "timing_cache": str(tmp_path / "timing"),
            }
        )
        child = subprocess.Popen(
            command("yolo_trt_node.detector.engine_builder"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        child.stdin.write(request + "\n")
        child.stdin.flush()
        assert "progress" in child.stdout.readline()
        child.stdin.close()

        assert child.wait(timeout=20) == 3
        assert not (tmp_path / "engine").exists()
        child.stdout.close()


def test_two_who_ask_at_once_build_once(cache, order, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_TENSORRT_BUILD", "slow")
    with caplog.at_level(logging.INFO, logger="yolo_trt_node"), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: EngineCache(cache.folder).get(order), range(2))

    assert first.sha256 == second.sha256
    assert caplog.text.count("building the engine") == 1
    assert caplog.text.count("waiting for another process") == 1


def test_progress_and_time_are_told_while_it_builds(cache, order, monkeypatch, caplog):
    monkeypatch.setenv("FAKE_TENSORRT_BUILD", "slow")
    monkeypatch.setattr(engine_process, "BUILD_LOG_PERIOD_S", 0.1)

    with caplog.at_level(logging.INFO, logger="yolo_trt_node"):
        cache.get(order)

    assert re.search(r"building the engine, \d+ s so far: building for fp16 at 64x64", caplog.text)
    assert re.search(r"built toy_64x64_b1_fp16_\w+\.engine in \d+ s", caplog.text)


class TestEngineFiles:
    """An engine given as the model."""

    OPTIONS = DetectorOptions(backend="auto")

    def boxes(self, path) -> int:
        import numpy as np

        image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(3, 4, "red")])
        (found,) = Detector.load(path, self.OPTIONS).detect([image])
        return len(found)

    def test_of_ours_loads_with_its_card(self, cache, order):
        assert self.boxes(cache.get(order).path) == 1

    def test_of_ultralytics_loads_with_its_header(self, cache, order, tmp_path):
        facts = {"names": {"0": "a", "1": "b", "2": "c"}, "stride": 8, "imgsz": [64, 64], "task": "detect"}
        header = json.dumps(facts).encode()
        path = tmp_path / "yolo.engine"
        plan = bytes(cache.get(order).plan)
        path.write_bytes(len(header).to_bytes(4, "little", signed=True) + header + plan)

        assert self.boxes(path) == 1
        assert Detector.load(path, self.OPTIONS).card.names == ("a", "b", "c")

    def test_that_says_nothing_of_itself_is_refused(self, cache, order, tmp_path):
        path = tmp_path / "bare.engine"
        path.write_bytes(bytes(cache.get(order).plan))

        with pytest.raises(ModelError, match=r"neither a card .* nor Ultralytics' header; give the ONNX"):
            self.boxes(path)

    def test_that_is_damaged_is_refused(self, cache, order):
        path = cache.get(order).path
        path.write_bytes(path.read_bytes()[:-1])

        with pytest.raises(ModelError, match="is damaged: its checksum is not that of its card"):
            self.boxes(path)

    def test_of_another_tensorrt_is_refused_with_the_way_out(self, cache, order, monkeypatch):
        path = cache.get(order).path
        fake_gpu.install(monkeypatch, "11.4.0")

        with pytest.raises(ModelError, match=r"made by another TensorRT or for another GPU; give the ONNX"):
            self.boxes(path)

    def test_that_others_could_have_written_is_refused(self, cache, order):
        path = cache.get(order).path
        path.chmod(0o666)

        with pytest.raises(ModelError, match="could have been written by others"):
            self.boxes(path)

    def test_is_not_for_backends_without_tensorrt(self, cache, order):
        with pytest.raises(ModelError, match="is an engine, which the backend openvino cannot run"):
            Detector.load(cache.get(order).path, DetectorOptions(backend="openvino"))


class TestCommand:
    def test_builds_what_the_node_then_finds(self, toy, tmp_path, capsys, caplog):
        folder = str(tmp_path / "engines")

        assert build_engine.main([str(toy), "--engine-cache", folder, "--camera", "640x360"]) == 0

        printed = capsys.readouterr().out.strip()
        started = time.time_ns()
        options = DetectorOptions(backend="tensorrt", engine_cache=folder)
        Detector.load(toy, options).prepare(360, 640)
        assert os.stat(printed).st_mtime_ns < started
        assert len(list((tmp_path / "engines").glob("*.engine"))) == 1

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            (["nowhere.onnx"], "no model file at nowhere.onnx"),
            (["TOY", "--camera", "big"], "use WIDTHxHEIGHT"),
            (["TOY", "--precision", "int8"], "int8 needs a quantised model"),
            (["TOY", "--compute-capability", "8.6"], "builds for the GPU of this machine only"),
        ],
    )
    def test_says_what_is_wrong(self, toy, capsys, arguments, told):
        assert build_engine.main([str(toy) if text == "TOY" else text for text in arguments]) == 1

        assert told in capsys.readouterr().err
