"""`auto` takes the backend that is faster with a model on this machine, and measures once."""

import pytest
from support.toy_detector import write_toy_detector
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError, child, detector, speed


@pytest.mark.parametrize(
    ("seconds", "taken"),
    [
        ({"onnxruntime": 0.03, "openvino": 0.02}, "openvino"),
        ({"onnxruntime": 0.02, "openvino": 0.03}, "onnxruntime"),
        ({"onnxruntime": 0.0200, "openvino": 0.0195}, "onnxruntime"),  # no clear matter
        ({"openvino": 0.02}, ""),
        ({}, ""),
        ({"onnxruntime": "x", "openvino": None}, ""),
    ],
)
def test_the_clearly_faster_one_is_taken(seconds, taken):
    name, why = speed.choose_backend(seconds)
    assert name == taken
    if taken:
        assert "auto took " + taken in why
        assert f"openvino {1e3 * seconds['openvino']:.1f} ms" in why


class TestMeasuring:
    @pytest.fixture(autouse=True)
    def _machine(self, monkeypatch, tmp_path):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("openvino")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setattr(detector, "first_load", lambda *arguments: 0.03)
        self.answers = {"onnxruntime": 0.03, "openvino": 0.01}
        self.requests: list[dict] = []

        def ask(module: str, request: dict, limits: child.ChildLimits, what: str) -> dict:
            assert module == speed.__name__
            self.requests.append(request)
            if self.answers is None:
                raise ModelError("took too long")
            return self.answers

        monkeypatch.setattr(child, "ask", ask)

    @pytest.fixture
    def toy(self, tmp_path):
        return write_toy_detector(tmp_path / "toy.onnx")

    def test_auto_takes_the_faster_and_says_by_how_much(self, toy):
        loaded = Detector.load(toy, DetectorOptions(threads=1))
        assert loaded.backend == "openvino"
        assert loaded.backend_reason == (
            "auto took openvino, as measured on this machine: onnxruntime 30.0 ms, openvino 10.0 ms an image"
        )

    def test_the_answer_is_remembered_by_model_and_options(self, toy):
        for _ in range(2):
            Detector.load(toy, DetectorOptions(threads=1))
        assert len(self.requests) == 1
        Detector.load(toy, DetectorOptions(threads=2))
        write_toy_detector(toy, contrast=-0.5)
        Detector.load(toy, DetectorOptions(threads=1))
        assert len(self.requests) == 3

    @pytest.mark.parametrize("options", [{"backend": "onnxruntime"}, {"backend_trial_s": 0.0}])
    def test_nothing_is_measured_where_nobody_asks_for_it(self, toy, options):
        assert Detector.load(toy, DetectorOptions(threads=1, **options)).backend == "onnxruntime"
        assert self.requests == []

    def test_a_model_too_quick_to_matter_is_not_measured(self, toy, monkeypatch):
        monkeypatch.setattr(detector, "first_load", lambda *arguments: speed.WORTH_S / 2)
        assert Detector.load(toy, DetectorOptions(threads=1)).backend == "onnxruntime"
        assert self.requests == []

    def test_where_measuring_fails_the_first_that_loads_is_taken_and_nothing_remembered(self, toy):
        self.answers = None
        for _ in range(2):
            assert Detector.load(toy, DetectorOptions(threads=1)).backend == "onnxruntime"
        assert len(self.requests) == 2


def test_every_contender_that_can_run_the_model_is_timed(tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    request = {
        "model": str(write_toy_detector(tmp_path / "toy.onnx")),
        "contenders": list(speed.CONTENDERS),
        "input": [1, 64, 64],
        "seconds": 0.01,
        "options": {"precision": "auto", "threads": 1, "spinning": "never"},
    }
    assert set(speed.time_backends(request)) == set(speed.CONTENDERS)
    request["options"]["precision"] = "int8"
    assert speed.time_backends(request) == {}
