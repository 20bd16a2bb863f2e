"""One camera's messages, whatever they are, become frames."""

from __future__ import annotations

from typing import Any

from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.messages import frame_from_message, stamp_s
from yolo_trt_node.images.thermal import AUTO_RANGE, ThermalRange
from yolo_trt_node.images.video import VideoDecoder, codec_of, decoder_for


def video_codec(message: Any) -> str:
    """Return the codec of a message that holds a packet of video; empty where it is an image."""
    if hasattr(message, "format"):
        return codec_of(message.format)
    return codec_of(getattr(message, "encoding", ""))


class ImageReader:
    """Reads the messages of one camera in their order, and keeps what one leaves for the next.

    That is the range of a thermal camera, and all that a video's packet builds on. Not thread-safe.

    Attributes:
        thermal: how 16-bit counts become grays.
        video: the decoder; ``None`` before the first packet.
    """

    def __init__(self, max_pixels: int, thermal_range: str = AUTO_RANGE) -> None:
        """Read no message yet.

        Args:
            max_pixels: compressed images with more are refused.
            thermal_range: see `ThermalRange`.

        Raises:
            ValueError: ``thermal_range`` is none.
        """
        self.thermal = ThermalRange(thermal_range)
        self.video: VideoDecoder[Any] | None = None
        self._max_pixels = max_pixels
        self._last_pts: int | None = None
        self._even_pts = False

    @property
    def remembers(self) -> bool:
        """Whether an image depends on those before it."""
        return self.video is not None or (self.thermal.setting == AUTO_RANGE and self.thermal.used)

    def read(self, message: Any, token: Any, *, gap: bool = False) -> list[tuple[Any, Frame]]:
        """Take the next message.

        Args:
            message: of any image type that is read, from ROS or from a bag.
            token: comes back with the frame that the message holds; of a video that may be later.
            gap: whether packets of a video before this one are known to be lost.

        Returns:
            Tokens and frames: one of a still image, any number of a video's packet.

        Raises:
            ImageError: it cannot be read.
        """
        codec = video_codec(message)
        if not codec:
            return [(token, frame_from_message(message, self._max_pixels, self.thermal))]
        if self.video is None or self.video.codec != codec:
            self.video = decoder_for(codec, self._max_pixels)
        if getattr(message, "is_bigendian", 0) and not hasattr(message, "step"):
            raise ImageError("damaged packet", "its bytes are big endian")
        gap = self._gap(message) or gap
        return self.video.decode(bytes(memoryview(message.data)), token, gap=gap)

    def finish(self) -> list[tuple[Any, Frame]]:
        """Return the frames that a video's decoder still holds back at the end."""
        return [] if self.video is None else self.video.finish()

    def _gap(self, message: Any) -> bool:
        """Tell whether packets are lost, where the encoder numbers them: ffmpeg_image_transport does."""
        pts = getattr(message, "pts", None)
        if pts is None:
            return False
        last, self._last_pts = self._last_pts, int(pts)
        if last is None:
            return False
        step = int(pts) - last
        gap = self._even_pts and step != 1
        # Until two have followed each other it is not known that they are numbers and no times.
        self._even_pts = step == 1 or (self._even_pts and gap)
        return gap


__all__ = ["ImageReader", "stamp_s", "video_codec"]
