"""Whatever an ONNX file of a stranger holds, it becomes one error that names the file."""

import dataclasses
import logging
import re
import resource

import numpy as np
import pytest
from support.hostile_onnx import KINDS, WITHOUT_END, answering, external, sound
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError, child, trial
from yolo_trt_node.detector.onnx_file import fingerprint, read_header

OPTIONS = DetectorOptions(backend="onnxruntime", threads=1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_hostile_file_is_one_error_that_names_it(tmp_path, kind):
    path = KINDS[kind].make(tmp_path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(ModelError) as refusal:
        Detector.load(path, OPTIONS)

    text = str(refusal.value)
    assert str(path) in text
    assert re.search(KINDS[kind].expected, text)
    assert len(text) < 3000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.startswith("weights")])
def test_a_hash_never_follows_weights_out_of_the_folder(tmp_path, kind):
    path = KINDS[kind].make(tmp_path)
    header = read_header(write_toy_detector(tmp_path / "toy.onnx"))
    with pytest.raises(ModelError, match=KINDS[kind].expected):
        read_header(path)
    # Also where the header was read before somebody put something else in the weights' place.
    header = dataclasses.replace(header, external=("/dev/zero",))
    with pytest.raises(ModelError, match="outside its own folder"):
        fingerprint(path, header)


def test_weights_beside_the_model_are_taken_and_hashed(tmp_path):
    weights = sound()[None].tobytes()
    path = external("w", lambda folder: (folder / "w").write_bytes(weights))(tmp_path)
    first = fingerprint(path, read_header(path))

    assert len(Detector.load(path, OPTIONS).detect([np.zeros((64, 64, 3), np.uint8)])) == 1
    (tmp_path / "w").write_bytes(weights[:-4] + b"\0\0\0\1")
    assert fingerprint(path, read_header(path)) != first


class TestUnderLimits:
    """In a child process, as users load models."""

    @pytest.fixture(autouse=True)
    def _children(self, monkeypatch, first_loads, tmp_path):
        self.asked = 0

        def ask(*arguments):
            self.asked += 1
            return first_loads(*arguments)

        monkeypatch.setattr(child, "ask", ask)
        monkeypatch.setattr(child, "REPORT_PERIOD_S", 0.2)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def test_a_graph_without_end_is_killed_with_lines_in_the_log_meanwhile(self, tmp_path, caplog):
        path = WITHOUT_END["never ends"].make(tmp_path)
        options = DetectorOptions(backend="onnxruntime", threads=1, load_timeout_s=4.0)

        with caplog.at_level(logging.INFO), pytest.raises(ModelError) as refusal:
            Detector.load(path, options)

        assert re.search(WITHOUT_END["never ends"].expected, str(refusal.value))
        assert str(path) in str(refusal.value)
        assert re.search(r"trying it on onnxruntime: \d+ s so far, of at most 4 s", caplog.text)

    def test_a_graph_that_wants_all_memory_is_refused(self, tmp_path):
        path = WITHOUT_END["wants 12 GB"].make(tmp_path)
        options = DetectorOptions(backend="onnxruntime", threads=1, load_memory_mb=256)

        with pytest.raises(ModelError, match=WITHOUT_END["wants 12 GB"].expected):
            Detector.load(path, options)

    def test_a_model_is_tried_once_and_known_from_then_on(self, tmp_path):
        path = write_toy_detector(tmp_path / "toy.onnx")
        for _ in range(2):
            Detector.load(path, OPTIONS)
        assert self.asked == 1
        write_toy_detector(path, contrast=-0.9)
        Detector.load(path, OPTIONS)
        assert self.asked == 2

    def test_what_others_could_have_written_is_not_believed(self, tmp_path):
        path = write_toy_detector(tmp_path / "toy.onnx")
        Detector.load(path, OPTIONS)
        (tmp_path / "cache" / "yolo_trt_node" / "known").chmod(0o777)
        Detector.load(path, OPTIONS)
        assert self.asked == 2

    def test_what_fails_is_not_remembered(self, tmp_path):
        path = answering(sound() / 64, tmp_path)
        for _ in range(2):
            with pytest.raises(ModelError, match="shares of the image"):
                Detector.load(path, OPTIONS)
        assert self.asked == 2

    def test_without_limits_nothing_is_tried_apart(self, tmp_path):
        path = write_toy_detector(tmp_path / "toy.onnx")
        Detector.load(path, DetectorOptions(backend="onnxruntime", load_timeout_s=0.0))
        assert self.asked == 0


def test_a_trial_says_how_long_it_took(tmp_path):
    request = {
        "model": str(write_toy_detector(tmp_path / "toy.onnx")),
        "backend": "onnxruntime",
        "precision": "auto",
        "threads": 1,
    }
    assert trial.try_once(request)["seconds"] >= 0
