"""What TensorRT makes of models on this machine's GPU, and whether its boxes are right.

Run ``python benchmarks/gpu.py dense.onnx pruned.onnx --output docs/results/gpu.md`` on a machine with an
NVIDIA GPU, TensorRT and pycuda. Each model is built in each precision and flown through the detector; its
boxes are held against ONNX Runtime's (CPU, fp32) on the same frames. All ways of running take turns on each
frame, so that their times compare. It ends with exit code 1 where boxes differ by more than 1 px or 0.01 in
score.

Frames are generated aerial scenes, or images given with ``--images``.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from detector import load_frames  # the benchmark beside this one
from yolo_trt_node.detector import Detections, Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.backends.gpu import Gpu
from yolo_trt_node.detector.backends.tensorrt import import_tensorrt

MAX_PIXELS, MAX_SCORE = 1.0, 0.01
# A box whose score lies this close to the cut may be on either side of it.
NEAR_CUT = MAX_SCORE


@dataclass(frozen=True)
class Way:
    """A way of running one engine.

    Attributes:
        name: what the page calls it; empty for the normal way.
        graph: with a CUDA graph.
        kernel: the letterbox on the GPU.
        mapped: the network's input in mapped memory, as the frame is (on a Jetson; elsewhere no difference).
    """

    name: str = ""
    graph: bool = True
    kernel: bool = True
    mapped: bool = False


# What `--compare` names.
WAYS = {
    "graph": Way("without CUDA graph", graph=False),
    "kernel": Way("letterbox on the CPU", kernel=False),
    "mapped": Way("network input mapped", mapped=True),
}


@dataclass(frozen=True)
class Agreement:
    """How far two detectors' boxes on the same frames differ.

    Attributes:
        pairs: boxes that both found.
        alone: boxes that only one found, though their score is not at the cut.
        pixels: largest difference of a coordinate in image pixels.
        score: largest difference of a score.
    """

    pairs: int
    alone: int
    pixels: float
    score: float

    @property
    def good(self) -> bool:
        """Whether that is within what fp16 may cost."""
        return not self.alone and self.pixels <= MAX_PIXELS and self.score <= MAX_SCORE

    def __str__(self) -> str:
        text = f"{self.pixels:.2f} px, {self.score:.4f} ({self.pairs} boxes)"
        return text + (f", {self.alone} found by one alone" if self.alone else "")


def compare(ours: Sequence[Detections], theirs: Sequence[Detections], cut: float) -> Agreement:
    """Pair the boxes of each frame, the nearest of a class first, and return how far they differ."""
    pairs, alone, pixels, score = 0, 0, 0.0, 0.0
    for a, b in zip(ours, theirs, strict=True):
        left = list(range(len(b)))
        for box, value, kind in zip(a.boxes, a.scores, a.class_ids, strict=True):
            rivals = [index for index in left if b.class_ids[index] == kind]
            distances = [float(np.abs(b.boxes[index] - box).max()) for index in rivals]
            if not rivals or min(distances) > 10 * MAX_PIXELS:
                alone += value > cut + NEAR_CUT
                continue
            nearest = rivals[int(np.argmin(distances))]
            left.remove(nearest)
            pairs += 1
            pixels = max(pixels, min(distances))
            score = max(score, abs(float(value - b.scores[nearest])))
        alone += sum(float(b.scores[index]) > cut + NEAR_CUT for index in left)
    return Agreement(pairs, int(alone), pixels, score)


def reference(pipe: Connection, model: Path, frames: list[np.ndarray], score: float | None) -> None:
    """Answer with ONNX Runtime's boxes; in a process of its own, whose threads go with it."""
    detector = Detector.load(model, DetectorOptions(backend="onnxruntime", score_threshold=score))
    pipe.send(detector.detect(frames))


def reference_boxes(model: Path, frames: list[np.ndarray], score: float | None) -> list[Detections]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=reference, args=(theirs, model, frames, score))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("ONNX Runtime could not run the model (see above)") from None
    finally:
        process.join()


@dataclass(frozen=True)
class Row:
    """One engine's figures: median seconds a frame of each way of running it."""

    model: str
    precision: str
    build_s: float
    megabytes: float
    agreement: Agreement
    total_s: dict[str, float]
    inference_s: float


def measure(
    model: Path,
    options: DetectorOptions,
    frames: list[np.ndarray],
    rounds: int,
    expected: list[Detections],
    ways: Sequence[Way],
) -> Row:
    """Build an engine (or take it from the cache), check its boxes and time every way of running it."""
    started = time.perf_counter()
    detectors, gpu = {}, Gpu.open()
    for way in ways:
        gpu.letterbox, gpu.map_input = way.kernel, way.mapped
        detector = Detector.load(model, replace(options, cuda_graph=way.graph))
        detector.prepare(*frames[0].shape[:2])
        if not way.name:
            built = time.perf_counter() - started
        detectors[way.name] = detector
    gpu.letterbox, gpu.map_input = True, False
    plain = detectors[""]
    engine = plain._model.engine(*plain.input_shape(*frames[0].shape[:2]))
    found = [plain.detect([frame])[0] for frame in frames]
    totals: dict[str, list[float]] = {way.name: [] for way in ways}
    inference = []
    for _ in range(rounds):
        for frame in frames:
            for name, detector in detectors.items():
                started = time.perf_counter()
                (answer,) = detector.detect([frame])
                totals[name].append(time.perf_counter() - started)
                if not name:
                    inference.append(answer.timing["inference"])
    row = Row(
        model.name,
        plain.precision,
        built,
        len(engine.plan) / 1e6,
        compare(found, expected, plain.score_threshold),
        {name: statistics.median(values) for name, values in totals.items()},
        statistics.median(inference),
    )
    for detector in detectors.values():
        detector.close()
    return row


def report(rows: Sequence[Row], heading: Sequence[str]) -> str:
    """Write the figures as a markdown page."""
    others = [name for name in rows[0].total_s if name]
    first = rows[0].total_s[""]
    lines = ["# TensorRT on a GPU", "", *heading, ""]
    lines += [
        "| model | engine's layers | build | size | off ONNX Runtime by | network | total | speed-up | "
        + "".join(f"{name} | " for name in others).rstrip(),
        "|---|---|---|---|---|---|---|---|" + "---|" * len(others),
    ]
    for row in rows:
        total = row.total_s[""]
        cells = [
            row.model,
            row.precision,
            f"{row.build_s:.0f} s",
            f"{row.megabytes:.1f} MB",
            str(row.agreement),
            f"{row.inference_s * 1e3:.2f} ms",
            f"{total * 1e3:.2f} ms",
            f"{first / total:.2f}",
            *(f"{row.total_s[name] / total:.2f}" for name in others),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Medians a frame: *total* is image in, boxes out; *network* the part of it on the GPU, from the",
        "upload of the frame to the prediction in host memory. *Speed-up* is against the first row. The last",
        "columns are the total of that way over the normal one. Building includes loading and warming up.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models", type=Path, nargs="+", help="ONNX files; the first is what others compare to"
    )
    parser.add_argument("--backend", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    parser.add_argument(
        "--precision", nargs="+", default=["fp32", "fp16"], help="TensorRT 11 and RTX take auto only"
    )
    parser.add_argument(
        "--compare",
        nargs="*",
        default=[*WAYS],
        choices=[*WAYS],
        help="measure also without the CUDA graph, without the letterbox kernel, with the network's input in "
        "mapped memory; default: all, each against the normal way in the same rounds",
    )
    parser.add_argument("--images", type=Path, help="folder of frames; default: generated scenes")
    parser.add_argument("--camera", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--score", type=float, help="score threshold; default: the model card's")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--engine-cache", default="", help="default: a new folder, so that building is timed")
    parser.add_argument("--output", type=Path, help="also write the page there")
    given = parser.parse_args()
    width, height = map(int, given.camera.split("x"))
    try:
        gpu, trt = Gpu.open(), import_tensorrt(given.backend)
    except ModelError as error:
        raise SystemExit(f"gpu: {error}") from None
    ways = [Way(), *(WAYS[name] for name in given.compare)]
    frames = list(load_frames(given.images, height, width, given.frames))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in given.models:
            expected = reference_boxes(model, frames, given.score)
            for precision in given.precision:
                print(f"{model.name} in {precision}: building and measuring", file=sys.stderr)
                options = DetectorOptions(
                    backend=given.backend,
                    precision=precision,
                    score_threshold=given.score,
                    engine_cache=given.engine_cache or folder,
                )
                try:
                    rows.append(measure(model, options, frames, given.rounds, expected, ways))
                except ModelError as error:
                    raise SystemExit(f"{model.name} in {precision}: {error}") from None
    kind = "generated scenes" if given.images is None else "images"
    page = report(
        rows,
        (
            f"`python benchmarks/gpu.py {' '.join(path.name for path in given.models)}`: {gpu.name} (compute "
            f"capability {gpu.compute_capability}), {given.backend} {trt.__version__}, {len(frames)} {kind} "
            f"of {given.camera}, {given.rounds} rounds.",
        ),
    )
    print(page)
    if given.output:
        given.output.write_text(page, encoding="utf-8")
    if not all(row.agreement.good for row in rows):
        raise SystemExit(f"boxes differ by more than {MAX_PIXELS:g} px or {MAX_SCORE:g} in score")


if __name__ == "__main__":
    main()
