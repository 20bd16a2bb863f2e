"""Which backend runs a model: `auto` explains itself, and a backend that is missing says how to get it."""

import builtins
import sys

import pytest
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.backends import gpu


@pytest.fixture
def without(monkeypatch):
    """Hide packages, whether they are installed or not."""

    def hide(*packages: str) -> None:
        real = builtins.__import__

        def importer(name, *arguments, **keywords):
            if name.split(".")[0] in packages:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name.split(".")[0])
            return real(name, *arguments, **keywords)

        monkeypatch.setattr(builtins, "__import__", importer)
        for name in list(sys.modules):
            root = name.split(".")[0]
            if root in packages or name in (
                "yolo_trt_node.detector.backends.openvino",
                "yolo_trt_node.detector.backends.onnx_runtime",
            ):
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(gpu.Gpu, "_opened", None)

    return hide


def load(model, **options) -> Detector:
    return Detector.load(model, DetectorOptions(threads=1, **options))


def test_auto_without_a_gpu_takes_onnx_runtime_and_says_why(toy, without):
    without("pycuda")

    detector = load(toy)

    assert detector.backend == "onnxruntime"
    assert detector.backend_reason == (
        "auto took onnxruntime; passed over tensorrt: no Python package pycuda; "
        "tensorrt_rtx: no Python package pycuda"
    )


def test_auto_takes_openvino_where_onnx_runtime_is_missing(toy, without):
    pytest.importorskip("openvino")
    without("pycuda", "onnxruntime")

    detector = load(toy)

    assert detector.backend == "openvino"
    assert "onnxruntime: no Python package onnxruntime" in detector.backend_reason


def test_auto_takes_the_gpu_where_there_is_one(toy, fake):
    assert load(toy).backend_reason == "auto took tensorrt"


def test_auto_passes_over_what_cannot_do_the_precision(toy, without):
    openvino = pytest.importorskip("openvino")
    without("pycuda")
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has no bf16")

    detector = load(toy, precision="bf16")

    assert detector.backend == "openvino"
    assert "onnxruntime takes the precision from the ONNX file, which is fp32" in detector.backend_reason


def test_auto_with_nothing_to_take_says_all_of_it(toy, without):
    without("pycuda", "onnxruntime", "openvino")

    with pytest.raises(ModelError, match=r"no backend can run .*: tensorrt: .*tensorrt_rtx: .*openvino: no"):
        load(toy)


def test_a_backend_asked_for_is_the_reason(toy):
    assert load(toy, backend="onnxruntime").backend_reason == "onnxruntime, as asked"


@pytest.mark.parametrize(
    ("backend", "missing", "told"),
    [
        (
            "onnxruntime",
            "onnxruntime",
            "no Python package onnxruntime; install it with `pip install onnxruntime`",
        ),
        ("openvino", "openvino", "no Python package openvino; install it with `pip install openvino`"),
        ("tensorrt", "pycuda", r"no Python package pycuda; .*`pip install pycuda`.*on a Jetson"),
    ],
)
def test_a_missing_package_is_named_with_the_way_to_get_it(toy, without, backend, missing, told):
    without(missing)

    with pytest.raises(ModelError, match=f"the backend {backend} cannot run: {told}"):
        load(toy, backend=backend)


@pytest.mark.parametrize(
    ("backend", "told"),
    [
        ("tensorrt", r"no Python package tensorrt; on a Jetson it comes with JetPack .*system-site-packages"),
        ("tensorrt_rtx", r"no Python package tensorrt_rtx_bindings; `pip install tensorrt_rtx`"),
    ],
)
def test_a_missing_tensorrt_is_named_with_the_way_to_get_it(toy, fake, monkeypatch, backend, told):
    real = __import__("importlib").import_module

    def importer(name, *arguments):
        if name.startswith("tensorrt"):
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)
        return real(name, *arguments)

    monkeypatch.setattr("importlib.import_module", importer)

    with pytest.raises(ModelError, match=told):
        load(toy, backend=backend)


def test_a_missing_driver_is_told_from_a_missing_package(toy, fake, monkeypatch):
    real = builtins.__import__

    def importer(name, *arguments, **keywords):
        if name == "pycuda.driver":
            raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", importer)

    with pytest.raises(
        ModelError, match=r"no NVIDIA driver \(libcuda.*in a container start it with `--runtime"
    ):
        load(toy, backend="tensorrt")


def test_a_missing_gpu_is_told_from_a_missing_driver(toy, fake, monkeypatch):
    monkeypatch.setattr(fake.Device, "count", staticmethod(lambda: 0))

    with pytest.raises(ModelError, match="no NVIDIA GPU; on a workstation"):
        load(toy, backend="tensorrt")


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_onnx_runtime_lacks_is_named_with_the_package_that_has_it(toy, provider):
    onnxruntime = pytest.importorskip("onnxruntime")
    if any(name.lower().startswith(provider) for name in onnxruntime.get_available_providers()):
        pytest.skip(f"this ONNX Runtime has {provider}")

    with pytest.raises(ModelError, match=r"has no (CUDA|Tensorrt)ExecutionProvider; .*onnxruntime-gpu"):
        load(toy, backend="onnxruntime", onnxruntime_provider=provider)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"precision": "fp64"}, "precision is 'fp64'; use one of auto, fp32"),
        ({"onnxruntime_provider": "rocm"}, "onnxruntime_provider is 'rocm'"),
        ({"engine_workspace_mb": 0}, "engine_workspace_mb is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(ValueError, match=told):
        DetectorOptions(**options)


def test_openvino_tells_the_precision_in_force(toy):
    openvino = pytest.importorskip("openvino")
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")

    for precision in ("fp32", "bf16"):
        if precision == "fp32" or precision.upper() in able:
            detector = load(toy, backend="openvino", precision=precision)
            assert detector.precision == "not compiled yet"
            detector.prepare(64, 64)
            assert detector.precision == precision
