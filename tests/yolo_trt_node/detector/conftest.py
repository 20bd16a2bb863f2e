import pytest
from yolo_trt_node.detector.backends import gpu


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch, tmp_path_factory):
    """No test sees the GPU, real or fake, that another one opened, nor the user's own engines."""
    monkeypatch.setattr(gpu.Gpu, "_opened", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
