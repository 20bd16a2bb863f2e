"""Which images of a flight are worth a human's look before the next training; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolo_trt_node.boxes import NO_ID, Detections

SAME_PLACE_IOU = 0.5
"""Two boxes that overlap by more are about one object."""
NEIGHBOR_S = 1.0
"""An image further away in time says nothing of what should be in this one."""
# Boxes of a few pixels move by more than their own size from image to image.
_LEAST_REACH_PX = 8.0


@dataclass(frozen=True, eq=False)
class AnsweredImage:
    """An image of the flight that was answered.

    Attributes:
        number: position among all images of the bag that are read.
        topic: its camera's.
        stamp_ns: of its header, nanoseconds.
        log_ns: when it was recorded, nanoseconds.
        height: of the image in pixels.
        width: of the image in pixels.
        found: the boxes in it, clipped to it.
        small: h x w uint8, a small gray copy; of the same size for all images.
    """

    number: int
    topic: str
    stamp_ns: int
    log_ns: int
    height: int
    width: int
    found: Detections
    small: NDArray[np.uint8]


class Reason(NamedTuple):
    """Why an image is worth a look.

    Attributes:
        strength: from 0 to 1.
        text: for people.
    """

    strength: float
    text: str


class ChosenImage(NamedTuple):
    """An image that was chosen.

    Attributes:
        shot: the image.
        score: from 0 to 1, how much it is worth a look.
        why: the reasons, strongest first.
    """

    shot: AnsweredImage
    score: float
    why: tuple[str, ...]


def unsure(found: Detections, names: Sequence[str], sure: float) -> Reason | None:
    """Give the boxes whose scores are low.

    Args:
        found: in one image.
        names: of the classes.
        sure: boxes of this score and above are believed.
    """
    weak = np.flatnonzero(found.scores < sure)
    if not len(weak):
        return None
    doubts = np.clip((sure - found.scores[weak]) / sure, 0, 1)
    worst = weak[np.argmax(doubts)]
    label = names[found.class_ids[worst]]
    text = f"{_count(len(weak))} below {sure:g}, the lowest {label} at {found.scores[worst]:.2f}"
    return Reason(_together(doubts), text)


def contradictory(found: Detections, names: Sequence[str]) -> Reason | None:
    """Give boxes of different classes at one place."""
    first, second = np.nonzero(np.triu(overlaps(found) > SAME_PLACE_IOU, 1))
    other = found.class_ids[first] != found.class_ids[second]
    first, second = first[other], second[other]
    if not len(first):
        return None
    pairs = np.sort(np.stack((found.scores[first], found.scores[second])), axis=0)
    # Two classes that are equally likely contradict each other most.
    strengths = pairs[0] / np.maximum(pairs[1], 1e-9)
    most = int(np.argmax(strengths))
    told = " and ".join(
        f"{names[found.class_ids[index]]} ({found.scores[index]:.2f})"
        for index in (first[most], second[most])
    )
    return Reason(_together(strengths), f"{told} at one place" + _more(len(first)))


def alone(
    before: Detections | None, this: Detections, after: Detections | None, names: Sequence[str]
) -> Reason | None:
    """Give the boxes that neither the image before nor the one after has.

    Args:
        before: in the image before; None where there is none near enough.
        this: in the image itself.
        after: in the image after, likewise.
        names: of the classes.
    """
    if before is None or after is None:
        return None
    lonely = ~(found_again(this, before, unknown=True) | found_again(this, after, unknown=True))
    if not lonely.any():
        return None
    index = int(np.flatnonzero(lonely)[0])
    text = f"{_named(this, index, names)} is in no image beside this one" + _more(int(lonely.sum()))
    return Reason(_together(np.full(int(lonely.sum()), 0.6)), text)


def missing(
    before: Detections | None, this: Detections, after: Detections | None, names: Sequence[str]
) -> Reason | None:
    """Give the boxes that the images before and after have and this one has not; arguments as in `alone`."""
    if before is None or after is None:
        return None
    lost = found_again(before, after, unknown=False) & ~found_again(before, this, unknown=True)
    if not lost.any():
        return None
    index = int(np.flatnonzero(lost)[0])
    text = f"{_named(before, index, names)} is missing between two images that have it"
    return Reason(_together(np.full(int(lost.sum()), 0.7)), text + _more(int(lost.sum())))


def renamed(before: Detections | None, this: Detections, names: Sequence[str]) -> Reason | None:
    """Give the tracks whose class is another than in the image before."""
    if before is None or before.track_ids is None or this.track_ids is None:
        return None
    known = dict(zip(before.track_ids.tolist(), before.class_ids.tolist(), strict=True))
    changed = [
        (number, known[number], class_id)
        for number, class_id in zip(this.track_ids.tolist(), this.class_ids.tolist(), strict=True)
        if number != NO_ID and known.get(number, class_id) != class_id
    ]
    if not changed:
        return None
    number, old, new = changed[0]
    text = f"track {number} was {names[old]} and is {names[new]}" + _more(len(changed))
    return Reason(_together(np.full(len(changed), 0.6)), text)


def found_again(these: Detections, others: Detections, *, unknown: bool) -> NDArray[np.bool_]:
    """Tell for each box whether another image has it too.

    By track id where both sides have ids, else by place: a center nearer than the box is large. Where the
    camera has moved on so far that not one box is at its place, places say nothing.

    Args:
        these: N boxes.
        others: those of the other image.
        unknown: what is said of boxes for which places say nothing.

    Returns:
        N booleans.
    """
    again = np.zeros(len(these), bool)
    tracked = np.zeros(len(these), bool)
    if these.track_ids is not None and others.track_ids is not None and (others.track_ids != NO_ID).any():
        tracked = these.track_ids != NO_ID
        again = tracked & np.isin(these.track_ids, others.track_ids)
    loose = np.flatnonzero(~tracked)
    if not len(loose) or not len(others):
        return again
    apart = np.linalg.norm(these.centers()[loose, None] - others.centers()[None], axis=2)
    reach = np.maximum(np.sqrt(np.prod(these.sizes()[loose], axis=1)), _LEAST_REACH_PX)
    near = apart.min(axis=1) < reach
    again[loose] = near if near.any() or again.any() else unknown
    return again


def overlaps(found: Detections) -> NDArray[np.float64]:
    """Return the boxes' intersections over unions, N x N."""
    boxes = found.boxes.astype(np.float64)
    low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    areas = np.prod(found.sizes(), axis=1)
    return np.asarray(shared / np.maximum(areas[:, None] + areas[None] - shared, 1e-9), np.float64)


def judge(shots: Sequence[AnsweredImage], names: Sequence[str], sure: float) -> list[ChosenImage]:
    """Say of each image of one camera how much it is worth a look, and why.

    Args:
        shots: in the order of time.
        names: of the classes.
        sure: see `unsure`.
    """
    judged = []
    for index, shot in enumerate(shots):
        before = _near(shot, shots[index - 1]) if index else None
        after = _near(shot, shots[index + 1]) if index + 1 < len(shots) else None
        given = (
            unsure(shot.found, names, sure),
            contradictory(shot.found, names),
            alone(before, shot.found, after, names),
            missing(before, shot.found, after, names),
            renamed(before, shot.found, names),
        )
        reasons = sorted((r for r in given if r is not None), key=lambda r: -r.strength)
        score = _together(np.array([r.strength for r in reasons]))
        judged.append(ChosenImage(shot, score, tuple(r.text for r in reasons)))
    return judged


def choose_images(
    judged: Sequence[ChosenImage], most: int, difference: float, *, fill: bool = False
) -> list[ChosenImage]:
    """Choose the images that are worth most, none of them too similar to another of its camera.

    Args:
        judged: all images of all cameras.
        most: at most this many.
        difference: mean difference of two small gray copies, of 255, below which they are too similar.
        fill: fill up with ordinary images, evenly spaced in time.

    Returns:
        The chosen ones in the order of the bag.
    """
    chosen: list[ChosenImage] = []
    seen: dict[str, list[NDArray[np.int16]]] = {}

    def take(candidate: ChosenImage) -> None:
        small = candidate.shot.small.astype(np.int16)
        others = seen.setdefault(candidate.shot.topic, [])
        if not others or min(float(np.abs(small - other).mean()) for other in others) >= difference:
            chosen.append(candidate)
            others.append(small)

    for candidate in sorted(judged, key=lambda c: (-c.score, c.shot.number)):
        if candidate.score <= 0 or len(chosen) >= most:
            break
        take(candidate)
    if fill:
        ordinary = [c._replace(why=("ordinary, to fill up",)) for c in judged if c.score <= 0]
        ordinary.sort(key=lambda c: c.shot.number)
        for index in _spread(len(ordinary)):
            if len(chosen) >= most:
                break
            take(ordinary[index])
    return sorted(chosen, key=lambda c: c.shot.number)


def validation(times_ns: Sequence[int], share: float) -> list[bool]:
    """Say which images are for validation: whole blocks of consecutive ones, so that no twin is in training.

    Args:
        times_ns: of the images, in any order; images of one time stay together.
        share: about how many of them, between 0 and 0.5.
    """
    moments = np.unique(np.array(times_ns, np.int64))
    period = round(1 / share)
    # Two blocks where each then has a few images, so that validation sees more than one part of the flight.
    blocks = min(period * (2 if len(moments) >= 10 * period else 1), len(moments))
    held: set[int] = set()
    for index, block in enumerate(np.array_split(moments, blocks) if blocks else []):
        if index % period == min(period, blocks) // 2:
            held.update(block.tolist())
    return [time in held for time in times_ns]


def _near(shot: AnsweredImage, other: AnsweredImage) -> Detections | None:
    return other.found if abs(shot.stamp_ns - other.stamp_ns) <= NEIGHBOR_S * 1e9 else None


def _spread(count: int) -> list[int]:
    """Return 0 to count - 1 so that the first few, however many, lie evenly: bits in reverse."""
    bits = max(1, (count - 1).bit_length())
    order = (int(f"{index:0{bits}b}"[::-1], 2) for index in range(1 << bits))
    return [index for index in order if index < count]


def _together(strengths: NDArray[np.floating]) -> float:
    """Join strengths to one from 0 to 1 that is never below the strongest."""
    return float(1 - np.prod(1 - np.clip(strengths.astype(np.float64), 0, 1)))


def _named(found: Detections, index: int, names: Sequence[str]) -> str:
    name = names[found.class_ids[index]]
    number = NO_ID if found.track_ids is None else int(found.track_ids[index])
    x, y = found.centers()[index]
    return f"{name} at {x:.0f},{y:.0f}" if number == NO_ID else f"track {number} ({name})"


def _count(number: int) -> str:
    return "1 box" if number == 1 else f"{number} boxes"


def _more(number: int) -> str:
    return f" (and {number - 1} more)" if number > 1 else ""
