"""Puts the fake GPU, its pycuda and its TensorRT, where ``import`` finds them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).with_name("fakes")
MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings", "pycuda")


def install(monkeypatch: pytest.MonkeyPatch, version: str) -> ModuleType:
    """Install it for one test, also for the processes that the test starts; return its ``pycuda.driver``.

    Real ones, where there are any, are hidden meanwhile.
    """
    from yolo_trt_node.detector.backends import gpu, tensorrt

    remove()  # the fake of another version, which must not come back when the test ends
    for name in list(sys.modules):
        if name.split(".")[0] in MODULES:
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.setenv("FAKE_TENSORRT", version)
    monkeypatch.delenv("FAKE_TENSORRT_BUILD", raising=False)
    monkeypatch.setattr(gpu.Gpu, "_opened", None)
    monkeypatch.setattr(tensorrt.SharedEngine, "_loaded", type(tensorrt.SharedEngine._loaded)())
    from pycuda import driver

    monkeypatch.setattr(gpu, "driver_library", driver.library)
    return driver


def remove() -> None:
    """Forget what the fake left in ``sys.modules``; real modules stay."""
    for name in list(sys.modules):
        path = getattr(sys.modules[name], "__file__", None)
        if name.split(".")[0] in MODULES and path and FOLDER in Path(path).parents:
            del sys.modules[name]
