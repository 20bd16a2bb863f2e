"""The CUDA kernel: on the host it equals the CPU path; what is shipped is its source, and fits every GPU."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from support import host_kernel
from support.frames import encode, picture
from yolo_trt_node.detector import cuda
from yolo_trt_node.detector.letterbox import Preprocessor
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS

COLOR = (110, 120, 130)

# Image and network sizes: odd, portrait, tiny, enlarged, not scaled, halved, and what cameras really have.
SIZES = [
    ((45, 81), (32, 64)),
    ((123, 77), (64, 96)),
    ((11, 7), (64, 64)),
    ((2, 2), (32, 64)),
    ((96, 160), (96, 160)),
    ((128, 192), (64, 96)),
    ((201, 333), (192, 320)),
    ((1080, 1920), (384, 640)),
]


@pytest.fixture(scope="module")
def kernel():
    if host_kernel.COMPILER is None:
        pytest.skip("no C++ compiler on this machine (apt install g++)")
    return host_kernel.shared()


def difference(kernel, frame, shape, dtype, channels="RGB"):
    """How far the kernel is from the CPU path, in 8-bit levels: the largest, and the mean."""
    options = {"channels": channels, "scale": 1 / 255, "color": COLOR}
    batch, (layout,) = Preprocessor(*shape, **options)([frame])
    tensor = kernel(frame, layout, dtype=dtype, **options)
    assert tensor.shape == batch[0].shape
    apart = np.abs(tensor.astype(np.float64) - batch[0]) * 255
    return apart.max(), apart.mean()


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("size", "shape"), SIZES)
def test_the_kernel_equals_the_cpu_path(kernel, encoding, size, shape):
    frame = encode(picture(*size), encoding, padding=3)
    largest, mean = difference(kernel, frame, shape, np.float32)
    # OpenCV's own builds for other processors round a level differently here and there.
    assert largest <= 1.001
    assert mean < 0.05


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_the_kernel_writes_halves_and_either_channel_order(kernel, channels):
    frame = encode(picture(99, 155), "bgr8")
    for dtype, rounding in ((np.float32, 0.0), (np.float16, 255 * 2.0**-12)):
        largest, _ = difference(kernel, frame, (64, 96), dtype, channels)
        assert largest <= 1.001 + rounding


@pytest.mark.parametrize("scale", [1 / 255, 1.0, 257.0, 1e-7, 0.0])
def test_halves_are_rounded_as_by_numpy(kernel, scale):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    options = {"channels": "RGB", "scale": scale, "color": COLOR}
    frame = encode(levels, "bgr8")
    layout = Preprocessor(16, 16, **options)([frame])[1][0]
    with np.errstate(over="ignore"):
        wanted = (levels.astype(np.float32) * np.float32(scale)).astype(np.float16)
    np.testing.assert_array_equal(kernel(frame, layout, dtype=np.float16, **options)[0], wanted[..., 0])


@pytest.mark.real_data
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_kernel_equals_the_cpu_path_on_real_images(kernel, encoding):
    if "UAV_DATA" not in os.environ:
        pytest.skip("UAV_DATA is not set: no real aerial images")
    paths = sorted(Path(os.environ["UAV_DATA"]).glob("aerial_cars/images/*"))[::20]
    assert paths
    for path in paths:
        image = cv2.imread(str(path))[:-1, :-3]  # odd sizes
        largest, mean = difference(kernel, encode(image, encoding), (384, 640), np.float32)
        assert largest <= 1.001
        assert mean < 0.05


def wheel(name: str) -> Path:
    """One of the wheels that set-up fetches for tests (tests/wheels.txt)."""
    found = sorted(Path(sys.prefix, "wheels").glob(f"{name}-*.whl"))
    if not found:
        pytest.skip(f"set-up could not download {name}: run `make setup` with the package index in reach")
    return found[0]


@pytest.fixture(scope="module")
def ptx(tmp_path_factory):
    """What ``make ptx`` makes of the source."""
    folder = tmp_path_factory.mktemp("ptx")
    script = Path(__file__).parents[3] / "yolo_trt_node" / "make_ptx.py"
    command = [sys.executable, script, wheel("nvidia_cuda_nvrtc_cu11"), "--output", folder]
    subprocess.run(command, check=True)
    return (folder / cuda.PTX.name).read_text()


def test_the_ptx_that_is_shipped_is_that_of_the_source(ptx):
    assert ptx == cuda.PTX.read_text(), "run `make ptx` and commit what it writes"


def test_the_ptx_takes_the_arguments_that_are_given_and_computes_nothing_in_double():
    text = cuda.PTX.read_text()
    frame = encode(picture(20, 30), "nv12")
    layout = Preprocessor(32, 32, channels="RGB", scale=1.0, color=COLOR)([frame])[1][0]
    values = cuda.arguments(
        frame,
        layout,
        frame_pointer=1,
        table_pointer=3,
        tensor_pointer=2,
        color=COLOR,
        channels="RGB",
        scale=1.0,
        half=False,
    )

    kinds = re.findall(rf"\.param \.(\w+)[^,]* {cuda.KERNEL}_param_\d+,?", text)
    bits = {"u64": 64, "u32": 32, "f32": 32, "b64": 64, "b32": 32}
    assert [bits[kind] for kind in kinds] == [value.dtype.itemsize * 8 for value in values]
    assert [kind == "f32" for kind in kinds] == [value.dtype.kind == "f" for value in values]
    assert ".f64" not in text


def test_no_gpu_spills_its_registers(tmp_path):
    with zipfile.ZipFile(wheel("nvidia_cuda_nvcc")) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith("/bin/ptxas"))
        ptxas = Path(archive.extract(member, tmp_path))
    ptxas.chmod(0o700)
    for target in (75, 80, 86, 87, 89, 90, 100, 110, 120, 121):
        command = [ptxas, "-v", f"-arch=sm_{target}", cuda.PTX, "-o", tmp_path / "kernel.cubin"]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        (registers,) = map(int, re.findall(r"Used (\d+) registers", told))
        # 64 registers a thread still fill every multiprocessor with threads.
        assert registers <= 64, target
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in told, target
