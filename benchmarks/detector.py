"""What the detector costs around the network, as ratios taken alternately in one run.

Run ``python benchmarks/detector.py --weights yolov8n.pt`` (without weights: an untrained YOLOv8n, which costs
the same but for the number of boxes). Every subject runs in a process of its own, because two inference
engines in one process slow each other down; in each round all of them see the same frames, in turn.

Frames are generated aerial scenes, or images given with ``--images``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.letterbox import Preprocessor, matched_shape
from yolo_trt_node.detector.nms import class_aware_nms
from yolo_trt_node.images.encodings import FRAME_ENCODINGS as ENCODINGS
from yolo_trt_node.images.frames import Frame

STAGES = ("preprocess", "inference", "postprocess")
# An untrained network's scores mean nothing: the cut is set so that so many anchors of the first frame pass.
CANDIDATES_UNTRAINED = 300


@dataclass(frozen=True)
class Setting:
    """What all subjects have in common."""

    model: Path
    frames: Path
    size: int
    score: float
    backend: str
    threads: int


Seconds = dict[str, float]


def export(weights: Path | None, destination: Path, size: int) -> None:
    """Write an ONNX file with Ultralytics' own exporter."""
    from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)

    from ultralytics import YOLO  # isort: skip

    checkpoint = destination.with_suffix(".pt")
    if weights is None:
        YOLO("yolov8n.yaml", task="detect").save(checkpoint)
    else:
        shutil.copyfile(weights, checkpoint)
    written = YOLO(checkpoint, task="detect").export(
        format="onnx", imgsz=size, dynamic=True, opset=17, device="cpu", verbose=False
    )
    Path(written).rename(destination)


def load_frames(images: Path | None, height: int, width: int, count: int) -> np.ndarray:
    """Return count x height x width x 3 uint8 BGR."""
    if images is None:
        from aerial_scenes.scenes import SceneSpec, render_scene

        plain = SceneSpec()
        spec = plain.scaled(max(width / plain.width, height / plain.height), width=width, height=height)
        return np.stack([render_scene(seed, spec).image for seed in range(count)])
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"no .jpg or .png in {images}")
    return np.stack([cv2.resize(cv2.imread(str(path)), (width, height)) for path in paths[:count]])


def detector_subject(setting: Setting, shape: str) -> Callable[[np.ndarray], Seconds]:
    """Our detector; beside each frame's stages also the bare call of the same session on the same input."""
    detector = Detector.load(
        setting.model,
        DetectorOptions(
            backend=setting.backend, input_shape=shape, score_threshold=setting.score, threads=setting.threads
        ),
    )

    def run(frame: np.ndarray) -> Seconds:
        started = time.perf_counter()
        (found,) = detector.detect([frame])
        total = time.perf_counter() - started
        preprocess, session = detector._session(detector.input_shape(*frame.shape[:2]))
        batch = preprocess([frame])[0].copy()
        started = time.perf_counter()
        session.infer(batch)
        return {**found.timing, "total": total, "bare": time.perf_counter() - started, "boxes": len(found)}

    return run


def ultralytics_subject(setting: Setting) -> Callable[[np.ndarray], Seconds]:
    """Ultralytics' `predict` on the same file; the stages are those that it reports itself."""
    from yolo_compress import ultralytics_env  # noqa: F401  (must come before any import of Ultralytics)

    from ultralytics import YOLO  # isort: skip

    model = YOLO(setting.model, task="detect")

    def run(frame: np.ndarray) -> Seconds:
        started = time.perf_counter()
        (found,) = model.predict(
            frame, imgsz=setting.size, conf=setting.score, iou=0.7, device="cpu", verbose=False
        )
        total = time.perf_counter() - started
        stages = {stage: found.speed[stage] / 1000 for stage in STAGES}
        return {**stages, "total": total, "boxes": len(found)}

    return run


SUBJECTS: dict[str, Callable[[Setting], Callable[[np.ndarray], Seconds]]] = {
    "ours": lambda setting: detector_subject(setting, "auto"),
    "square": lambda setting: detector_subject(setting, "square"),
    "ultralytics": ultralytics_subject,
}


def serve(name: str, setting: Setting, pipe: Connection) -> None:
    """Run one subject over all frames whenever told to; answer the median of each figure."""
    run = SUBJECTS[name](setting)
    frames = np.load(setting.frames)
    for frame in frames[:2]:
        run(frame)
    pipe.send("ready")
    while pipe.recv():
        figures = [run(frame) for frame in frames]
        pipe.send({key: statistics.median(figure[key] for figure in figures) for key in figures[0]})


def measure(setting: Setting, rounds: int) -> dict[str, list[Seconds]]:
    """Let all subjects run in turn; return each one's figures, a round each."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    processes = []
    for name in SUBJECTS:
        pipes[name], theirs = context.Pipe()
        process = context.Process(target=serve, args=(name, setting, theirs), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes[name].recv()  # one loads at a time
    results: dict[str, list[Seconds]] = {name: [] for name in SUBJECTS}
    for index in range(rounds):
        # Whoever comes first in a round finds the machine in another state than the last: take turns.
        names = list(SUBJECTS)
        for name in names[index % len(names) :] + names[: index % len(names)]:
            pipes[name].send(True)
            results[name].append(pipes[name].recv())
    for pipe in pipes.values():
        pipe.send(False)
    for process in processes:
        process.join()
    return results


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """The median of ratios round by round, and their range."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return f"{statistics.median(ratios):5.2f}   ({min(ratios):.2f} to {max(ratios):.2f})"


def column(figures: list[Seconds], *keys: str) -> list[float]:
    return [sum(figure[key] for key in keys) for figure in figures]


AROUND = ("preprocess", "postprocess")
# Label, whose figures above the line, whose below, and what is wanted.
RATIOS = (
    ("our total / bare backend call", ("ours", "total"), ("ours", "bare"), "at most 1.15"),
    ("our pre- and post- / Ultralytics'", ("ours", *AROUND), ("ultralytics", *AROUND), "at most 0.33"),
    ("  preprocessing alone", ("ours", "preprocess"), ("ultralytics", "preprocess"), ""),
    ("  postprocessing alone", ("ours", "postprocess"), ("ultralytics", "postprocess"), ""),
    ("our total / Ultralytics' total", ("ours", "total"), ("ultralytics", "total"), ""),
    ("matched input / square, inference", ("ours", "inference"), ("square", "inference"), ""),
    ("matched input / square, total", ("ours", "total"), ("square", "total"), ""),
)


def print_network(results: dict[str, list[Seconds]]) -> None:
    heads = (*STAGES, "the rest", "total", "boxes")
    print("\nMilliseconds a frame, median of the rounds (compare within this run only)")
    print(" " * 13 + "".join(f"{head:>13}" for head in heads))
    for name, figures in results.items():
        stages = [statistics.median(column(figures, stage)) * 1e3 for stage in STAGES]
        total = statistics.median(column(figures, "total")) * 1e3
        boxes = statistics.fmean(column(figures, "boxes"))
        print(f"  {name:11}" + "".join(f"{x:13.2f}" for x in (*stages, total - sum(stages), total, boxes)))

    print("\nShare of our total: median (range over the rounds)")
    for stage in STAGES:
        print(f"  {stage:36}{ratio(column(results['ours'], stage), column(results['ours'], 'total'))}")

    print("\nRatios: median (range over the rounds)")
    for label, (upper, *above), (lower, *below), wanted in RATIOS:
        found = ratio(column(results[upper], *above), column(results[lower], *below))
        print(f"  {label:36}{found}" + (f"   wanted: {wanted}" if wanted else ""))


def best(call: Callable[[], object], repeats: int) -> float:
    """Shortest of some runs, in seconds: what the work takes when nobody disturbs it."""
    call()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return min(taken)


def print_encodings(height: int, width: int, size: int) -> None:
    """Preprocessing of a frame in every encoding, against bgr8."""
    shape = matched_shape(height, width, size, size, 32)
    preprocess = Preprocessor(*shape, channels="RGB", scale=1 / 255, color=(114, 114, 114))
    noise = np.random.default_rng(0).integers(0, 256, height * width * 4, np.uint8)
    steps = {"mono8": width, "nv12": width, "yuyv": 2 * width, "bgra8": 4 * width, "rgba8": 4 * width}
    taken = {}
    for encoding in ENCODINGS:
        frame = Frame(noise, height, width, encoding, steps.get(encoding, 3 * width))
        taken[encoding] = best(lambda frame=frame: preprocess([frame]), 30)
    print(f"\nPreprocessing {width}x{height} into {shape[1]}x{shape[0]} by encoding, bgr8 = 1")
    print("  " + "  ".join(f"{name} {seconds / taken['bgr8']:.2f}" for name, seconds in taken.items()))


def print_nms() -> None:
    """500 objects among 20,000 candidates on one core, against OpenCV's NMSBoxes."""
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    objects, candidates = 500, 20_000
    which = np.concatenate((np.arange(objects), rng.integers(0, objects, candidates - objects)))
    size = rng.uniform(8, 60, (objects, 2))[which]
    center = rng.uniform(0, 1280, (objects, 2))[which] + rng.normal(0, 0.02, (candidates, 2)) * size
    half = size * rng.normal(1, 0.02, (candidates, 2)) / 2
    boxes = np.concatenate((center - half, center + half), axis=1).astype(np.float32)
    scores = rng.uniform(0.25, 1, candidates).astype(np.float32)
    class_ids = rng.integers(0, 10, objects)[which].astype(np.int32)
    kept = class_aware_nms(boxes, scores, class_ids, 0.7, 1000)
    ours = best(lambda: class_aware_nms(boxes, scores, class_ids, 0.7, 1000), 50)
    rects = boxes.astype(np.float64)
    rects[:, 2:] -= rects[:, :2]
    rects[:, 0] += class_ids * 4096.0
    lists = rects.tolist(), scores.tolist()
    opencv = best(lambda: cv2.dnn.NMSBoxes(*lists, 0.0, 0.7), 5)
    print(f"\nNMS, {candidates:,} candidates of {objects} objects ({len(kept)} kept), one core")
    print(
        f"  {ours * 1e3:.2f} ms (under 3 wanted); OpenCV's NMSBoxes takes {opencv / ours:.0f} times as long"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, help="an Ultralytics .pt; default: an untrained YOLOv8n")
    parser.add_argument("--images", type=Path, help="folder of frames; default: generated scenes")
    parser.add_argument("--camera", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--size", type=int, default=640, help="the network's input side")
    parser.add_argument("--backend", default="onnxruntime", help="ours; Ultralytics uses ONNX Runtime")
    parser.add_argument("--threads", type=int, default=0, help="0: one per core, as Ultralytics takes")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12)
    given = parser.parse_args()
    width, height = map(int, given.camera.split("x"))
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        model, stored = Path(folder) / "model.onnx", Path(folder) / "frames.npy"
        exporter = context.Process(target=export, args=(given.weights, model, given.size))
        exporter.start()
        exporter.join()
        if exporter.exitcode:
            raise SystemExit("the export failed (see above)")
        frames = load_frames(given.images, height, width, given.frames)
        np.save(stored, frames)
        score = 0.25
        if given.weights is None:
            detector = Detector.load(model, DetectorOptions(backend=given.backend))
            preprocess, session = detector._session(detector.input_shape(*frames[0].shape[:2]))
            best_scores = session.infer(preprocess([frames[0]])[0])[0, 4:].max(axis=0)
            score = float(np.sort(best_scores)[-CANDIDATES_UNTRAINED])
        name = "untrained YOLOv8n" if given.weights is None else given.weights.name
        kind = "generated scenes" if given.images is None else "images"
        threads = given.threads or len(os.sched_getaffinity(0))
        print(f"{name}, {len(frames)} {kind} of {given.camera}, input {given.size}")
        print(f"backend {given.backend}, {threads} threads, {given.rounds} rounds")
        rows, columns = matched_shape(height, width, given.size, given.size, 32)
        share = rows * columns / given.size**2
        print(f"input matched to the camera: {columns}x{rows}, {share:.2f} of the square's pixels")
        setting = Setting(model, stored, given.size, score, given.backend, given.threads)
        print_network(measure(setting, given.rounds))
    print_encodings(height, width, given.size)
    print_nms()


if __name__ == "__main__":
    main()
