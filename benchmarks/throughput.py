"""How near ``bag_detect`` comes to the bare backend: ``python benchmarks/throughput.py model.onnx``.

A bag of 1920x1080 images is detected in from beginning to end (load, read, pre-process, infer, journal,
write), and in turns with it the bare call of one session with all threads runs on the same images, already
pre-processed. What is printed are medians over the rounds, and the median of the ratios inside one round: the
machine's speed drifts, the ratio does not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from detector import load_frames  # the benchmark beside this one
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.cpu import threads_for
from yolo_trt_node.memory import keep_freed_images
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_detect import detect_in_bag
from yolo_trt_node.replay.bags import BagWriter, typestore

WANTED = 0.95
PERIOD_NS = 33_000_000


def write_bag(path: Path, frames: np.ndarray, count: int, jpeg: bool) -> None:
    """Write a bag of ``count`` images, N x H x W x 3 uint8 BGR in turns."""
    store = typestore()
    with BagWriter(path, store) as bag:
        for index in range(count):
            header = messages.header(store, index * PERIOD_NS, "camera")
            frame = frames[index % len(frames)]
            kind, data = messages.IMAGE_TYPE, b""
            if jpeg:
                kind = messages.COMPRESSED_TYPE
                data = messages.compressed_image(
                    store, header, "jpeg", cv2.imencode(".jpg", frame)[1].tobytes()
                )
            else:
                data = messages.image(store, header, frame)
            bag.write("/camera", kind, data, index * PERIOD_NS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an ONNX file")
    parser.add_argument("--backend", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core")
    parser.add_argument("--camera", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--images", type=int, default=150, help="in the bag, and in a round of bare calls")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--jpeg", action="store_true", help="compressed images")
    given = parser.parse_args()
    width, height = map(int, given.camera.split("x"))
    keep_freed_images()

    options = DetectorOptions(backend=given.backend, threads=given.threads)
    frames = load_frames(None, height, width, 4)
    detector = Detector.load(given.model, options)
    shape = detector.prepare(height, width)
    preprocess, session = detector._session(shape)
    batches = [preprocess([frame])[0].copy() for frame in frames]
    rates: dict[str, list[float]] = {"bare backend": [], "bag_detect": []}
    cpu_ms: dict[str, list[float]] = {label: [] for label in rates}

    def timed(label: str, work: Callable[[int], object], index: int) -> None:
        started, cpu = time.perf_counter(), time.process_time()
        work(index)
        rates[label].append(given.images / (time.perf_counter() - started))
        cpu_ms[label].append(1e3 * (time.process_time() - cpu) / given.images)

    def call_bare(_index: int) -> None:
        for number in range(given.images):
            session.infer(batches[number % len(batches)])

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bag(folder / "flight", frames, given.images, given.jpeg)
        for index in range(given.rounds):
            timed("bare backend", call_bare, index)
            timed(
                "bag_detect",
                lambda index: detect_in_bag(folder / "flight", given.model, folder / f"{index}", options),
                index,
            )
    print(
        f"{given.model.name} at {shape[0]}x{shape[1]} on {detector.backend}, {threads_for(given.threads)} "
        f"threads, {given.images} {given.camera} {'JPEG' if given.jpeg else 'bgr8'} images"
    )
    for label, values in rates.items():
        cpu = statistics.median(cpu_ms[label])
        print(f"  {label:14}{statistics.median(values):8.1f} images/s, {cpu:.1f} ms CPU an image")
    ratio = statistics.median(
        mine / other for mine, other in zip(rates["bag_detect"], rates["bare backend"], strict=True)
    )
    print(f"  {'ratio':14}{ratio:8.2f}   wanted: at least {WANTED}")


if __name__ == "__main__":
    main()
