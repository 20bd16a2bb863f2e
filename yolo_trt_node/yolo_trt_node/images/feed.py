"""A live stream of compressed video: every packet is decoded, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.reader import ImageReader

# A decoder that is this far behind never catches up: it goes on at the next key frame.
_BACKLOG = 120


@dataclass(frozen=True)
class DecodedFrame:
    """A frame of a video, as the pipeline takes it in place of a message.

    Attributes:
        header: of the packet that held it, with its stamp.
        frame: the pixels.
        seconds: that decoding took.
        delay_s: from the arrival of its packet until it was there, waiting for others included; ``None`` of a
            still image.
    """

    header: Any
    frame: Frame
    seconds: float
    delay_s: float | None = None


class VideoFeed:
    """Decodes a camera's packets as they come, and hands frames on. `add` never blocks."""

    def __init__(
        self,
        max_pixels: int,
        deliver: Callable[[DecodedFrame], None],
        refuse: Callable[[ImageError], None],
        tell: Callable[[str], None],
    ) -> None:
        """Start the thread.

        Args:
            max_pixels: larger frames are refused.
            deliver: called in the thread with each frame.
            refuse: called in the thread for each packet that gives none, with the reason.
            tell: called in the thread with what is worth a line in the log.
        """
        self._reader = ImageReader(max_pixels)
        self._deliver = deliver
        self._refuse = refuse
        self._tell = tell
        self._told: tuple[str, int] | None = None
        self._packets: queue.Queue[tuple[Any, tuple[Any, float], bool] | None] = queue.Queue(_BACKLOG)
        self._gap = False
        self._thread = threading.Thread(target=self._work, name="video", daemon=True)
        self._thread.start()

    def add(self, message: Any, header: Any) -> bool:
        """Take the next packet; return whether there was room for it."""
        try:
            self._packets.put_nowait((message, (header, time.perf_counter()), self._gap))
        except queue.Full:
            self._gap = True
            return False
        self._gap = False
        return True

    def lost(self) -> None:
        """Say that packets before the next one are lost."""
        self._gap = True

    def close(self) -> None:
        """Stop; packets that wait are given up."""
        while self._thread.is_alive():
            try:
                self._packets.put(None, timeout=0.05)
                break
            except queue.Full:
                try:
                    self._packets.get_nowait()
                except queue.Empty:
                    continue
        self._thread.join()

    def _work(self) -> None:
        while (item := self._packets.get()) is not None:
            message, token, gap = item
            started = time.perf_counter()
            try:
                found = self._reader.read(message, token, gap=gap)
            except ImageError as error:
                self._refuse(error)
                continue
            except Exception as error:  # a decoder must not end the thread that the camera hangs on
                self._refuse(ImageError("unforeseen", repr(error)))
                continue
            ended = time.perf_counter()
            for (header, arrived), frame in found:
                self._say_delay(header, token[0], ended - arrived)
                self._deliver(DecodedFrame(header, frame, ended - started, ended - arrived))

    def _say_delay(self, was: Any, newest: Any, delay_s: float) -> None:
        """Tell once, and again when it changes, how long the decoder keeps a frame to itself."""
        video = self._reader.video
        if video is None or self._told == (video.codec, video.delay):
            return
        self._told = video.codec, video.delay
        late_s = newest.stamp.sec - was.stamp.sec + (newest.stamp.nanosec - was.stamp.nanosec) * 1e-9
        how = f"at once ({1e3 * delay_s:.0f} ms)"
        if video.delay:
            how = (
                f"{video.delay} packets late ({1e3 * late_s:.0f} ms): its frames come out of order; an "
                "encoder without B frames (tune zerolatency) avoids it"
            )
        self._tell(f"decoding {video.codec}; each frame is there {how}")
