"""How pictures are sent: raw, as JPEG, or as a drone sends them, in packets of compressed video."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagError

_JPEG_QUALITY = 90

VIDEO_CODECS = {"h264": "libx264", "h265": "libx265"}
"""The codecs that video can be sent in, and FFmpeg's encoders of them."""

VIDEO_MESSAGES = {
    "compressed": (messages.COMPRESSED_TYPE, "/compressed"),
    "ffmpeg": (messages.PACKET_TYPE, "/ffmpeg"),
    "foxglove": (messages.FOXGLOVE_VIDEO_TYPE, "/foxglove"),
    "image": (messages.IMAGE_TYPE, ""),
}
"""The messages that hold a packet of video: their types, and what they add to a camera's topic."""


class Coder(Protocol):
    """Makes the messages of one camera's pictures.

    Attributes:
        kind: their type.
        beside: what is added to the camera's topic.
    """

    kind: str
    beside: str

    def message(self, store: Any, header: Any, pixels: NDArray[np.uint8]) -> bytes:
        """Serialise an H x W x 3 uint8 BGR picture."""
        ...


MakeCoder = Callable[[float], Coder]
"""Makes the coder of one camera, which sends so many images a second."""


class RawCoder:
    """Sends the pixels."""

    kind = messages.IMAGE_TYPE
    beside = ""

    def message(self, store: Any, header: Any, pixels: NDArray[np.uint8]) -> bytes:
        """See `Coder`."""
        return messages.image(store, header, pixels)


class JpegCoder:
    """Sends JPEG."""

    kind = messages.COMPRESSED_TYPE
    beside = "/compressed"

    def message(self, store: Any, header: Any, pixels: NDArray[np.uint8]) -> bytes:
        """See `Coder`."""
        return messages.compressed_image(store, header, "jpeg", to_jpeg(pixels))


class VideoCoder:
    """Sends packets of H.264 or H.265 by PyAV, each picture in its own at once, a key frame a second."""

    def __init__(self, codec: str, form: str, fps: float) -> None:
        """Look for the encoder.

        Args:
            codec: one of `VIDEO_CODECS`.
            form: one of `VIDEO_MESSAGES`.
            fps: images a second.

        Raises:
            BagError: PyAV is not installed, or has no such encoder.
        """
        try:
            import av
        except ImportError as error:
            raise BagError(
                f"to send {codec} needs the Python package av (pip install av, or apt install python3-av): "
                f"{error}"
            ) from error
        self._encoder = VIDEO_CODECS[codec]
        if self._encoder not in av.codecs_available:
            raise BagError(f"to send {codec} needs a PyAV with {self._encoder}, as pip install av brings it")
        self._av: Any = av
        self._codec, self._form = codec, form
        self.kind, self.beside = VIDEO_MESSAGES[form]
        self._rate = Fraction(max(fps, 1.0)).limit_denominator(1000)
        self._context: Any = None
        self._count = 0

    def message(self, store: Any, header: Any, pixels: NDArray[np.uint8]) -> bytes:
        """See `Coder`; of odd sides the last row or column is left out."""
        height, width = pixels.shape[0] // 2 * 2, pixels.shape[1] // 2 * 2
        if self._context is None or (self._context.height, self._context.width) != (height, width):
            self._context = self._opened(height, width)
        frame = self._av.VideoFrame.from_ndarray(
            np.ascontiguousarray(pixels[:height, :width]), format="bgr24"
        )
        frame.pts = self._count
        data = b"".join(bytes(packet) for packet in self._context.encode(frame))
        number, self._count = self._count, self._count + 1
        if self._form == "image":
            return messages.image_packet(store, header, self._codec, data)
        if self._form == "ffmpeg":
            return messages.numbered_packet(store, header, self._encoder, data, (height, width), number)
        if self._form == "foxglove":
            return messages.foxglove_packet(store, header, self._codec, data)
        return messages.compressed_image(store, header, self._codec, data)

    def _opened(self, height: int, width: int) -> Any:
        context = self._av.CodecContext.create(self._encoder, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.framerate, context.time_base = self._rate, 1 / self._rate
        gop = max(1, round(self._rate))
        context.gop_size, context.max_b_frames = gop, 0
        context.options = {"preset": "veryfast", "tune": "zerolatency", "crf": "20"}
        if self._codec == "h265":
            context.options |= {
                "x265-params": f"log-level=none:keyint={gop}:min-keyint={gop}:repeat-headers=1"
            }
        return context


def to_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """Compress H x W x 3 uint8 BGR pixels."""
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return bytes(data)


def coder_maker(compressed: bool, video: str, form: str) -> MakeCoder:
    """Choose how pictures are sent.

    Args:
        compressed: as JPEG.
        video: as video of this codec (`VIDEO_CODECS`); empty: not.
        form: the message of a packet (`VIDEO_MESSAGES`).
    """
    if video:
        return lambda fps: VideoCoder(video, form, fps)
    return lambda fps: JpegCoder() if compressed else RawCoder()
