"""What tiles find that the plain pass misses, what they cost, and what a square input costs and brings.

With ``UAV_DATA`` (real aerial images and weights) it measures on those; otherwise on generated scenes, with a
model trained on such (``--model``; `make demo` leaves one at ``demo/run/model.onnx``).

Accuracy first, on every image. Then time, on a few images, every way of looking in turn on each: times of one
turn are compared, never times of different moments.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.detector import Detections, Detector, DetectorOptions

from aerial_scenes.scenes import SceneSpec, render_scene
from aerial_scenes.visdrone import VISDRONE_CLASSES
from yolo_compress.data.labelled import GroundTruth
from yolo_compress.demo import real
from yolo_compress.demo.flight import DemoFrame, truth_of
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Found, score
from yolo_compress.measure.detector import MAX_DETECTIONS

INPUT_SIZE = 640
# The precision-recall curve is cut here: nine views keep nine times the boxes of one.
SCORE_FLOOR = 0.01
MATCH_IOU = 0.5
SIZES = {"<16": (0, 16), "16-32": (16, 32), "32-96": (32, 96), ">96": (96, float("inf"))}
WAYS = {
    "plain": DetectorOptions(),
    "plain, square input": DetectorOptions(input_shape="square"),
    "2x2 tiles": DetectorOptions(tiling="2x2"),
    "2x3 tiles": DetectorOptions(tiling="2x3"),
    "tiles, auto": DetectorOptions(tiling="auto"),
    "tiles, auto, one batch": DetectorOptions(tiling="auto", max_batch=64),
}
GENERATED_SCENES = 12
TIMED_IMAGES, ROUNDS = 3, 2
FRAME_SIZES = ((720, 1280), (1080, 1920), (2160, 3840), (2250, 4000))


@dataclass(frozen=True)
class ImageSet:
    """Images with their truth, and the classes that are labelled in them."""

    name: str
    shots: list[DemoFrame]
    class_ids: frozenset[int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="ONNX detector of VisDrone's ten classes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, help="at most so many images of each set")
    arguments = parser.parse_args()
    root = os.environ.get("UAV_DATA")
    with tempfile.TemporaryDirectory() as folder:
        model = arguments.model
        if root and model is None:
            model = Path(folder) / "model.onnx"
            export(real.checkpoint(Path(root)), model)
        if model is None:
            parser.error(
                "without UAV_DATA there are no weights: give a model trained on generated scenes with "
                "--model (`make demo` leaves one at demo/run/model.onnx)"
            )
        sets = real_sets(Path(root)) if root else [generated_set()]
        print(f"model {model.name if arguments.model else real.CHECKPOINT.name}, {arguments.threads} threads")
        if not root:
            print("UAV_DATA is not set: generated scenes")
        print_work(model)
        times: dict[tuple[int, ...], dict[str, float]] = {}
        for images in sets:
            images = replace(images, shots=images.shots[: arguments.images])
            size = images.shots[0].image.shape
            if size not in times:
                times[size] = time_ratios(model, images.shots, arguments.threads)
            measure(model, images, arguments.threads, times[size])


def export(checkpoint: Path, model: Path) -> None:
    """Export in a process of its own: torch's threads must not stand beside the ones measured."""
    code = "import sys; from yolo_compress.cli import main; sys.argv[0] = 'yolo-compress'; main()"
    command = (sys.executable, "-c", code, "export", checkpoint, "--output", model)
    subprocess.run(
        [*map(str, command), "--input-size", str(INPUT_SIZE)], check=True, stdout=subprocess.DEVNULL
    )


def real_sets(root: Path) -> list[ImageSet]:
    sets: dict[str, list[DemoFrame]] = {}
    for path, shot in zip(real.image_paths(root), real.shots(root), strict=True):
        source = path.relative_to(root).parts
        if source[0] == "visdrone":
            name = "VisDrone " + ("train (seen in training)" if source[1] == "train" else "val and test-dev")
        else:
            name = "aerial_cars"
        height, width = shot.image.shape[:2]
        if max(height, width) > 1300:  # the others hardly shrink at 640
            sets.setdefault(f"{name}, {width}x{height}", []).append(shot)
    translated = frozenset(VISDRONE_CLASSES.index(name) for name in real.TRANSLATED.values())
    every = frozenset(range(len(VISDRONE_CLASSES)))
    return [
        ImageSet(name, shots, translated if name.startswith("aerial_cars") else every)
        for name, shots in sets.items()
    ]


def generated_set() -> ImageSet:
    spec = SceneSpec().scaled(1920 / SceneSpec().width)
    shots = []
    for seed in range(GENERATED_SCENES):
        scene = render_scene(10_000 + seed, spec)
        shots.append(DemoFrame(scene.image, truth_of(scene.annotations), ()))
    return ImageSet("generated scenes, 1920x1080", shots, frozenset(range(len(VISDRONE_CLASSES))))


def print_work(model: Path) -> None:
    """Print how many views an image takes, and the network pixels to compute against the plain pass."""
    print("\nviews, and network pixels to compute against the plain pass:")
    print(f"{'frame':>12s}" + "".join(f"{way:>22s}" for way in WAYS if "batch" not in way))
    detectors = [Detector.load(model, options) for way, options in WAYS.items() if "batch" not in way]
    for height, width in FRAME_SIZES:
        plans = [detector.views(height, width) for detector in detectors]
        cells = [f"{len(p.windows):3d} ({p.pixels / plans[0].pixels:.1f})" for p in plans]
        print(f"{width:7d}x{height:4d}" + "".join(f"{cell:>22s}" for cell in cells))


def measure(model: Path, images: ImageSet, threads: int, times: dict[str, float]) -> None:
    """Print a table for images of one size, with the times of that size."""
    truths = [shot.truth for shot in images.shots]
    print(f"\n{images.name}: {len(images.shots)} images, {sum(len(t.boxes) for t in truths)} objects")
    print(
        f"{'':22s}  {'recall by size in pixels':31s} {'preci-':>7s} {'found':>6s} {'AP50':>6s} {'AP50':>6s} "
        f"{'APs':>6s} {'time':>9s}\n{'':22s}"
        + "".join(f"{name:>7s}" for name in SIZES)
        + f"{'<32':>7s} {'sion':>6s} {'twice':>6s} {'':6s} {'<32':>6s} {'':6s} {'/ plain':>9s}"
    )
    for way, options in WAYS.items():
        if "batch" in way:
            print(f"{way:22s}{'(the same boxes)':>45s}{times[way]:38.2f}")
            continue
        changes = {"score_threshold": SCORE_FLOOR, "max_det": MAX_DETECTIONS, "threads": threads}
        detector = Detector.load(model, replace(options, **changes))
        threshold = detector.card.score_threshold
        found = [only(images.class_ids, detector.detect([shot.image])[0]) for shot in images.shots]
        accuracy = score(truths, list(map(as_found, found)), VISDRONE_CLASSES)
        small = score([small_only(t) for t in truths], list(map(as_found, found)), VISDRONE_CLASSES)
        counts = count(truths, [above(threshold, result) for result in found])
        recall = [counts.recall(*SIZES[name]) for name in SIZES] + [counts.recall(0, 32)]
        print(
            f"{way:22s}"
            + "".join(f"{value:7.3f}" for value in recall)
            + f" {counts.precision:6.3f} {counts.twice:6.3f} {number(accuracy.ap50)} {number(small.ap50)} "
            f"{number(accuracy.ap_small)} {times[way]:9.2f}"
        )
    bins = Counts([t.boxes for t in truths], [np.zeros(len(t.boxes), bool) for t in truths], 0, 0, 0)
    print(
        f"{'objects':22s}" + "".join(f"{bins.objects(*limits):7d}" for limits in (*SIZES.values(), (0, 32)))
    )


def number(value: float | None) -> str:
    return "     -" if value is None else f"{value:6.3f}"


def time_ratios(model: Path, shots: Sequence[DemoFrame], threads: int) -> dict[str, float]:
    """Return each way's time as a share of the plain pass's, the median over images and rounds."""
    detectors = {
        way: Detector.load(model, replace(options, threads=threads)) for way, options in WAYS.items()
    }
    ratios: dict[str, list[float]] = {way: [] for way in WAYS}
    for round_ in range(1 + ROUNDS):
        for shot in shots[:: max(1, len(shots) // TIMED_IMAGES)][:TIMED_IMAGES]:
            seconds = {
                way: sum(detector.detect([shot.image])[0].timing.values())
                for way, detector in detectors.items()
            }
            if round_:  # the first one warms up
                for way, value in seconds.items():
                    ratios[way].append(value / seconds["plain"])
    return {way: statistics.median(values) for way, values in ratios.items()}


def only(class_ids: Iterable[int], found: Detections) -> Detections:
    """Leave out classes that the set's labels do not know, right or wrong."""
    return pick(found, np.isin(found.class_ids, list(class_ids)))


def above(threshold: float, found: Detections) -> Detections:
    return pick(found, found.scores > threshold)


def pick(found: Detections, wanted: NDArray[np.bool_]) -> Detections:
    return Detections(found.boxes[wanted], found.scores[wanted], found.class_ids[wanted])


def as_found(found: Detections) -> Found:
    boxes = found.boxes.astype(np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return Found(boxes, found.scores.astype(np.float64), found.class_ids.astype(np.int64))


def small_only(truth: GroundTruth) -> GroundTruth:
    """Let only COCO's small objects count."""
    small = truth.boxes[:, 2] * truth.boxes[:, 3] < 32**2
    counted = small if truth.counted is None else small & truth.counted
    return GroundTruth(truth.boxes, truth.class_ids, truth.ignored, counted)


@dataclass(frozen=True)
class Counts:
    """What was found at the model's own score threshold.

    Attributes:
        boxes: of each image, N x 4 (left, top, width, height), what was there.
        hit: of each image, N booleans, whether it was found.
        right: boxes that found an object.
        wrong: boxes that found nothing, outside ignored regions.
        doubles: those of them on an object that had been found already.
    """

    boxes: list[NDArray[np.float64]]
    hit: list[NDArray[np.bool_]]
    right: int
    wrong: int
    doubles: int

    def _of_size(self, low: float, high: float) -> Iterator[NDArray[np.bool_]]:
        for boxes in self.boxes:
            size = np.sqrt(boxes[:, 2] * boxes[:, 3])
            yield (size >= low) & (size < high)

    def objects(self, low: float, high: float) -> int:
        """Return how many objects have a size (root of the area, pixels) from low to high."""
        return sum(int(wanted.sum()) for wanted in self._of_size(low, high))

    def recall(self, low: float, high: float) -> float:
        """Return the share of them that was found."""
        found = sum(
            int(h[wanted].sum()) for h, wanted in zip(self.hit, self._of_size(low, high), strict=True)
        )
        return found / self.objects(low, high) if self.objects(low, high) else float("nan")

    @property
    def precision(self) -> float:
        """Share of the boxes that found an object."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def twice(self) -> float:
        """Share of the boxes that are on an object found already."""
        return self.doubles / max(1, self.right + self.wrong)


def count(truths: Sequence[GroundTruth], found: Sequence[Detections]) -> Counts:
    """Match boxes to objects of their class, best score first, each to one object at most."""
    hits, right, wrong, doubles = [], 0, 0, 0
    for truth, result in zip(truths, found, strict=True):
        hit = np.zeros(len(truth.boxes), bool)
        for box, class_id in zip(result.boxes, result.class_ids, strict=True):
            shared, area, areas = intersection(box, truth.boxes)
            iou = np.where(truth.class_ids == class_id, shared / (area + areas - shared), 0)
            free = np.where(hit, 0, iou)
            if free.max(initial=0) >= MATCH_IOU:
                hit[free.argmax()] = True
                right += 1
            elif intersection(box, truth.ignored)[0].max(initial=0) < MATCH_IOU * area:
                wrong += 1
                doubles += bool(iou.max(initial=0) >= MATCH_IOU)
        hits.append(hit)
    return Counts([truth.boxes for truth in truths], hits, right, wrong, doubles)


def intersection(
    box: NDArray[np.float32], others: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Return what a box (x1 y1 x2 y2) shares with others (left top width height), its area, and theirs."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, :2] + others[:, 2:])
    shared = (high - low).clip(min=0).prod(axis=1)
    return shared, float((box[2:] - box[:2]).prod()), others[:, 2:].prod(axis=1)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
