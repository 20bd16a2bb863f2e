"""16-bit images of thermal cameras: which of the 65,536 counts become the 256 grays that a detector reads."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.images.encodings import full_range

AUTO_RANGE = "auto"
FULL = "full"

# Shares of the pixels left black and white. A scene's few hottest pixels (an engine, the sun's glint) would
# else take the contrast of all the others; people are far more pixels than this even from high above.
_BLACK, _WHITE = 0.001, 0.999
# Beyond them, as a share of the range between: a person who walks into the picture is not white at once.
_ROOM = 0.05
# A scene of one temperature is not stretched until its noise fills the picture.
_LEAST_COUNTS = 32
# How fast the range follows the scene: faster flickers, slower is blind after the camera has turned.
_FOLLOW_S = 2.0
# After a pause as long as this nothing is known of the scene. Without stamps a frame counts as this long.
_FORGET_S = 5.0
_STEP_S = 1 / 30
_SAMPLE = 2


class ThermalRange:
    """Stretches one camera's 16-bit images to 8 bits. Not thread-safe.

    Attributes:
        setting: ``auto``, ``full`` or ``LOW,HIGH`` in counts.
        low: the count that becomes black; it follows the images where the setting is ``auto``.
        high: the count that becomes white.
        used: whether there was an image of 16 bits.
    """

    def __init__(self, setting: str = AUTO_RANGE) -> None:
        """Take a setting.

        Raises:
            ValueError: it is none.
        """
        self.setting = setting.strip().strip("[]") if setting not in (AUTO_RANGE, FULL) else setting
        self.low, self.high = 0.0, 65535.0
        self.used = False
        self._stamp_s: float | None = None
        self._table: tuple[tuple[int, int], NDArray[np.uint8]] | None = None
        if self.setting not in (AUTO_RANGE, FULL):
            self.low, self.high = _limits(setting, self.setting)

    def to_8_bits(self, values: NDArray[np.uint16], stamp_s: float | None = None) -> NDArray[np.uint8]:
        """Return an H x W uint8 image of H x W uint16 counts.

        Args:
            values: the image.
            stamp_s: the image's stamp in seconds, by which ``auto`` follows the scene; None where unknown.
        """
        self.used = True
        if self.setting == FULL:
            return full_range(values)
        if self.setting == AUTO_RANGE:
            self._follow(values, stamp_s)
        limits = math.floor(self.low), math.ceil(self.high)
        if self._table is None or self._table[0] != limits:
            low, high = limits
            grays = (np.arange(65536) - low) * (255 / max(1, high - low))
            self._table = limits, np.rint(grays.clip(0, 255)).astype(np.uint8)
        return self._table[1][values]

    def __str__(self) -> str:
        """Say which counts become black and white."""
        limits = f"counts {self.low:.0f} to {self.high:.0f}"
        return f"{limits} become black to white (thermal_range: {self.setting})"

    def _follow(self, values: NDArray[np.uint16], stamp_s: float | None) -> None:
        low, high = _range_of(values)
        last, self._stamp_s = self._stamp_s, stamp_s
        first = self._table is None
        step_s = _STEP_S if stamp_s is None or last is None else stamp_s - last
        # A scene beside the range in force is another one (the camera recalibrated itself, or was turned).
        elsewhere = low >= self.high or high <= self.low
        if first or elsewhere or not 0 <= step_s < _FORGET_S:
            self.low, self.high = low, high
            return
        weight = 1 - math.exp(-step_s / _FOLLOW_S)
        self.low += weight * (low - self.low)
        self.high += weight * (high - self.high)


def _limits(given: str, inner: str) -> tuple[float, float]:
    parts = inner.split(",")
    try:
        low, high = (float(part) for part in parts)
    except ValueError:
        raise ValueError(f"thermal_range is {given!r}; use auto, full or [LOW, HIGH] in counts") from None
    if not 0 <= low < high <= 65535:
        raise ValueError(f"thermal_range is {given!r}; its limits lie between 0 and 65535, the lower first")
    return low, high


def _range_of(values: NDArray[np.uint16]) -> tuple[float, float]:
    """Return the counts between which a scene lies."""
    sample = values[::_SAMPLE, ::_SAMPLE]
    below = np.cumsum(np.bincount(sample.reshape(-1), minlength=65536))
    low, high = np.searchsorted(below, (_BLACK * below[-1], _WHITE * below[-1]), side="left").tolist()
    room = max(_ROOM * (high - low), (_LEAST_COUNTS - (high - low)) / 2)
    return max(0.0, low - room), min(65535.0, high + room)
