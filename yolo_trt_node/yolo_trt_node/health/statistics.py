"""What becomes of a camera's images: counted where it happens, read once a period."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

# A fuzzed camera gives a new reason with every image; beyond this many, they are counted together.
REASONS_KEPT = 8
OTHER_REASONS = "other reasons"
VIDEO_DELAY = "video delay"
"""The stage of a video's packet from its arrival until its frame is there, waiting for others included."""


@dataclass(frozen=True)
class TrafficWindow:
    """What happened to one camera's images in a span of time. Windows that follow each other can be added.

    Attributes:
        duration_s: length of the span, by a steady clock.
        received: images that came.
        lost: images that the middleware lost on the way, as far as it tells.
        dropped: images displaced by a newer one before their turn.
        skipped: images left out on purpose, by reason.
        unreadable: images that could not be used, by reason.
        published: images answered.
        boxes: boxes in those answers.
        ages_s: age of each answered image (its stamp against the node's clock) when its answer went out; none
            of images whose stamp is zero.
        timing: seconds that each stage took, for each answered image.
        longest_gap_s: longest time without an image, between two of them or up to the end of the span; it may
            have begun before the span.
        silent_s: seconds from the last image ever to the end of the span; ``None`` before the first one.
        stamp_s: the newest image's stamp, seconds; ``None`` before the first one.
        stamps_repeated: images with the very stamp of the image before.
        stamps_backwards: images with an older stamp than the image before.
    """

    duration_s: float = 0.0
    received: int = 0
    lost: int = 0
    dropped: int = 0
    skipped: Mapping[str, int] = field(default_factory=dict)
    unreadable: Mapping[str, int] = field(default_factory=dict)
    published: int = 0
    boxes: int = 0
    ages_s: tuple[float, ...] = ()
    timing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    longest_gap_s: float = 0.0
    silent_s: float | None = None
    stamp_s: float | None = None
    stamps_repeated: int = 0
    stamps_backwards: int = 0

    def __add__(self, later: TrafficWindow) -> TrafficWindow:
        """Join two spans of which `later` follows this one."""
        return TrafficWindow(
            duration_s=self.duration_s + later.duration_s,
            received=self.received + later.received,
            lost=self.lost + later.lost,
            dropped=self.dropped + later.dropped,
            skipped=Counter(self.skipped) + Counter(later.skipped),
            unreadable=Counter(self.unreadable) + Counter(later.unreadable),
            published=self.published + later.published,
            boxes=self.boxes + later.boxes,
            ages_s=self.ages_s + later.ages_s,
            timing={
                stage: self.timing.get(stage, ()) + later.timing.get(stage, ())
                for stage in {**self.timing, **later.timing}
            },
            longest_gap_s=max(self.longest_gap_s, later.longest_gap_s),
            silent_s=later.silent_s,
            stamp_s=later.stamp_s,
            stamps_repeated=self.stamps_repeated + later.stamps_repeated,
            stamps_backwards=self.stamps_backwards + later.stamps_backwards,
        )

    @property
    def input_hz(self) -> float:
        """Images that came, a second."""
        return self.received / self.duration_s if self.duration_s else 0.0

    @property
    def output_hz(self) -> float:
        """Images answered, a second."""
        return self.published / self.duration_s if self.duration_s else 0.0

    def age_s(self, percent: float) -> float | None:
        """Percentile of the age at publication; ``None`` where nothing was answered."""
        return float(np.percentile(self.ages_s, percent)) if self.ages_s else None

    def stage_s(self, stage: str, percent: float = 50) -> float | None:
        """Percentile of a stage's time; ``None`` where no answered image went through that stage."""
        times = self.timing.get(stage)
        return float(np.percentile(times, percent)) if times else None


class CameraStatistics:
    """Counts what becomes of one camera's images; every method may be called from any thread.

    Attributes:
        source_changes: how often `restart` was called.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first window; `clock` gives steady seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._last_input_s: float | None = None
        self._stamp_s: float | None = None
        self._created_s = clock()
        self.source_changes = 0
        self._start(self._created_s)

    def restart(self) -> None:
        """Begin anew: the images come from another source now, and the old one's losses are not its own."""
        with self._lock:
            self._last_input_s = self._stamp_s = None
            self._created_s = self._clock()
            self.source_changes += 1
            self._start(self._created_s)

    def _start(self, now_s: float) -> None:
        self._started_s = now_s
        self._received = self._lost = self._dropped = self._published = self._boxes = 0
        self._repeated = self._backwards = 0
        self._skipped: Counter[str] = Counter()
        self._unreadable: Counter[str] = Counter()
        self._ages_s: list[float] = []
        self._timing: dict[str, list[float]] = {}
        self._longest_gap_s = 0.0

    def received(self, stamp_s: float) -> None:
        """Count an image that came, with its header's stamp in seconds."""
        with self._lock:
            now_s = self._clock()
            self._received += 1
            if self._last_input_s is not None:
                self._longest_gap_s = max(self._longest_gap_s, now_s - self._last_input_s)
            self._last_input_s = now_s
            if self._stamp_s is not None:
                self._repeated += stamp_s == self._stamp_s
                self._backwards += stamp_s < self._stamp_s
            self._stamp_s = stamp_s

    def lost(self, images: int) -> None:
        """Count images that the middleware says it has lost (the subscription's message-lost event)."""
        with self._lock:
            self._lost += images

    def dropped(self) -> None:
        """Count an image displaced by a newer one."""
        with self._lock:
            self._dropped += 1

    def skipped(self, reason: str) -> None:
        """Count an image left out on purpose."""
        with self._lock:
            _count(self._skipped, reason)

    def unreadable(self, reason: str) -> None:
        """Count an image that could not be used."""
        with self._lock:
            _count(self._unreadable, reason)

    def published(self, age_s: float | None, timing: Mapping[str, float], boxes: int) -> None:
        """Count an answer.

        Args:
            age_s: seconds from the image's stamp to now, by the node's clock; ``None`` where it has no stamp.
            timing: seconds that each stage took.
            boxes: how many boxes were found.
        """
        with self._lock:
            self._published += 1
            self._boxes += boxes
            if age_s is not None:
                self._ages_s.append(age_s)
            for stage, seconds in timing.items():
                self._timing.setdefault(stage, []).append(seconds)

    def window(self) -> TrafficWindow:
        """Return what happened since the last call, and start anew."""
        with self._lock:
            now_s = self._clock()
            silent_s = None if self._last_input_s is None else now_s - self._last_input_s
            # A silence that goes on at the end of the window counts too, from the beginning if need be.
            gap_s = now_s - self._created_s if silent_s is None else silent_s
            window = TrafficWindow(
                duration_s=now_s - self._started_s,
                received=self._received,
                lost=self._lost,
                dropped=self._dropped,
                skipped=dict(self._skipped),
                unreadable=dict(self._unreadable),
                published=self._published,
                boxes=self._boxes,
                ages_s=tuple(self._ages_s),
                timing={stage: tuple(times) for stage, times in self._timing.items()},
                longest_gap_s=max(self._longest_gap_s, gap_s),
                silent_s=silent_s,
                stamp_s=self._stamp_s,
                stamps_repeated=self._repeated,
                stamps_backwards=self._backwards,
            )
            self._start(now_s)
        return window


def _count(reasons: Counter[str], reason: str) -> None:
    reasons[reason if reason in reasons or len(reasons) < REASONS_KEPT else OTHER_REASONS] += 1
