import gc
import importlib.util
import os

import pytest
from support import fake_gpu, fake_tensorrt
from yolo_trt_node.detector.options import LoadOptions

COLLECTING = "tensorrt 10.3.0 (collecting)"
FAKES = {f"tensorrt {version}": version for version in fake_tensorrt.VERSIONS} | {COLLECTING: "10.3.0"}


@pytest.fixture
def fake(request, monkeypatch, tmp_path_factory):
    """The fake GPU's driver; ``indirect`` parameters name the TensorRT version."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "contract"))
    driver = fake_gpu.install(monkeypatch, getattr(request, "param", "10.3.0"))
    yield driver
    gc.collect()
    fake_gpu.remove()


@pytest.fixture(
    params=[
        "onnxruntime",
        "openvino",
        *FAKES,
        "tensorrt_rtx (fake)",
        pytest.param("tensorrt", marks=pytest.mark.gpu),
        pytest.param("tensorrt_rtx", marks=pytest.mark.gpu),
    ]
)
def backend(request, monkeypatch, tmp_path_factory):
    """Every backend in turn; real ones that are not here are skipped, and say so."""
    # One cache for all tests: the toy is always the same, and an engine is built once.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "contract"))
    name, fake = request.param.split()[0], None
    if request.param in FAKES or request.param.endswith("(fake)"):
        fake = fake_gpu.install(monkeypatch, FAKES.get(request.param, "10.3.0"))
    elif name.startswith("tensorrt"):
        if importlib.util.find_spec("pycuda") is None or not os.path.exists("/dev/nvidia0"):
            pytest.skip(f"{name} needs an NVIDIA GPU and pycuda")
        pytest.importorskip(name)
    else:
        pytest.importorskip(name)
    usual = gc.get_threshold()
    if request.param == COLLECTING:
        # The garbage collector at every allocation: finalisers run wherever they can.
        gc.freeze()
        gc.set_threshold(1)
    yield name
    gc.set_threshold(*usual)
    gc.unfreeze()
    if fake is not None:
        gc.collect()
        fake_gpu.remove()


@pytest.fixture
def options():
    return LoadOptions(threads=1, max_batch=4)
