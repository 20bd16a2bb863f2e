"""The CUDA kernel compiled for the host, launched as the GPU would be."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
from yolo_trt_node.detector import cuda
from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.frames import Frame

COMPILER = shutil.which("g++") or shutil.which("clang++")


class _Dimensions(ctypes.Structure):
    _fields_ = [(axis, ctypes.c_uint) for axis in "xyz"]


class HostKernel:
    """`cuda.SOURCE` as a shared library of this machine."""

    def __init__(self, folder: Path) -> None:
        source, library = folder / "kernel.cpp", folder / "kernel.so"
        source.write_text(
            f'#include "{Path(__file__).with_name("cuda_on_host.h")}"\n'
            f'#include "{cuda.SOURCE}"\n'
            f'extern "C" void *const launcher = (void *)&Launch<{cuda.KERNEL}>::run;\n'
        )
        flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *flags, str(source), "-o", str(library)], check=True)
        self._library = ctypes.CDLL(str(library))

    def __call__(self, frame: Frame, layout: Letterbox, *, dtype: type, **options) -> np.ndarray:
        """Return the 3 x height x width tensor that the kernel writes for one frame."""
        tensor = np.full((3, layout.height, layout.width), np.nan, dtype)
        values = cuda.arguments(
            frame,
            layout,
            frame_pointer=frame.data.ctypes.data,
            tensor_pointer=tensor.ctypes.data,
            half=dtype is np.float16,
            **options,
        )
        for name, size in (("gridDim", cuda.grid(layout)), ("blockDim", cuda.BLOCK)):
            dimensions = _Dimensions.in_dll(self._library, name)
            dimensions.x, dimensions.y, dimensions.z = size
        types = [np.ctypeslib.as_ctypes_type(value.dtype) for value in values]
        launcher = ctypes.CFUNCTYPE(None, *types)(ctypes.c_void_p.in_dll(self._library, "launcher").value)
        launcher(*(value.item() for value in values))
        return tensor
