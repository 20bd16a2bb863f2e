"""What can be played as a camera: bags, folders of images, videos."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_files import FILES, Bag
from yolo_trt_node.replay.bags import BagError, is_latched, open_bag
from yolo_trt_node.replay.bags import messages as read_messages
from yolo_trt_node.replay.coders import Coder, JpegCoder, MakeCoder, coder_maker

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes of the image files that a folder's player takes."""

# What a camera's side of a recording consists of; the rest of a bag would talk into the live system.
CAMERA_TYPES = (*messages.IMAGE_TYPES, "sensor_msgs/msg/CameraInfo", "tf2_msgs/msg/TFMessage")
# How long the only image of a bag lasts when the bag is looped.
_LONE_IMAGE_NS = 100_000_000
_LONE_IMAGE_HZ = 1e9 / _LONE_IMAGE_NS
_MOST_PIXELS = 64_000_000
_AS_THEY_ARE = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


class SourceError(ValueError):
    """There is nothing to play; the message says why."""


@dataclass(frozen=True)
class Topic:
    """A topic to publish.

    Attributes:
        kind: type name such as ``sensor_msgs/msg/Image``.
        latched: latecomers get the last message.
    """

    kind: str
    latched: bool = False


@dataclass(frozen=True)
class OutgoingMessage:
    """A message to publish.

    Attributes:
        topic: absolute topic name.
        time_ns: when, in nanoseconds, on the source's own clock.
        data: CDR with its 4-byte encapsulation.
    """

    topic: str
    time_ns: int
    data: bytes


class Recording(Protocol):
    """A recording.

    Attributes:
        topics: what it publishes, by absolute name.
        start_ns: when it begins, nanoseconds on its own clock.
        period_ns: how long the last message lasts before the source may begin again.
        count: how many messages it has; 0 where that is not known.
        has_stamps: whether its stamps say when the images were taken; else they only give the rhythm.
        unreadable: how many images could not be read so far.
    """

    topics: dict[str, Topic]
    start_ns: int
    period_ns: int
    count: int
    has_stamps: bool
    unreadable: int

    def messages(self) -> Iterator[OutgoingMessage]:
        """Read from the beginning."""
        ...


@contextmanager
def open_source(
    path: Path,
    store: Any,
    *,
    topics: Sequence[str] = (),
    topic: str = "",
    frame_id: str = "camera",
    fps: float = 0.0,
    compressed: bool = False,
    video: str = "",
    video_message: str = "compressed",
) -> Iterator[Recording]:
    """Open a bag, a folder of images or a video.

    Args:
        path: of the bag (its folder or file), the folder or the video.
        store: the message types.
        topics: of a bag, play only these; without any, its images, camera infos and transforms.
        topic: publish the images under this name; of a bag, which must then have one image topic to play.
            Compressed images go to ``<topic>/compressed``, and video likewise.
        frame_id: of a folder's or a video's images.
        fps: images a second of a folder (0: 10) or a video (0: as the file says).
        compressed: publish compressed images: JPEG and PNG files as they are, but for those that their EXIF
            turns, others as JPEG; of a bag the raw ones.
        video: publish packets of video of this codec (`coders.VIDEO_CODECS`); of a bag the raw images.
        video_message: in which message (`coders.VIDEO_MESSAGES`).

    Raises:
        BagError: the bag cannot be read.
        SourceError: there is nothing to play.
    """
    if not path.exists():
        raise SourceError(f"there is no {path}")
    name = topic or "/camera/image_raw"
    coder = coder_maker(compressed, video, video_message)
    if is_bag(path):
        with open_bag(path) as bag:
            yield BagSource(bag, store, topics, topic, coder if compressed or video else None)
    elif topics:
        raise SourceError(f"{path} is no bag, so it has no topics to choose from; --topic names its own")
    elif path.is_dir():
        fps = fps or 10.0
        yield FolderSource(path, PictureEncoder(store, name, frame_id, coder(fps)), fps)
    else:
        fps = fps or video_rate(path)
        yield VideoSource(path, PictureEncoder(store, name, frame_id, coder(fps)), fps)


def is_bag(path: Path) -> bool:
    """Tell whether a path is a bag: its file, or a folder that holds one."""
    if path.is_file():
        return path.suffix in FILES
    return any(file.suffix in FILES or file.name == "metadata.yaml" for file in path.iterdir())


class BagSource:
    """A bag's camera topics."""

    has_stamps = True
    unreadable = 0

    def __init__(
        self, bag: Bag, store: Any, topics: Sequence[str], topic: str, make_coder: MakeCoder | None
    ) -> None:
        """Choose the topics; see `open_source`. A coder is made for each topic of raw images."""
        self._bag = bag
        self._store = store
        kinds = {connection.topic: connection.msgtype for connection in bag.connections}
        wanted = list(topics) or [name for name, kind in kinds.items() if kind in CAMERA_TYPES]
        missing = [name for name in wanted if name not in kinds]
        if missing or not wanted:
            lost = f"has no {', '.join(missing)}" if missing else "has no camera topics"
            held = ", ".join(f"{name} ({kind})" for name, kind in sorted(kinds.items()))
            raise SourceError(f"{bag.path} {lost}; it holds {held or 'nothing'}. Choose with --topics")
        if make_coder:
            # What is there already is not made anew.
            beside = make_coder(1.0).beside
            wanted = [name for name in wanted if not beside or f"{name}{beside}" not in wanted]
        images = [name for name in wanted if kinds[name] in messages.IMAGE_TYPES]
        if topic and len(images) != 1:
            raise SourceError(
                f"--topic {topic} names one topic, but these hold images: {', '.join(images) or 'none'}. "
                "Choose with --topics"
            )
        self._connections = [c for c in bag.connections if c.topic in wanted]
        if not topics:
            self._connections = messages.without_depth(store, bag, self._connections)
        seconds = bag.duration / 1e9
        self._coders: dict[str, Coder] = {}
        self._readers: dict[str, ImageReader] = {}
        self._names: dict[str, str] = {}
        self.topics: dict[str, Topic] = {}
        for connection in self._connections:
            name, kind = connection.topic, connection.msgtype
            if name in images and topic:
                name = f"{topic}/compressed" if kind == messages.COMPRESSED_TYPE else topic
            if make_coder and kind == messages.IMAGE_TYPE:
                coder = make_coder(connection.msgcount / seconds if seconds else _LONE_IMAGE_HZ)
                self._coders[connection.topic] = coder
                self._readers[connection.topic] = ImageReader(_MOST_PIXELS)
                name, kind = name + coder.beside, coder.kind
            self._names[connection.topic] = name
            self.topics[name] = Topic(kind, is_latched(connection))
        self.start_ns = bag.start_time
        self.count = sum(connection.msgcount for connection in self._connections)
        frames = max((c.msgcount for c in self._connections), default=0)
        self.period_ns = round(bag.duration / (frames - 1)) if frames > 1 else _LONE_IMAGE_NS

    def messages(self) -> Iterator[OutgoingMessage]:
        """Read from the beginning."""
        for connection, time_ns, data in read_messages(self._bag, self._connections):
            topic = connection.topic
            if topic not in self._coders:
                yield OutgoingMessage(self._names[topic], time_ns, data)
                continue
            try:
                message = messages.from_cdr(self._store, connection.msgtype, data)
                token = messages.header_of(self._store, message), time_ns
                found = self._readers[topic].read(message, token)
            except ImageError as error:
                self.unreadable += 1
                print(f"{topic}: {error}", file=sys.stderr)
                continue
            for (header, at_ns), frame in found:
                coded = self._coders[topic].message(self._store, header, frame.to_bgr())
                yield OutgoingMessage(self._names[topic], at_ns, coded)


class PictureEncoder:
    """Makes a camera's messages of pictures."""

    def __init__(self, store: Any, topic: str, frame_id: str, coder: Coder) -> None:
        """Publish on a topic, or on what the coder has beside it."""
        self._store = store
        self._frame_id = frame_id
        self._coder = coder
        self.takes_files = isinstance(coder, JpegCoder)
        self.topic = topic + coder.beside
        self.topics = {self.topic: Topic(coder.kind)}

    def picture(self, time_ns: int, pixels: NDArray[np.uint8]) -> OutgoingMessage:
        """Make the message of an H x W x 3 uint8 BGR picture taken at a time (nanoseconds)."""
        header = messages.header(self._store, time_ns, self._frame_id)
        return OutgoingMessage(self.topic, time_ns, self._coder.message(self._store, header, pixels))

    def file(self, time_ns: int, kind: str, data: bytes) -> OutgoingMessage:
        """Make the message of a compressed picture; ``kind`` is ``jpeg`` or ``png``."""
        header = messages.header(self._store, time_ns, self._frame_id)
        return OutgoingMessage(
            self.topic, time_ns, messages.compressed_image(self._store, header, kind, data)
        )


class FolderSource:
    """A folder's image files, in the natural order of their names (2 before 10)."""

    has_stamps = False
    start_ns = 0

    def __init__(self, folder: Path, camera: PictureEncoder, fps: float) -> None:
        """List the files."""
        self._files = sorted(
            (f for f in folder.iterdir() if f.suffix.lower() in PICTURE_SUFFIXES), key=_natural
        )
        if not self._files:
            raise SourceError(f"{folder} is no bag and holds no images ({', '.join(PICTURE_SUFFIXES)})")
        self._camera = camera
        self._fps = fps
        self.period_ns = round(1e9 / fps)
        self.topics = camera.topics
        self.count = len(self._files)
        self.unreadable = 0

    def messages(self) -> Iterator[OutgoingMessage]:
        """Read from the beginning."""
        for index, file in enumerate(self._files):
            time_ns = round(index * 1e9 / self._fps)
            kind = _AS_THEY_ARE.get(file.suffix.lower())
            if self._camera.takes_files and kind and not _is_turned(data := file.read_bytes()):
                yield self._camera.file(time_ns, kind, data)
                continue
            pixels = cv2.imread(str(file), cv2.IMREAD_COLOR)
            if pixels is None:
                self.unreadable += 1
                print(f"{file} cannot be read as an image; it is left out", file=sys.stderr)
                continue
            yield self._camera.picture(time_ns, pixels)


class VideoSource:
    """A video file, by OpenCV."""

    has_stamps = False
    start_ns = 0
    unreadable = 0

    def __init__(self, file: Path, camera: PictureEncoder, fps: float) -> None:
        """Look at the file.

        Raises:
            SourceError: it is no video.
        """
        count, _ = _look_at_video(file)
        self._file = file
        self._camera = camera
        self._fps = fps
        self.period_ns = round(1e9 / fps)
        self.topics = camera.topics
        self.count = max(0, int(count))

    def messages(self) -> Iterator[OutgoingMessage]:
        """Read from the beginning."""
        video = cv2.VideoCapture(str(self._file))
        try:
            index = 0
            while True:
                found, pixels = video.read()
                if not found:
                    break
                yield self._camera.picture(round(index * 1e9 / self._fps), pixels)
                index += 1
        finally:
            video.release()
        if not index:
            raise SourceError(f"{self._file} holds no image that OpenCV can read")


def video_rate(file: Path) -> float:
    """Return how many images a second a video has by itself.

    Raises:
        SourceError: it is no video, or does not say.
    """
    _, rate = _look_at_video(file)
    if not 0 < rate < 1000:
        raise SourceError(f"{file} does not say how many images a second it has; pass --fps")
    return rate


def _look_at_video(file: Path) -> tuple[float, float]:
    """Return a video's number of images and their rate, as its header tells them."""
    video = cv2.VideoCapture(str(file))
    try:
        if not video.isOpened():
            raise SourceError(f"{file} is no bag, and OpenCV cannot read it as a video")
        return video.get(cv2.CAP_PROP_FRAME_COUNT), video.get(cv2.CAP_PROP_FPS)
    finally:
        video.release()


def _is_turned(data: bytes) -> bool:
    """Tell whether an image file's EXIF turns it: decoded as it lies it is another picture."""
    if not re.search(b"Exif\0\0|eXIf", data):
        return False
    stored = np.frombuffer(data, np.uint8)
    shown = cv2.imdecode(stored, cv2.IMREAD_COLOR)
    lying = cv2.imdecode(stored, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    return shown is not None and lying is not None and not np.array_equal(shown, lying)


def _natural(file: Path) -> list[tuple[int, str]]:
    """Sort key that takes runs of digits as numbers."""
    return [
        (int(part), part) if part.isdecimal() else (-1, part.lower())
        for part in re.split(r"(\d+)", file.name)
    ]


__all__ = ["BagError", "OutgoingMessage", "Recording", "SourceError", "Topic", "open_source"]
