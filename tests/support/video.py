"""Real streams of compressed video."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest


def encode(
    pictures: Sequence[np.ndarray], codec: str = "h264", *, gop: int = 8, b_frames: int = 0
) -> list[tuple[int, bytes]]:
    """Encode H x W x 3 uint8 BGR pictures of even sides; return (index of its picture, packet) as sent."""
    av = pytest.importorskip("av", reason="PyAV is not installed")
    encoder = {"h264": "libx264", "hevc": "libx265"}[codec]
    if encoder not in av.codecs_available:
        pytest.skip(f"this PyAV has no {encoder}")
    context = av.CodecContext.create(encoder, "w")
    height, width = pictures[0].shape[:2]
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    context.gop_size, context.max_b_frames = gop, b_frames
    context.options = {"preset": "ultrafast", "crf": "12"}
    if not b_frames:
        context.options |= {"tune": "zerolatency"}
    if codec == "hevc":
        context.options |= {"x265-params": f"log-level=none:keyint={gop}:min-keyint={gop}:repeat-headers=1"}
    packets = []
    for index, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format="bgr24")
        frame.pts = index
        packets += [(packet.pts, bytes(packet)) for packet in context.encode(frame)]
    return packets + [(packet.pts, bytes(packet)) for packet in context.encode(None)]
