"""The CUDA kernel that does before the network what `letterbox.Preprocessor` does on the CPU.

`PTX` is the source as NVRTC compiled it for the oldest GPU served (``make ptx``); the driver translates it
for the GPU that is there. Launch `KERNEL` once a frame, with one thread for each pixel of the input tensor:
block `BLOCK`, grid `grid`, arguments `arguments`, the table `taps` in device memory.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.encodings import FRAME_ENCODINGS
from yolo_trt_node.images.frames import Frame

KERNEL = "letterbox"
"""The kernel's name in the compiled module."""

BLOCK = (32, 8, 1)
"""Threads of a block in x, y, z."""

SOURCE = Path(__file__).with_name("letterbox.cu")
"""The kernel's source file."""

PTX = SOURCE.with_suffix(".ptx")
"""The kernel for every GPU from compute capability 7.2 on."""

FRAME_PADDING = 12
"""Bytes of device memory needed after a frame's last: the kernel loads whole words."""

TAP = np.dtype(
    [("first", np.int32), ("second", np.int32), ("first_weight", np.int32), ("second_weight", np.int32)]
)
"""Two source positions that an output position falls between, and their weights in 1/2048."""


def grid(layout: Letterbox) -> tuple[int, int, int]:
    """Return how many blocks in x, y, z cover the network's input."""
    return -(-layout.width // BLOCK[0]), -(-layout.height // BLOCK[1]), 1


def taps(layout: Letterbox) -> NDArray[np.void]:
    """Return the taps of a layout's columns, then of its rows: (scaled width + scaled height) of `TAP`."""
    columns = _taps(layout.scaled_width, layout.image_width, clamp_weight=True)
    rows = _taps(layout.scaled_height, layout.image_height, clamp_weight=False)
    return np.concatenate((columns, rows))


def _taps(size: int, source_size: int, *, clamp_weight: bool) -> NDArray[np.void]:
    # Scale and position in double, the fraction in float: as OpenCV rounds, so do the weights.
    center = ((np.arange(size) + 0.5) * (1.0 / (size / source_size)) - 0.5).astype(np.float32)
    first = np.floor(center)
    fraction = center - first
    if clamp_weight:
        fraction[(first < 0) | (first >= source_size - 1)] = 0
        first = np.clip(first, 0, source_size - 1)
    found = np.empty(size, TAP)
    found["first"] = np.clip(first, 0, source_size - 1)
    found["second"] = np.clip(first + 1, 0, source_size - 1)
    found["first_weight"] = np.rint((np.float32(1) - fraction) * np.float32(2048))
    found["second_weight"] = np.rint(fraction * np.float32(2048))
    return found


def arguments(
    frame: Frame,
    layout: Letterbox,
    *,
    frame_pointer: int,
    table_pointer: int,
    tensor_pointer: int,
    color: tuple[int, int, int],
    channels: str,
    scale: float,
    half: bool,
) -> tuple[np.generic, ...]:
    """Return the kernel's arguments in order, as NumPy scalars of the C types' sizes.

    Args:
        frame: the frame, for its size, encoding and step (the step must be that of the copy on the device).
        layout: where the frame lies in the network's input.
        frame_pointer: device address of the frame's first byte, a multiple of 4; `FRAME_PADDING` bytes of
            memory follow the last.
        table_pointer: device address of `taps` of the layout.
        tensor_pointer: device address of this image's three planes in the input batch.
        color: padding, three 8-bit values in the order blue, green, red.
        channels: the tensor's channel order, ``RGB`` or ``BGR``.
        scale: factor from 8-bit values to the tensor's values.
        half: the tensor is float16, otherwise float32.
    """
    integers = (
        FRAME_ENCODINGS.index(frame.encoding),
        frame.height,
        frame.width,
        frame.step,
        layout.height,
        layout.width,
        layout.scaled_height,
        layout.scaled_width,
        layout.top,
        layout.left,
        channels == "RGB",
        *color,
    )
    return (
        np.uint64(frame_pointer),
        np.uint64(table_pointer),
        np.uint64(tensor_pointer),
        *(np.int32(value) for value in integers),
        np.float32(scale),
        np.int32(half),
    )
