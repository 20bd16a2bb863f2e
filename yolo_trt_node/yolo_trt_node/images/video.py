"""Compressed video: packets of H.264 and H.265, each in a message of its own, become frames.

A packet means nothing without those before it, so none may be skipped; what is not looked at is left out
after it was decoded. PyAV decodes, where it is installed.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import numpy as np

from yolo_trt_node.images.errors import ImageError, shown
from yolo_trt_node.images.frames import Frame

CODECS = {"h264": ("h264", "avc", "x264"), "hevc": ("h265", "hevc", "x265")}
"""FFmpeg's names of the codecs that are decoded, and what messages call them."""

# Packets that a decoder may hold back: more than H.264's 16 frames that can be out of order.
_HELD = 64
_START = re.compile(b"\x00\x00\x01")
_H264_HEADERS, _H264_KEY = 7, 5
_HEVC_KEYS = range(16, 22)

Token = TypeVar("Token")


def codec_of(name: str) -> str:
    """Return FFmpeg's name of the codec that a message names; empty where it is none that is decoded.

    Args:
        name: an ``encoding`` or ``format``, such as ``h264``, ``hevc_nvenc`` or ``h264;yuv420p;bgr8;bgr8``.
    """
    first = re.split(r"[;,\s]", name.strip().lower())[0].replace(".", "")
    for codec, names in CODECS.items():
        if any(first == known or first.startswith(known + "_") or first == f"lib{known}" for known in names):
            return codec
    return ""


def holds_key(codec: str, data: bytes) -> bool:
    """Tell whether a packet (Annex B) can be decoded without those before it."""
    for found in _START.finditer(data):
        at = found.end()
        if at >= len(data):
            return False
        kind = data[at] & 0x1F if codec == "h264" else data[at] >> 1 & 0x3F
        if kind in (_H264_HEADERS, _H264_KEY) if codec == "h264" else kind in _HEVC_KEYS:
            return True
    return False


class VideoDecoder(Generic[Token]):
    """Decodes one stream, packet by packet. Not thread-safe.

    Attributes:
        codec: ``h264`` or ``hevc``.
        delay: how many packets the last frame was behind the packet that made the decoder give it.
    """

    def __init__(self, codec: str, max_pixels: int) -> None:
        """Open a decoder.

        Args:
            codec: one of `CODECS`.
            max_pixels: larger frames are refused before memory is taken for them.

        Raises:
            ImageError: PyAV is not installed.
        """
        try:
            import av
        except ImportError as error:
            raise ImageError(
                "no video decoder",
                f"{codec} video needs the Python package av (pip install av, or apt install python3-av): "
                f"{error}",
            ) from error
        self.codec = codec
        self.delay = 0
        self._av = av
        self._max_pixels = max_pixels
        self._context: Any = av.CodecContext.create(codec, "r")
        # Threads that share a frame give it at once; threads with a frame each would hold some back.
        self._context.thread_type = "SLICE"
        self._context.options = {"max_pixels": str(max_pixels)}
        self._tokens: OrderedDict[int, Token] = OrderedDict()
        self._count = 0
        self._waiting = True

    def decode(self, data: bytes, token: Token, *, gap: bool = False) -> list[tuple[Token, Frame]]:
        """Take the next packet.

        Args:
            data: the packet, Annex B.
            token: comes back with the frame that the packet holds.
            gap: whether packets before this one are lost.

        Returns:
            The frames that the packet completes, with their tokens: mostly its own.

        Raises:
            ImageError: no frame can come before the next key frame, or the packet is damaged.
        """
        if gap and not self._waiting:
            self._context.flush_buffers()
            self._tokens.clear()
            self._waiting = True
        if self._waiting and not holds_key(self.codec, data):
            raise ImageError(
                "waiting for a key frame",
                f"this {self.codec} packet builds on others that have not come; set the encoder's key frame "
                "interval (gop_size) to a second or two",
            )
        self._waiting = False
        self._tokens[self._count] = token
        while len(self._tokens) > _HELD:
            self._tokens.popitem(last=False)
        packet = self._av.Packet(data)
        packet.pts = packet.dts = self._count
        self._count += 1
        try:
            return list(self._frames(self._context.decode(packet)))
        except (self._av.error.FFmpegError, ValueError) as error:
            self._waiting = True
            self._context.flush_buffers()
            raise ImageError("damaged packet", f"{len(data)} bytes of {self.codec}: {error}") from error

    def finish(self) -> list[tuple[Token, Frame]]:
        """Return what the decoder still holds back at the stream's end."""
        if self._waiting:
            return []
        try:
            found = list(self._frames(self._context.decode(None)))
        except self._av.error.FFmpegError:
            found = []
        return found

    def _frames(self, decoded: list[Any]) -> Iterator[tuple[Token, Frame]]:
        for picture in decoded:
            token = self._tokens.pop(picture.pts, None) if picture.pts is not None else None
            if token is None or picture.is_corrupt:
                continue
            if picture.width * picture.height > self._max_pixels:
                raise ValueError(
                    f"{picture.width} x {picture.height} pixels are more than max_megapixels allows"
                )
            self.delay = self._count - 1 - picture.pts
            pixels: np.ndarray = picture.to_ndarray(format="bgr24")
            yield token, Frame.from_bgr(pixels)


def decoder_for(name: str, max_pixels: int) -> VideoDecoder[Any]:
    """Open a decoder for what a message calls its codec.

    Raises:
        ImageError: it is none that is decoded, or PyAV is not installed.
    """
    codec = codec_of(name)
    if not codec:
        raise ImageError("unknown video codec", f"{shown(name)}; H.264 and H.265 are decoded")
    return VideoDecoder(codec, max_pixels)
