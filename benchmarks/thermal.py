"""What a thermal camera's 16 bits cost in accuracy: the same images as counts and as 8-bit pictures.

    python benchmarks/thermal.py --model hit_uav.onnx --data $UAV_DATA/hit_uav/hit_uav.yaml

Each gray of an 8-bit thermal image becomes a count of centikelvin, a tenth of a kelvin a gray (15 to 40.5
degrees Celsius), and is sent as a radiometric camera sends it: as ``mono16``, in the order of the files. One
and the same model then detects in what the node's reader makes of it, for each ``thermal_range``.

Ends with status 1 where ``auto``, the default, loses more than 2 AP50 points.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.reader import ImageReader

from yolo_compress.data.images import read_image
from yolo_compress.data.labelled import Sample, read_split
from yolo_compress.measure.accuracy import Accuracy, Found, score
from yolo_compress.measure.detector import load_detector

LOWEST_COUNT, COUNTS_A_GRAY = 28815, 10  # centikelvin
FRAME_PERIOD_S = 0.1
MAX_PIXELS = 64_000_000
MOST_POINTS_LOST = 2.0
ORIGINAL = "8-bit original"
RANGES = ("auto", "full", f"{LOWEST_COUNT},{LOWEST_COUNT + 255 * COUNTS_A_GRAY}")


def counts_of(image: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Return an H x W image of centikelvin of an H x W x 3 uint8 gray one."""
    return (LOWEST_COUNT + COUNTS_A_GRAY * image[..., 0].astype(np.uint16)).astype("<u2")


def message_of(counts: NDArray[np.uint16], index: int) -> SimpleNamespace:
    """Return what a camera sends: the fields of a ``sensor_msgs/Image``."""
    height, width = counts.shape
    nanoseconds = round(index * FRAME_PERIOD_S * 1e9)
    stamp = SimpleNamespace(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)
    return SimpleNamespace(
        header=SimpleNamespace(stamp=stamp),
        height=height,
        width=width,
        encoding="mono16",
        is_bigendian=0,
        step=2 * width,
        data=counts.tobytes(),
    )


def frames_of(samples: list[Sample], thermal_range: str) -> Iterator[Frame]:
    """Yield the images as the detector gets them."""
    reader = None if thermal_range == ORIGINAL else ImageReader(MAX_PIXELS, thermal_range)
    for index, sample in enumerate(samples):
        image = read_image(sample.image)
        if reader is None:
            yield Frame.from_bgr(image)
        else:
            ((_, frame),) = reader.read(message_of(counts_of(image), index), None)
            yield frame


def measure(model: Path, data: Path, split: str, threads: int) -> dict[str, tuple[Accuracy, float]]:
    """Return the accuracy, and how many grays an image has at the median, by how the images are sent."""
    samples = list(read_split(data, split).samples)
    detector = load_detector(model, None, threads)
    truths = [sample.truth() for sample in samples]
    results = {}
    for way in (ORIGINAL, *RANGES):
        found, grays = [], []
        for frame in frames_of(samples, way):
            grays.append(len(np.unique(frame.pixels)))
            result = detector.detect([frame])[0]
            boxes = result.boxes.astype(np.float64)
            boxes[:, 2:] -= boxes[:, :2]
            found.append(Found(boxes, result.scores.astype(np.float64), result.class_ids))
        results[way] = score(truths, found, detector.card.names), float(np.median(grays))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="ONNX detector of the set's classes")
    parser.add_argument("--data", type=Path, required=True, help="description of 8-bit thermal images")
    parser.add_argument("--split", default="val")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    results = measure(given.model, given.data, given.split, given.threads)
    original = results[ORIGINAL][0]
    print(f"{given.data.name}, {given.split}: {original.images} images; {given.model.name}")
    print(f"{'sent as':<24}{'grays an image':>16}{'AP50':>8}{'AP':>8}{'AP50 lost, points':>20}")
    lost = {}
    for way, (accuracy, grays) in results.items():
        lost[way] = 100 * ((original.ap50 or 0.0) - (accuracy.ap50 or 0.0))
        name = way if way == ORIGINAL else f"16 bits, {way}"
        print(f"{name:<24}{grays:>16.0f}{accuracy.ap50:>8.3f}{accuracy.ap:>8.3f}{lost[way]:>20.2f}")
    if lost["auto"] > MOST_POINTS_LOST:
        print(f"auto loses more than {MOST_POINTS_LOST:g} points", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
