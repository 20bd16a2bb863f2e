"""Where a camera's images are read from, and which of them are taken."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image

from yolo_trt_node.images.messages import (
    COMPRESSED_TYPE,
    FOXGLOVE_IMAGE_TYPE,
    FOXGLOVE_VIDEO_TYPE,
    IMAGE_TYPE,
    PACKET_TYPE,
)


def _installed(*type_names: str) -> dict[type, str]:
    """Return the classes of message types and their names, as far as their packages are installed."""
    found = {}
    for package, _, name in (type_name.split("/") for type_name in type_names):
        with suppress(ImportError, AttributeError):
            found[getattr(importlib.import_module(f"{package}.msg"), name)] = f"{package}/msg/{name}"
    return found


TYPE_NAMES: Mapping[type, str] = {
    Image: IMAGE_TYPE,
    CompressedImage: COMPRESSED_TYPE,
    **_installed(FOXGLOVE_IMAGE_TYPE, FOXGLOVE_VIDEO_TYPE, PACKET_TYPE),
}
"""The types of images and video that can be read here, as the graph names them."""

# Where image_transport publishes beside a topic what is no raw image.
_BESIDE = {
    COMPRESSED_TYPE: "compressed",
    FOXGLOVE_IMAGE_TYPE: "compressed",
    FOXGLOVE_VIDEO_TYPE: "foxglove",
    PACKET_TYPE: "ffmpeg",
}
STILL_TYPES = (COMPRESSED_TYPE, FOXGLOVE_IMAGE_TYPE)
VIDEO_TYPES = (PACKET_TYPE, FOXGLOVE_VIDEO_TYPE)


@dataclass(frozen=True)
class ImageSource:
    """Where a camera's images are read from.

    Attributes:
        topic: full name.
        kind: ``Image`` or ``CompressedImage``.
        reliable: whether lost images are to be sent again.
    """

    topic: str
    kind: type
    reliable: bool

    @property
    def reliability(self) -> ReliabilityPolicy:
        """The reliability that the subscription asks for."""
        return ReliabilityPolicy.RELIABLE if self.reliable else ReliabilityPolicy.BEST_EFFORT


def choose_source(
    topic: str,
    transport: str,
    reliability: str,
    offers: Callable[[str], Sequence[tuple[str, bool]]],
    current: ImageSource | None = None,
    gave_up: bool = False,
) -> ImageSource:
    """Choose where to read a camera's images from.

    Where some publishers are reliable and some are not, the reliable ones are read until they prove silent.

    Args:
        topic: the camera's topic.
        transport: ``raw``, ``compressed``, ``video`` or ``auto``.
        reliability: ``reliable``, ``best_effort`` or ``auto``.
        offers: gives (type name, whether reliable) of each publisher of a topic.
        current: what is read now; it stays where nothing is published.
        gave_up: the reliable ones among several publishers have sent nothing.
    """
    compressed = topic if topic.endswith("/compressed") else f"{topic}/compressed"
    raw_choice = (topic, Image)
    kinds = {
        "raw": (),
        "compressed": STILL_TYPES,
        "video": VIDEO_TYPES,
        "auto": (*STILL_TYPES, *VIDEO_TYPES),
    }[transport]
    candidates = [raw_choice] if transport in ("raw", "auto") else []
    for kind, type_name in TYPE_NAMES.items():
        if type_name in kinds:
            end = f"/{_BESIDE[type_name]}"
            beside = topic if topic.endswith(end) else topic + end
            candidates += [(topic, kind), (beside, kind)]
    chosen = None
    for name, kind in candidates:
        found = [reliable for type_name, reliable in offers(name) if type_name == TYPE_NAMES[kind]]
        if found:
            chosen = ImageSource(name, kind, all(found) or (any(found) and not gave_up))
            break
    if chosen is None:
        # Best effort matches every publisher that may come.
        fallback = (compressed, CompressedImage) if transport == "compressed" else raw_choice
        chosen = current or ImageSource(*fallback, False)
    return chosen if reliability == "auto" else replace(chosen, reliable=reliability == "reliable")


class RateLimit:
    """Decides which images are taken where fewer are wanted than come."""

    def __init__(self) -> None:
        """Take the first."""
        self._due_s = 0.0
        self._rate_hz = 0.0
        self._taken_s: float | None = None

    def take(self, now_s: float, rate_hz: float) -> bool:
        """Whether to take the image that came now (steady seconds), at most `rate_hz` of them a second."""
        if rate_hz <= 0:
            self._rate_hz, self._taken_s = rate_hz, now_s
            return True
        period = 1 / rate_hz
        if rate_hz != self._rate_hz:
            # A new rate counts from now on, not when the old one's period is over.
            self._rate_hz = rate_hz
            self._due_s = 0.0 if self._taken_s is None else self._taken_s + period
        # Images do not come on the dot; one that is a little early is not to cost a whole period.
        if now_s < self._due_s - period / 4:
            return False
        self._taken_s = now_s
        # From when it was due, not from now: else 30 Hz thinned to 20 Hz would become 15 Hz.
        self._due_s += period
        if self._due_s <= now_s:
            self._due_s = now_s + period
        return True
