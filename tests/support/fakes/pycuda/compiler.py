"""``pycuda.compiler``: compiles for the host what nvcc would compile for the GPU."""

from __future__ import annotations

from pycuda import driver


class SourceModule:
    def __init__(self, source: str, *, nvcc: str, no_extern_c: bool) -> None:
        driver.require_context("cuModuleLoad")
        assert no_extern_c, "the source says extern C itself"
        driver.calls.append("nvcc")

    def get_function(self, name: str):
        return driver.kernel(name)
