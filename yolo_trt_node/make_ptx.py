"""Compile the CUDA kernel to PTX with NVRTC, which needs no GPU: ``make ptx`` writes what is shipped.

PTX for the oldest GPU served runs on every later one: the driver translates it when the node starts. NVRTC
11.8 writes it for drivers from CUDA 11.8 on.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
import zipfile
from pathlib import Path

ARCHITECTURE = "compute_72"
"""Jetson Xavier's; NVRTC 13 does not know it any more."""

SOURCES = (Path(__file__).parent / "yolo_trt_node" / "detector" / "cuda" / "letterbox.cu",)


def compile_ptx(source: str, name: str, library: Path) -> str:
    """Return a CUDA source's PTX.

    NVRTC leaves the thread in the C locale, in which Python reads files as ASCII: use a process of its own.

    Args:
        source: the source.
        name: what messages call it.
        library: NVRTC's shared library; its builtins lie beside it.

    Raises:
        RuntimeError: it does not compile; the message is NVRTC's.
    """
    nvrtc = ctypes.CDLL(str(library))
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    options = (ctypes.c_char_p * 1)(f"--gpu-architecture={ARCHITECTURE}".encode())
    failed = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if failed:
        raise RuntimeError(f"NVRTC cannot compile {name}:\n{_text(nvrtc, 'nvrtcGetProgramLog', program)}")
    return _text(nvrtc, "nvrtcGetPTX", program)


def _text(nvrtc: ctypes.CDLL, what: str, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, what)(program, text)
    return text.value.decode()


def unpack_nvrtc(wheel: Path, folder: Path) -> Path:
    """Unpack NVRTC from its wheel into a folder and return its library."""
    with zipfile.ZipFile(wheel) as archive:
        members = [member for member in archive.namelist() if "/lib/libnvrtc" in member]
        archive.extractall(folder, members)
    (library,) = (folder / member for member in members if "builtins" not in member)
    return library


def main() -> None:
    """Compile what is shipped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path, help="nvidia_cuda_nvrtc_cu11-11.8.89-*.whl")
    parser.add_argument("--output", type=Path, help="folder, instead of beside the source")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = unpack_nvrtc(given.wheel, Path(folder))
        for source in SOURCES:
            made = (given.output or source.parent) / f"{source.stem}.ptx"
            made.write_text(compile_ptx(source.read_text(), source.name, library))
            print(made)


if __name__ == "__main__":
    main()
