"""A long flight in short: does the node's memory stay flat, and does it keep answering?

Run ``python benchmarks/soak.py``: an hour at 10 Hz, flown as fast as the node answers. On the way the camera
breaks (corrupt images), the bag loops (stamps jump back), thresholds change, and the node is deactivated and
activated again. Memory, open files and threads of the node are sampled; it ends with exit code 1 where they
grow, or where an image that should be answered is not. Without ``--model`` the tests' toy detector flies, so
fast that an hour takes a minute or two.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from node_process import PATIENCE_S, Operator, running_node, use_domain  # beside this one

SIMULATED_HZ = 10.0
# An answer that takes longer is asked for again: best effort may lose an image.
RETRY_AFTER_S = 1.0
INCIDENT_EVERY = 500
SAMPLES = 50
# What the allocator and the middleware may still take after they have warmed up.
MAX_GROWTH_MB = 8.0


@dataclass(frozen=True)
class Sample:
    """The node's process at one moment."""

    frames: int
    rss_mb: float
    files: int
    threads: int


class Flight:
    """Camera, planner and operator in one: publishes an image when the last one is answered."""

    def __init__(self, width: int, height: int) -> None:
        import rclpy
        from sensor_msgs.msg import Image
        from vision_msgs.msg import Detection2DArray

        rclpy.init()
        self._node = rclpy.create_node("soak")
        self._images = self._node.create_publisher(Image, "image", 1)
        self._node.create_subscription(Detection2DArray, "detections", self._note, 10)
        self._operator = Operator(self._node)
        self._answered = threading.Event()
        self._wanted = (0, 0)
        random = np.random.default_rng(0)
        self._pictures = [random.integers(0, 256, (height, width, 3), np.uint8).tobytes() for _ in range(4)]
        self._message = Image(height=height, width=width, encoding="bgr8", step=width * 3)
        self._stopping = False
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.published = 0
        self.repeated = 0

    def _spin(self) -> None:
        import rclpy

        while not self._stopping:
            rclpy.spin_once(self._node, timeout_sec=0.1)

    def _note(self, message: Any) -> None:
        stamp = message.header.stamp
        if (stamp.sec, stamp.nanosec) == self._wanted:
            self._answered.set()

    def close(self) -> None:
        """Leave the graph."""
        import rclpy

        self._stopping = True
        self._thread.join()
        self._node.destroy_node()
        rclpy.shutdown()

    def fly(self, number: int, simulated_s: float) -> None:
        """Publish an image until it is answered."""
        self._message.data = self._pictures[number % len(self._pictures)]
        self._wanted = int(simulated_s), int(simulated_s % 1 * 1e9)
        self._message.header.stamp.sec, self._message.header.stamp.nanosec = self._wanted
        self._answered.clear()
        limit = time.monotonic() + PATIENCE_S
        while True:
            self._images.publish(self._message)
            self.published += 1
            if self._answered.wait(RETRY_AFTER_S):
                return
            self.repeated += 1
            if time.monotonic() > limit:
                raise SystemExit(f"image {number} was not answered within {PATIENCE_S:g} s")

    def break_camera(self) -> None:
        """Publish images that nobody can read."""
        for size in (0, 1, 1000):
            self._message.data = bytes(size)
            self._images.publish(self._message)

    def set_threshold(self, value: float) -> None:
        """Change a parameter of the node."""
        self._operator.set_parameter("score_threshold", value)

    def pause(self) -> None:
        """Deactivate the node and activate it again."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        for step in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVATE):
            request = ChangeState.Request(transition=Transition(id=step))
            self._operator.call(ChangeState, "change_state", request)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an ONNX file; default: the tests' toy detector")
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the simulated flight")
    parser.add_argument("--camera", default="320x240", metavar="WIDTHxHEIGHT")
    parser.add_argument("--domain", type=int, default=96, help="ROS_DOMAIN_ID to fly in")
    given = parser.parse_args()
    width, height = map(int, given.camera.split("x"))

    use_domain(given.domain)
    frames = int(given.minutes * 60 * SIMULATED_HZ)
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or toy(Path(folder))
        with running_node({"model": model.resolve(), "threads": 1}, Path(folder, "node.log")) as process:
            samples, seconds, flight = soak(process, frames, width, height)
    title = (
        f"{model.name}, images of {given.camera}, {given.minutes:g} simulated minutes at {SIMULATED_HZ:g} Hz"
    )
    troubles = show(title, frames, seconds, samples, flight)
    if process.returncode:
        troubles.append(f"the node ended with exit code {process.returncode}")
    for trouble in troubles:
        print(f"FAILED: {trouble}")
    raise SystemExit(1 if troubles else 0)


def toy(folder: Path) -> Path:
    """Write the detector of coloured cells that the tests use."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.toy_detector import write_toy_detector

    return write_toy_detector(folder / "toy.onnx")


def soak(node: psutil.Process, frames: int, width: int, height: int) -> tuple[list[Sample], float, Flight]:
    """Fly all frames with an incident now and then; return the samples and the seconds it took."""
    flight, samples = Flight(width, height), []
    incidents = [
        flight.break_camera,
        lambda: flight.set_threshold(0.9),
        flight.pause,
        lambda: flight.set_threshold(0.3),
    ]
    every, stamp = max(1, frames // SAMPLES), 1000.0
    started = time.monotonic()
    try:
        for number in range(frames):
            stamp += 1 / SIMULATED_HZ
            if number % INCIDENT_EVERY == INCIDENT_EVERY - 1:
                turn = number // INCIDENT_EVERY
                incidents[turn % len(incidents)]()
                if turn % 5 == 4:
                    stamp = 1000.0  # the bag begins anew
            flight.fly(number, stamp)
            if number % every == 0:
                with node.oneshot():
                    rss = node.memory_info().rss / 1e6
                    samples.append(Sample(number, rss, node.num_fds(), node.num_threads()))
                if sys.stderr.isatty():
                    print(f"\r{number} of {frames} images, {rss:.0f} MB", end="", file=sys.stderr)
    finally:
        flight.close()
    return samples, time.monotonic() - started, flight


def show(title: str, frames: int, seconds: float, samples: list[Sample], flight: Flight) -> list[str]:
    """Print what was seen; return what is wrong with it."""
    count = len(samples)
    early, late = samples[count // 5 : 2 * count // 5], samples[-(count // 5) :]
    growth = statistics.median(s.rss_mb for s in late) - statistics.median(s.rss_mb for s in early)
    print(title)
    print(f"{frames} images in {seconds:.0f} s, {flight.repeated} of them asked for twice")
    print("   images     RSS MB  files  threads")
    for sample in samples[:: max(1, count // 10)]:
        print(f"{sample.frames:>9} {sample.rss_mb:>10.1f} {sample.files:>6} {sample.threads:>8}")
    print(f"growth of memory from the second fifth to the last: {growth:+.1f} MB (at most {MAX_GROWTH_MB:g})")
    troubles = []
    if growth > MAX_GROWTH_MB:
        troubles.append(f"memory grew by {growth:.1f} MB")
    for name in ("files", "threads"):
        before, after = (statistics.median(getattr(s, name) for s in part) for part in (early, late))
        print(f"{name}: {before:g} and {after:g}")
        if after > before:
            troubles.append(f"{name} grew from {before:g} to {after:g}")
    return troubles


if __name__ == "__main__":
    main()
