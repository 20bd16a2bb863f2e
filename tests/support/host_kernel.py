"""The CUDA kernel compiled for the host, launched as the GPU would be."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from yolo_trt_node.detector import cuda
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.frames import Frame

_HEADER = Path(__file__).with_name("cuda_on_host.h")
COMPILER = shutil.which("g++") or shutil.which("clang++")


@functools.lru_cache
def shared() -> HostKernel:
    """Return the kernel for this process; compiled once for all processes that run the same tests."""
    digest = hashlib.sha256(cuda.SOURCE.read_bytes() + _HEADER.read_bytes()).hexdigest()[:16]
    built = Path(__file__).parent / "__pycache__" / f"kernel_{digest}.so"
    if not built.is_file():
        built.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=built.parent) as folder:
            HostKernel(Path(folder)).library.replace(built)
    return HostKernel(built)


class _Dimensions(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class HostKernel:
    """`cuda.SOURCE` as a shared library of this machine."""

    def __init__(self, place: Path) -> None:
        """Compile into a folder, or load what was compiled."""
        self.library = place if place.is_file() else self._compile(place)
        self._library = ctypes.CDLL(str(self.library))

    @staticmethod
    def _compile(folder: Path) -> Path:
        source, library = folder / "kernel.cpp", folder / "kernel.so"
        source.write_text(
            f'#include "{_HEADER}"\n'
            f'#include "{cuda.SOURCE}"\n'
            f'extern "C" void *const launcher = (void *)&Launch<{cuda.KERNEL}>::run;\n'
        )
        flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *flags, str(source), "-o", str(library)], check=True)
        return library

    def __call__(self, frame: Frame, layout: Letterbox, *, dtype: type, **options) -> np.ndarray:
        """Return the 3 x height x width tensor that the kernel writes for one frame."""
        tensor = np.full((3, layout.height, layout.width), np.nan, dtype)
        # As on the device: aligned, and padded at the end.
        rows, row = frame.data.shape
        staged = np.zeros(-(-(rows * frame.step + cuda.FRAME_PADDING) // 16), np.dtype((np.void, 16)))
        content = staged.view(np.uint8)[: rows * frame.step].reshape(rows, frame.step)
        content[:, :row] = frame.data
        table = cuda.taps(layout)
        values = cuda.arguments(
            frame,
            layout,
            frame_pointer=staged.ctypes.data,
            table_pointer=table.ctypes.data,
            tensor_pointer=tensor.ctypes.data,
            half=dtype is np.float16,
            **options,
        )
        self.launch(values, cuda.grid(layout), cuda.BLOCK)
        return tensor

    def launch(
        self, values: Sequence[np.generic], grid: tuple[int, int, int], block: tuple[int, int, int]
    ) -> None:
        """Run the kernel with its arguments, of which the pointers are addresses of this process."""
        for name, size in (("gridDim", grid), ("blockDim", block)):
            dimensions = _Dimensions.in_dll(self._library, name)
            dimensions.x, dimensions.y, dimensions.z = size
        types = [np.ctypeslib.as_ctypes_type(value.dtype) for value in values]
        launcher = ctypes.CFUNCTYPE(None, *types)(ctypes.c_void_p.in_dll(self._library, "launcher").value)
        launcher(*(value.item() for value in values))
