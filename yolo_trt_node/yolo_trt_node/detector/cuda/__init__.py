"""The CUDA kernel that does before the network what `letterbox.Preprocessor` does on the CPU.

The source is compiled where it runs (nvcc or NVRTC). Launch `KERNEL` once a frame, with one thread for each
pixel of the input tensor: block `BLOCK`, grid `grid`, arguments `arguments`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yolo_trt_node.detector.letterbox import Letterbox
from yolo_trt_node.images.encodings import FRAME_ENCODINGS
from yolo_trt_node.images.frames import Frame

KERNEL = "letterbox"
"""The kernel's name in the compiled module."""

BLOCK = (32, 8, 1)
"""Threads of a block in x, y, z."""

SOURCE = Path(__file__).with_name("letterbox.cu")
"""The kernel's source file."""


def grid(layout: Letterbox) -> tuple[int, int, int]:
    """Return how many blocks in x, y, z cover the network's input."""
    return -(-layout.width // BLOCK[0]), -(-layout.height // BLOCK[1]), 1


def arguments(
    frame: Frame,
    layout: Letterbox,
    *,
    frame_pointer: int,
    tensor_pointer: int,
    colour: tuple[int, int, int],
    channels: str,
    scale: float,
    half: bool,
) -> tuple[np.generic, ...]:
    """Return the kernel's arguments in order, as NumPy scalars of the C types' sizes.

    Args:
        frame: the frame, for its size, encoding and step (the step must be that of the copy on the device).
        layout: where the frame lies in the network's input.
        frame_pointer: device address of the frame's first byte.
        tensor_pointer: device address of this image's three planes in the input batch.
        colour: padding, three 8-bit values in the order blue, green, red.
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
        *colour,
    )
    return (
        np.uint64(frame_pointer),
        np.uint64(tensor_pointer),
        *(np.int32(value) for value in integers),
        np.float32(scale),
        np.int32(half),
    )
