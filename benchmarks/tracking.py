"""Do identities last? IDF1 and identity switches on generated flights, whose objects are known by number.

First on detections made from the truth (boxes dropped and hidden for a while, jittered, scored low where the
object is half hidden, and false ones added), counted against the objects that were shown to the tracker: what
is lost here is lost by the association alone. With ``--model`` also on that detector's own detections,
counted against all objects. At the end the time an update takes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.detector import Detections, Detector, DetectorOptions
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.tracking import NO_ID, Tracker, TrackerOptions
from yolo_trt_node.tracking.assignment import assign

from aerial_scenes.flight import Flight
from aerial_scenes.scenes import SceneSpec
from aerial_scenes.visdrone import VISDRONE_CLASSES

MATCH_IOU = 0.5
RATES_HZ = (30.0, 10.0, 3.0)
# What the made detections suffer.
DROPPED = 0.1
HIDDEN_PER_S, HIDDEN_S = 0.1, (0.3, 1.2)
JITTER_PX, JITTER_SHARE = 0.5, 0.05
FALSE_PER_FRAME = 2.0
DETECTOR_SCORE = 0.1
BASELINE_IOU = 0.3

Boxes = NDArray[np.float64]
Ids = NDArray[np.int64]
Update = Callable[[Detections, Any, float], Ids]


@dataclass(frozen=True)
class Labelled:
    """Boxes (N x 4, x1 y1 x2 y2) of one frame, their classes (N) and identities (N)."""

    boxes: Boxes
    class_ids: NDArray[np.int32]
    ids: Ids


@dataclass(frozen=True)
class Shot:
    """One frame of a flight: pixels, stamp in seconds, the objects, and how much of each is hidden."""

    image: NDArray[np.uint8]
    stamp_s: float
    truth: Labelled
    occlusions: NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """How well identities last.

    Attributes:
        idf1: identification F1 (Ristani et al. 2016): twice the boxes that the best one-to-one map between
            objects and ids explains, by all boxes of either side.
        switches: how often an object came to bear another id than before.
        objects: objects' boxes counted.
    """

    idf1: float
    switches: int
    objects: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="ONNX detector of VisDrone's ten classes")
    parser.add_argument("--flights", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--size", default="1360x765", help="of the frames, in pixels")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES_HZ, help="frames a second")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    spec = SceneSpec().scaled(width / SceneSpec().width, width=width, height=height)
    print(f"{arguments.flights} flights of {arguments.seconds:g} s, {width}x{height}")
    for rate_hz in arguments.rates:
        frames = max(2, round(arguments.seconds * rate_hz))
        flights = [fly(seed, spec, frames, rate_hz) for seed in range(1, 1 + arguments.flights)]
        made = [spoil(shots, np.random.default_rng(1000 + i)) for i, shots in enumerate(flights)]
        print(f"\n{rate_hz:g} frames a second, detections made from the truth")
        compare(flights, [found for found, _ in made], [shown for _, shown in made])
        if arguments.model:
            options = DetectorOptions(score_threshold=DETECTOR_SCORE, max_batch=1)
            detector = Detector.load(arguments.model, options)
            found = [[detector.detect([shot.image])[0] for shot in shots] for shots in flights]
            print(f"{rate_hz:g} frames a second, {arguments.model.name} from a score of {DETECTOR_SCORE:g}")
            compare(flights, found, [[shot.truth for shot in shots] for shots in flights])
    print_times()


def fly(seed: int, spec: SceneSpec, frames: int, rate_hz: float) -> list[Shot]:
    shots = []
    for frame in Flight(seed, spec, frames, rate_hz):
        seen = [a for a in frame.annotations if a.evaluated]
        boxes = [(a.left, a.top, a.left + a.width, a.top + a.height) for a in seen]
        truth = Labelled(
            np.array(boxes, np.float64).reshape(-1, 4),
            np.array([a.category - 1 for a in seen], np.int32),
            np.array([a.target_id for a in seen], np.int64),
        )
        hidden = np.array([a.occlusion for a in seen], np.int64)
        shots.append(Shot(frame.image, frame.time, truth, hidden))
    return shots


def spoil(shots: Sequence[Shot], rng: np.random.Generator) -> tuple[list[Detections], list[Labelled]]:
    """Make a detector's answers of the truth; return them, and the objects that they show."""
    hidden_until: dict[int, float] = {}
    last_s = shots[0].stamp_s
    found, shown = [], []
    for shot in shots:
        height, width = shot.image.shape[:2]
        truth = shot.truth
        step_s, last_s = shot.stamp_s - last_s, shot.stamp_s
        for target in truth.ids[rng.random(len(truth.ids)) < HIDDEN_PER_S * step_s].tolist():
            hidden_until[target] = shot.stamp_s + rng.uniform(*HIDDEN_S)
        until = np.array([hidden_until.get(target, -1.0) for target in truth.ids.tolist()])
        hidden = until > shot.stamp_s
        kept = np.flatnonzero(~hidden & (rng.random(len(truth.ids)) >= DROPPED))
        boxes = truth.boxes[kept]
        sides = boxes[:, 2:] - boxes[:, :2]
        jitter = JITTER_PX + JITTER_SHARE * np.sqrt(sides.prod(axis=1, keepdims=True))
        boxes = boxes + rng.normal(size=boxes.shape) * jitter / np.sqrt(2)
        # Objects that are mostly hidden score low.
        low, high = rng.uniform(0.25, 0.5, len(kept)), rng.uniform(0.5, 0.95, len(kept))
        scores = np.where(shot.occlusions[kept] > 1, low, high)
        extra = int(rng.poisson(FALSE_PER_FRAME))
        corner = rng.uniform((0, 0), (width, height), (extra, 2))
        false = np.concatenate((corner, corner + rng.uniform(8, 40, (extra, 2))), axis=1)
        boxes = np.concatenate((boxes, false)).clip(0, (width, height, width, height))
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.concatenate((scores, rng.uniform(0.25, 0.6, extra)))
        class_ids = np.concatenate((truth.class_ids[kept], rng.integers(len(VISDRONE_CLASSES), size=extra)))
        order = np.argsort(-scores)
        found.append(
            Detections(
                boxes[order].astype(np.float32),
                scores[order].astype(np.float32),
                class_ids[order].astype(np.int32),
            )
        )
        shown.append(Labelled(truth.boxes[kept], truth.class_ids[kept], truth.ids[kept]))
    return found, shown


def compare(
    flights: Sequence[Sequence[Shot]],
    found: Sequence[Sequence[Detections]],
    wanted: Sequence[Sequence[Labelled]],
) -> None:
    """Print a table: each way of tracking over all flights."""
    ways: dict[str, Callable[[], Update]] = {
        "greedy IoU with the last box": lambda: GreedyIou().update,
        "no camera motion": lambda: Tracker(TrackerOptions(camera_motion=False)).update,
        "camera motion compensated": lambda: Tracker().update,
    }
    print(f"  {'':30s} {'IDF1':>6s} {'switches':>9s} {'object boxes':>14s}")
    for way, make in ways.items():
        explained, boxes, switches, objects = 0.0, 0, 0, 0
        for shots, detections, truth in zip(flights, found, wanted, strict=True):
            update = make()
            tracked = []
            for shot, result in zip(shots, detections, strict=True):
                ids = update(result, shot.image, shot.stamp_s)
                named = ids != NO_ID
                tracked.append(
                    Labelled(result.boxes[named].astype(np.float64), result.class_ids[named], ids[named])
                )
            score = identity_score(truth, tracked)
            count = score.objects + sum(len(labelled.ids) for labelled in tracked)
            explained += score.idf1 * count
            boxes += count
            switches += score.switches
            objects += score.objects
        print(f"  {way:30s} {explained / boxes:6.3f} {switches:9d} {objects:14d}")


class GreedyIou:
    """The baseline: each track's last box, best overlap first, within the class; the same memory."""

    def __init__(self) -> None:
        """Start without tracks."""
        self._boxes, self._ids = np.zeros((0, 4)), np.zeros(0, np.int64)
        self._class_ids, self._seen_s = np.zeros(0, np.int32), np.zeros(0)
        self._next = 1

    def update(self, detections: Detections, image: object, stamp_s: float) -> Ids:
        """Return an id for each detection."""
        boxes = detections.boxes.astype(np.float64)
        overlap = iou(self._boxes, boxes)
        overlap[self._class_ids[:, None] != detections.class_ids] = 0
        ids = np.full(len(boxes), NO_ID, np.int64)
        while overlap.size and overlap.max() >= BASELINE_IOU:
            i, j = np.unravel_index(overlap.argmax(), overlap.shape)
            ids[j] = self._ids[i]
            overlap[i], overlap[:, j] = 0, 0
        new = ids == NO_ID
        ids[new] = range(self._next, self._next + int(new.sum()))
        self._next += int(new.sum())
        kept = ~np.isin(self._ids, ids) & (stamp_s - self._seen_s <= TrackerOptions().memory_s)
        self._boxes = np.concatenate((self._boxes[kept], boxes))
        self._ids = np.concatenate((self._ids[kept], ids))
        self._class_ids = np.concatenate((self._class_ids[kept], detections.class_ids))
        self._seen_s = np.concatenate((self._seen_s[kept], np.full(len(boxes), stamp_s)))
        return ids


def identity_score(truth: Sequence[Labelled], tracked: Sequence[Labelled]) -> Score:
    """Compare identities over a sequence; boxes of a class are of one object from `MATCH_IOU` on."""
    objects = np.unique(np.concatenate([labelled.ids for labelled in truth]))
    names = np.unique(np.concatenate([labelled.ids for labelled in tracked]))
    together = np.zeros((len(objects), len(names)))
    bears: dict[int, int] = {}
    switches = 0
    for real, given in zip(truth, tracked, strict=True):
        overlap = iou(real.boxes, given.boxes)
        overlap[real.class_ids[:, None] != given.class_ids] = 0
        i, j = np.nonzero(overlap >= MATCH_IOU)
        np.add.at(together, (np.searchsorted(objects, real.ids[i]), np.searchsorted(names, given.ids[j])), 1)
        # An object keeps its id as long as that is possible (CLEAR MOT): one unit is more than any overlap.
        kept = np.array([bears.get(target, -1) for target in real.ids.tolist()])[:, None] == given.ids
        cost = np.where(overlap >= MATCH_IOU, 1 - overlap - kept, np.inf)
        for row, column in zip(*assign(cost, 1.0), strict=True):
            target, name = int(real.ids[row]), int(given.ids[column])
            switches += bears.get(target, name) != name
            bears[target] = name
    # Most frames together is least cost; a pair that never met costs the same as none.
    i, j = assign(-together, 0.0)
    boxes = sum(len(labelled.ids) for labelled in truth)
    given_boxes = sum(len(labelled.ids) for labelled in tracked)
    return Score(float(2 * together[i, j].sum() / max(1, boxes + given_boxes)), switches, boxes)


def iou(a: Boxes, b: Boxes) -> Boxes:
    """Return the intersection over union of N with M boxes (x1 y1 x2 y2), N x M."""
    low = np.maximum(a[:, None, :2], b[:, :2])
    high = np.minimum(a[:, None, 2:], b[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=2)
    areas = (a[:, 2:] - a[:, :2]).prod(axis=1)[:, None] + (b[:, 2:] - b[:, :2]).prod(axis=1)
    return shared / np.maximum(areas - shared, 1e-9)


def print_times(boxes: int = 300, rounds: int = 60) -> None:
    """Print what an update takes, with many boxes and a large frame."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (68, 120, 3), np.uint8)
    picture = cv2.resize(picture, (2000, 1160), interpolation=cv2.INTER_CUBIC)
    center = rng.uniform((20, 20), (1900, 1060), (boxes, 2))
    class_ids = rng.integers(3, size=boxes).astype(np.int32)
    velocity = rng.normal(0, 60, (boxes, 2))
    print(f"\nmilliseconds an update, {boxes} boxes, 1920x1080 (median of {rounds}):")
    for name, camera_motion in (("association alone", False), ("with camera motion", True)):
        tracker = Tracker(TrackerOptions(camera_motion=camera_motion))
        seconds = []
        for index in range(rounds):
            moved = center + velocity * index / 30 + rng.normal(0, 0.5, (boxes, 2))
            found = Detections(
                np.concatenate((moved - 10, moved + 10), axis=1).astype(np.float32),
                np.full(boxes, 0.9, np.float32),
                class_ids,
            )
            frame = Frame.from_bgr(picture[index % 60 : index % 60 + 1080, index % 60 : index % 60 + 1920])
            start = time.perf_counter()
            tracker.update(found, frame, index / 30)
            seconds.append(time.perf_counter() - start)
        print(f"  {name:22s} {1e3 * statistics.median(seconds):6.2f}")


if __name__ == "__main__":
    main()
