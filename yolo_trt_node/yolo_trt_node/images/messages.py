"""From image messages to frames that the detector reads."""

from __future__ import annotations

from typing import Any, Protocol, cast

import cv2
import numpy as np

from yolo_trt_node.images import compressed
from yolo_trt_node.images.encodings import ENCODINGS, values_16_bit
from yolo_trt_node.images.errors import ImageError, shown
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.thermal import FULL, ThermalRange


class ImageMessage(Protocol):
    """The fields of ``sensor_msgs/Image`` that are read here."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: Any


IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
FOXGLOVE_IMAGE_TYPE = "foxglove_msgs/msg/CompressedImage"
FOXGLOVE_VIDEO_TYPE = "foxglove_msgs/msg/CompressedVideo"
PACKET_TYPE = "ffmpeg_image_transport_msgs/msg/FFMPEGPacket"
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE, FOXGLOVE_IMAGE_TYPE, FOXGLOVE_VIDEO_TYPE, PACKET_TYPE)
"""The messages that hold an image, or a part of a video."""

DEPTH_ENCODINGS = ("32FC1", "64FC1")
"""What only depth cameras send: distances as floating-point numbers."""


def is_depth(topic: str, encoding: str) -> bool:
    """Tell whether images are distances, in which no detector finds anything.

    Args:
        topic: where they are published; of 16-bit images it tells depth from thermal.
        encoding: of the raw images, or the format of the compressed ones.
    """
    if "compressedDepth" in topic or "compressedDepth" in encoding:
        return True
    name = encoding.partition(";")[0].strip()
    words = topic.lower().replace("/", "_").split("_")
    return name in DEPTH_ENCODINGS or (name in ("16UC1", "mono16") and "depth" in words)


def frame_from_message(
    message: ImageMessage | compressed.CompressedMessage,
    max_pixels: int,
    thermal: ThermalRange | None = None,
) -> Frame:
    """Read a raw or compressed image message.

    Args:
        message: ``sensor_msgs/Image``, ``sensor_msgs/CompressedImage`` or ``foxglove_msgs/CompressedImage``.
        max_pixels: compressed images with more are refused.
        thermal: how 16-bit counts become grays; by default each 256 of the 65,536 are one.

    Raises:
        ImageError: it cannot be read.
    """
    thermal = thermal or ThermalRange(FULL)
    if hasattr(message, "format"):
        coded = cast(compressed.CompressedMessage, message)
        return compressed.decode(coded.data, coded.format, max_pixels, thermal, stamp_s(message))
    return raw_frame(message, thermal)


def stamp_s(message: Any) -> float | None:
    """Return a message's stamp in seconds; None where it has none."""
    stamp = getattr(getattr(message, "header", None), "stamp", None) or getattr(message, "timestamp", None)
    if stamp is None:
        return None
    # foxglove's messages in a bag may be of a library that names the fields in ROS 1's way.
    nanoseconds = getattr(stamp, "nanosec", None)
    return float(stamp.sec + (getattr(stamp, "nsec", 0) if nanoseconds is None else nanoseconds) * 1e-9)


def raw_frame(message: ImageMessage, thermal: ThermalRange | None = None) -> Frame:
    """Return a raw image message's pixels.

    Args:
        message: a ``sensor_msgs/Image``; rows may be padded (``step``). For nv12, nv21, nv24 and i420 the
            height is the image's, and the rows of chroma follow.
        thermal: as in `frame_from_message`.

    Returns:
        The frame. For the native encodings it is a view of the message's own data; 16-bit counts are
        stretched to mono8, others converted to BGR.

    Raises:
        ImageError: the encoding is not supported, or its fields do not fit each other.
    """
    name, height, width, step = message.encoding, message.height, message.width, message.step
    size = len(message.data)
    if not height or not width:
        raise ImageError("empty image", f"{width} x {height} pixels, {size} bytes; look at the camera driver")
    if name in DEPTH_ENCODINGS:
        raise ImageError("depth image", f"{name} holds distances; choose a color or thermal topic")
    encoding = ENCODINGS.get(name)
    if encoding is None:
        return _through_cv_bridge(message)
    row = width * encoding.pixel_bytes
    if step < row:
        raise ImageError(
            "corrupt image",
            f"step {step} is less than the {row} bytes of a row of {width} pixels in {name}; the publisher "
            "fills step or encoding wrongly",
        )
    for side, length in (("width", width), ("height", height)):
        if side in encoding.even and length % 2:
            raise ImageError(
                "corrupt image",
                f"{width} x {height} pixels in {name}, whose {side} is even: neighbours share their colour; "
                "the publisher fills width, height or encoding wrongly",
            )
    if min(width, height) < encoding.least:
        raise ImageError(
            "corrupt image",
            f"{width} x {height} pixels in {name}: colours cannot be told from fewer than {encoding.least} "
            "rows and columns",
        )
    if encoding.even_step and step % 2:
        raise ImageError(
            "corrupt image", f"step {step} in {name} is even: that of its colour planes is half of it"
        )
    rows = encoding.rows(height)
    if size != step * rows:
        raise ImageError(
            "corrupt image",
            f"{size} bytes of data, but {rows} rows of step {step} make {step * rows}; the publisher fills "
            "step, height or data wrongly",
        )
    data = np.frombuffer(memoryview(message.data), np.uint8).reshape(rows, step)
    if encoding.native:
        return Frame(data, height, width, encoding.native, step)
    big = bool(message.is_bigendian)
    if encoding.counts:
        grays = (thermal or ThermalRange(FULL)).to_8_bits(values_16_bit(data, width, big), stamp_s(message))
        return Frame(grays, height, width, "mono8", width)
    try:
        return Frame.from_bgr(encoding.to_bgr(data, height, width, big))
    except cv2.error as error:
        raise ImageError(
            "unreadable image", f"OpenCV cannot convert {width} x {height} pixels in {name}: {error.err}"
        ) from error


def _through_cv_bridge(message: ImageMessage) -> Frame:
    """Read an encoding that is not ours with cv_bridge, where it is installed."""
    try:
        from cv_bridge import CvBridge
    except Exception as error:  # one built for another NumPy raises whatever it likes
        raise ImageError(
            "unsupported encoding",
            f"{shown(message.encoding)}; supported are {', '.join(ENCODINGS)}, and more where cv_bridge is "
            f"installed (here: {error}). Change the camera driver's encoding, or convert with image_proc",
        ) from error
    size, needed = len(message.data), message.step * message.height
    if size != needed:
        raise ImageError(
            "corrupt image",
            f"{size} bytes of data, but {message.height} rows of step {message.step} make {needed}",
        )
    try:
        pixels = np.asarray(CvBridge().imgmsg_to_cv2(message, "bgr8"))
        return Frame.from_bgr(pixels)
    except Exception as error:
        raise ImageError(
            "unsupported encoding",
            f"{shown(message.encoding)}: cv_bridge cannot convert it to bgr8 ({error}); without it, "
            f"supported are {', '.join(ENCODINGS)}",
        ) from error
