import pytest
from yolo_trt_node.detector import child, speed, trial
from yolo_trt_node.detector.backends import gpu


@pytest.fixture(autouse=True)
def _a_process_of_its_own(monkeypatch, tmp_path_factory):
    """No test sees the GPU, real or fake, that another one opened, nor the user's own engines."""
    monkeypatch.setattr(gpu.Gpu, "_opened", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True)
def first_loads(monkeypatch):
    """First loads happen in this process: starting one for each small model would take minutes.

    Tests of the trial itself set ``trial.child.ask`` back to what the fixture returns.
    """
    real = child.ask

    def ask(module: str, request: dict, limits: child.ChildLimits, what: str) -> dict:
        if module == speed.__name__:
            return {}
        if module != trial.__name__:
            return real(module, request, limits, what)
        try:
            return trial.try_once(request)
        except Exception as error:
            return {"error": str(error)}

    monkeypatch.setattr(child, "ask", ask)
    return real
