"""Messages as the library ``rosbags`` has them, for programs that need no ROS."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images import messages as images
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.messages import (
    COMPRESSED_TYPE,
    FOXGLOVE_IMAGE_TYPE,
    FOXGLOVE_VIDEO_TYPE,
    IMAGE_TYPE,
    IMAGE_TYPES,
    PACKET_TYPE,
)

DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"
LABEL_INFO_TYPE = "vision_msgs/msg/LabelInfo"
VISION_INFO_TYPE = "vision_msgs/msg/VisionInfo"


def header(store: Any, stamp_ns: int, frame_id: str) -> Any:
    """Build a ``std_msgs/Header``."""
    seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
    time = store.types["builtin_interfaces/msg/Time"](sec=seconds, nanosec=nanoseconds)
    return store.types["std_msgs/msg/Header"](stamp=time, frame_id=frame_id)


def from_cdr(store: Any, kind: str, data: bytes) -> Any:
    """Return a serialised message of a type.

    Raises:
        ImageError: the bytes are no such message.
    """
    try:
        return store.deserialize_cdr(data, kind)
    # The library raises errors of many kinds for bytes that are no such message.
    except Exception as error:
        raise ImageError("corrupt message", f"{len(data)} bytes are no {kind}: {error}") from error


def header_of(store: Any, message: Any) -> Any:
    """Return an image message's header; foxglove's messages have its parts instead."""
    if hasattr(message, "header"):
        return message.header
    return store.types["std_msgs/msg/Header"](stamp=message.timestamp, frame_id=message.frame_id)


def is_depth_topic(store: Any, bag: Any, connection: Any) -> bool:
    """Tell by its first message whether a topic's images are distances, in which nothing can be detected.

    Where that cannot be read, the topic's name tells; whoever reads the bag meets the damage.
    """
    try:
        _, _, data = next(bag.messages(connections=[connection]))
        message = from_cdr(store, connection.msgtype, bytes(data))
    except ImageError:
        return False
    except Exception:  # the library raises errors of many kinds for a damaged bag; the end is one too
        return images.is_depth(connection.topic, "")
    return images.is_depth(connection.topic, getattr(message, "format", getattr(message, "encoding", "")))


def without_depth(store: Any, bag: Any, connections: Sequence[Any]) -> list[Any]:
    """Leave out the topics of depth cameras, with a line on stderr for each."""
    left = []
    for connection in connections:
        if connection.msgtype in IMAGE_TYPES and is_depth_topic(store, bag, connection):
            print(f"{connection.topic} is left out: its images are distances (depth)", file=sys.stderr)
        else:
            left.append(connection)
    return left


def frame_from_cdr(store: Any, kind: str, data: bytes, max_pixels: int) -> tuple[Any, Frame]:
    """Return the header and the pixels of a serialised still image of one of `IMAGE_TYPES`.

    Raises:
        ImageError: it cannot be read, or is compressed and has more pixels than allowed.
    """
    message = from_cdr(store, kind, data)
    return header_of(store, message), images.frame_from_message(message, max_pixels)


def image(store: Any, header: Any, pixels: NDArray[np.uint8]) -> bytes:
    """Serialise a bgr8 image of H x W x 3 uint8 BGR pixels."""
    height, width = pixels.shape[:2]
    message = store.types[IMAGE_TYPE](
        header=header,
        height=height,
        width=width,
        encoding="bgr8",
        is_bigendian=0,
        step=width * 3,
        data=np.ascontiguousarray(pixels).reshape(-1),
    )
    return bytes(store.serialize_cdr(message, IMAGE_TYPE))


def image_packet(store: Any, header: Any, codec: str, data: bytes) -> bytes:
    """Serialise a packet of video as some drones send it: an image without a size."""
    empty = {"height": 0, "width": 0, "is_bigendian": 0, "step": 0}
    content = np.frombuffer(data, np.uint8)
    message = store.types[IMAGE_TYPE](header=header, encoding=codec, data=content, **empty)
    return bytes(store.serialize_cdr(message, IMAGE_TYPE))


def numbered_packet(
    store: Any, header: Any, encoder: str, data: bytes, size: tuple[int, int], number: int
) -> bytes:
    """Serialise a packet of video as ffmpeg_image_transport sends it; ``size`` is height and width."""
    message = store.types[PACKET_TYPE](
        header=header,
        width=size[1],
        height=size[0],
        encoding=encoder,
        pts=number,
        flags=0,
        is_bigendian=False,
        data=np.frombuffer(data, np.uint8),
    )
    return bytes(store.serialize_cdr(message, PACKET_TYPE))


def foxglove_packet(store: Any, header: Any, codec: str, data: bytes) -> bytes:
    """Serialise a packet of video as Foxglove takes it."""
    message = store.types[FOXGLOVE_VIDEO_TYPE](
        timestamp=header.stamp, frame_id=header.frame_id, data=np.frombuffer(data, np.uint8), format=codec
    )
    return bytes(store.serialize_cdr(message, FOXGLOVE_VIDEO_TYPE))


def compressed_image(store: Any, header: Any, kind: str, data: bytes) -> bytes:
    """Serialise a compressed image; ``kind`` is ``jpeg``, ``png``, or a packet's codec."""
    message = store.types[COMPRESSED_TYPE](header=header, format=kind, data=np.frombuffer(data, np.uint8))
    return bytes(store.serialize_cdr(message, COMPRESSED_TYPE))


def label_info(store: Any, header: Any, names: Sequence[str], threshold: float) -> bytes:
    """Serialise a ``vision_msgs/LabelInfo``: which class ids there are, and the score cut in force."""
    entry = store.types["vision_msgs/msg/VisionClass"]
    classes = [entry(class_id=index, class_name=name) for index, name in enumerate(names)]
    message = store.types[LABEL_INFO_TYPE](header=header, class_map=classes, threshold=threshold)
    return bytes(store.serialize_cdr(message, LABEL_INFO_TYPE))


def vision_info(store: Any, header: Any, method: str, database: str) -> bytes:
    """Serialise a ``vision_msgs/VisionInfo``: what detects, and where the meaning of the class ids stands."""
    message = store.types[VISION_INFO_TYPE](
        header=header, method=method, database_location=database, database_version=0
    )
    return bytes(store.serialize_cdr(message, VISION_INFO_TYPE))


__all__ = [
    "COMPRESSED_TYPE",
    "DETECTIONS_TYPE",
    "FOXGLOVE_IMAGE_TYPE",
    "FOXGLOVE_VIDEO_TYPE",
    "IMAGE_TYPE",
    "IMAGE_TYPES",
    "LABEL_INFO_TYPE",
    "PACKET_TYPE",
    "VISION_INFO_TYPE",
    "compressed_image",
    "foxglove_packet",
    "frame_from_cdr",
    "from_cdr",
    "header",
    "header_of",
    "image",
    "image_packet",
    "is_depth_topic",
    "label_info",
    "numbered_packet",
    "vision_info",
    "without_depth",
]
