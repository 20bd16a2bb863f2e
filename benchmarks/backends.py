"""How fast each CPU backend runs a model: ``python benchmarks/backends.py model.onnx``.

The last line is what ``auto`` would take by these figures (it measures for itself, once on each machine).
Each backend runs in a process of its own (thread pools of several engines in one process slow each other
down); they take turns, since the machine's speed drifts, the ratio inside one round does not. What is printed
are medians of those ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "yolo_trt_node"))

from yolo_trt_node.detector import ModelError  # noqa: E402
from yolo_trt_node.detector.backends import open_model  # noqa: E402
from yolo_trt_node.detector.options import LoadOptions  # noqa: E402
from yolo_trt_node.detector.speed import choose_backend  # noqa: E402

CONTENDERS = (
    ("onnxruntime", "auto"),
    ("openvino", "auto"),
    ("openvino", "bf16"),
)


def serve(pipe: Connection, model: str, backend: str, options: LoadOptions, shape: tuple[int, int]) -> None:
    """Load once; then answer each request for some runs with the seconds a run took (the fastest)."""
    try:
        started = time.perf_counter()
        session = open_model(Path(model), backend=backend, options=options)[0].session(*shape)
        batch = np.random.default_rng(0).random((1, 3, *shape), np.float32)
        session.infer(batch)
        pipe.send((session.precision, time.perf_counter() - started))
    except ModelError as error:
        pipe.send((str(error), None))
        return
    while (runs := pipe.recv()) is not None:
        times = []
        cpu = time.process_time()
        for _ in range(runs):
            started = time.perf_counter()
            session.infer(batch)
            times.append(time.perf_counter() - started)
        pipe.send((min(times), (time.process_time() - cpu) / runs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="an ONNX file")
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--runs", type=int, default=5, help="runs of a backend in each round")
    given = parser.parse_args()

    context = get_context("spawn")
    pipes, rows = {}, {}
    for backend, precision in CONTENDERS:
        name = f"{backend} {precision}"
        if importlib.util.find_spec(backend) is None:
            print(f"{name:20} not installed")
            continue
        here, there = context.Pipe()
        options = LoadOptions(threads=given.threads, precision=precision)
        arguments = (there, given.model, backend, options, (given.height, given.width))
        context.Process(target=serve, args=arguments, daemon=True).start()
        told, loading = here.recv()
        if loading is None:
            print(f"{name:20} {told}")
            continue
        pipes[name], rows[name] = here, [told, loading, [], []]
    for _ in range(given.rounds):
        for name, pipe in pipes.items():
            pipe.send(given.runs)
            seconds, cpu = pipe.recv()
            rows[name][2].append(seconds)
            rows[name][3].append(cpu)
    for pipe in pipes.values():
        pipe.send(None)
    base = next(iter(rows))
    print(
        f"{Path(given.model).name} at {given.height}x{given.width}, {given.threads} threads; ratios to {base}"
    )
    print(f"{'backend':20} {'computes in':12} {'time':>6} {'(spread)':>14} {'CPU':>6} {'load':>6}")
    for name, (told, loading, times, cpus) in rows.items():
        ratios = sorted(mine / other for mine, other in zip(times, rows[base][2], strict=True))
        spread = f"({ratios[len(ratios) // 10]:.2f}-{ratios[-1 - len(ratios) // 10]:.2f})"
        cpu = statistics.median(mine / other for mine, other in zip(cpus, rows[base][3], strict=True))
        print(
            f"{name:20} {told:12} {statistics.median(ratios):6.2f} {spread:>14} {cpu:6.2f} "
            f"{loading / rows[base][1]:6.2f}"
        )
    seconds = {name.removesuffix(" auto"): statistics.median(row[2]) for name, row in rows.items()}
    print(choose_backend(seconds)[1] or "auto has no choice here: one backend alone can run the model")


if __name__ == "__main__":
    main()
