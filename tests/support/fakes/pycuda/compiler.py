"""``pycuda.compiler``: the letterbox kernel is done by the CPU path, with what the launch was given."""

from __future__ import annotations

import numpy as np
from yolo_trt_node.detector.letterbox import Preprocessor
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS
from yolo_trt_node.images.frames import Frame

from pycuda import driver

_TYPES = [np.uint64] * 2 + [np.int32] * 14 + [np.float32, np.int32]


class SourceModule:
    def __init__(self, source: str, *, nvcc: str, no_extern_c: bool) -> None:
        driver.require_context("cuModuleLoad")
        assert no_extern_c, "the source says extern C itself"
        self._source = source

    def get_function(self, name: str):
        assert f"void {name}(" in self._source
        return _launch


def _launch(*arguments, block, grid, stream) -> None:
    assert [type(a) for a in arguments] == _TYPES
    pointer, tensor, encoding, image_height, image_width, step, height, width = map(int, arguments[:8])
    rgb, *colour = map(int, arguments[12:16])
    scale, half = float(arguments[16]), int(arguments[17])
    assert grid[0] * block[0] >= width
    assert grid[1] * block[1] >= height

    def work() -> None:
        rows = image_height * 3 // 2 if ENCODINGS[encoding] == "nv12" else image_height
        data = driver.memory_at(pointer, rows * step).reshape(rows, step)
        frame = Frame(data, image_height, image_width, ENCODINGS[encoding], step)
        cpu = Preprocessor(height, width, channels="RGB" if rgb else "BGR", scale=scale, colour=tuple(colour))
        batch, _ = cpu([frame])
        planes = batch.astype(np.float16 if half else np.float32)
        driver.memory_at(tensor, planes.nbytes)[:] = planes.reshape(-1).view(np.uint8)

    stream.add("letterbox", work)
