"""The images of a bag: which topics have them, and what is in them, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rosbags.interfaces import Connection

from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_files import Bag
from yolo_trt_node.replay.bags import BagError
from yolo_trt_node.replay.bags import messages as read_messages
from yolo_trt_node.replay.journal import BagImage

_TRANSPORTS = ("compressed", "ffmpeg", "foxglove")


def image_connections(bag: Bag, topics: Sequence[str]) -> list[Connection]:
    """Choose the image topics of a bag.

    Args:
        bag: open.
        topics: the ones wanted; without any all, but not what image_transport sends beside a topic that is
            there raw.

    Raises:
        BagError: there are none.
    """
    images = [c for c in bag.connections if c.msgtype in messages.IMAGE_TYPES]
    names = {c.topic for c in images}
    missing = [topic for topic in topics if topic not in names]
    if missing or not images:
        lost = f"has no images on {', '.join(missing)}" if missing else "has no images"
        held = ", ".join(f"{c.topic} ({c.msgtype})" for c in bag.connections)
        raise BagError(f"{bag.path} {lost}; it holds {held or 'nothing'}")
    if topics:
        return [c for c in images if c.topic in topics]
    beside = {f"{name}/{transport}" for name in names for transport in _TRANSPORTS}
    return [c for c in images if c.topic not in beside]


def read_pictures(
    store: Any,
    bag: Bag,
    connections: Sequence[Connection],
    skip: int,
    readers: Mapping[str, ImageReader],
    damage: list[str],
) -> Iterator[BagImage]:
    """Decode the images of a bag, but for the first few; it ends where the bag is damaged, and says so.

    Args:
        store: the message types.
        bag: open.
        connections: the image topics.
        skip: how many pictures are not wanted. They are decoded only where others build on them.
        readers: one for each topic, without a message read.
        damage: gets what is wrong with the bag.
    """
    begun: set[str] = set()
    made = 0

    def pictures() -> Iterator[BagImage]:
        for connection, log_ns, data in read_messages(bag, connections):
            topic, reader = connection.topic, readers[connection.topic]
            if made < skip and topic in begun and not reader.remembers:
                yield BagImage(topic, log_ns, None, None, "")
                continue
            begun.add(topic)
            try:
                message = messages.from_cdr(store, connection.msgtype, data)
                found = reader.read(message, (messages.header_of(store, message), log_ns))
            except ImageError as error:
                yield BagImage(topic, log_ns, None, None, error.reason)
            else:
                yield from (BagImage(topic, at_ns, header, frame, "") for (header, at_ns), frame in found)
        for topic, reader in readers.items():
            yield from (
                BagImage(topic, at_ns, header, frame, "") for (header, at_ns), frame in reader.finish()
            )

    try:
        for picture in pictures():
            made += 1
            if made > skip:
                yield picture
    except BagError as error:
        damage.append(str(error))
