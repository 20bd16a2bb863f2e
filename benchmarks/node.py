"""What the node costs: the age of its answers, idle and overloaded, beside an echo node and the bare network.

Run ``python benchmarks/node.py --weights yolov8n.pt`` in an environment with ROS 2 and the package installed
(without weights: an untrained YOLOv8n). A camera in a process of its own publishes 1920x1080 bgr8 images over
DDS with the shipped profile; the node under test, an echo node that answers every image with an empty array
(with the node's malloc thresholds, and one without), and the bare backend call at the same pace take turns,
so that their times compare. Ages are from the moment before the camera publishes to the arrival of the
detections in this process. ``--busy 1`` keeps a core busy meanwhile. ``--peer-command`` runs any other
detection node beside it: it reads the images from /peer_image and answers on --peer-topic with the image's
header.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import shlex
import statistics
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from detector import export, load_frames  # the benchmark beside this one
from node_process import PATIENCE_S, Operator, running_node, use_domain
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.memory import keep_freed_images

UNLOADED_HZ, OVERLOAD_HZ = 2.0, 30.0
SETTLE_S = 1.0
MANY_BOXES, NO_BOXES = 0.0001, 1.0
MAX_BOXES = 300
PEER_IMAGE = "peer_image"


@dataclass
class Flight:
    """What became of the images of one stretch of publishing."""

    published: int
    seconds: float
    ages_s: list[float] = field(default_factory=list)
    boxes: list[int] = field(default_factory=list)
    cpu_s: float = 0.0
    faults: int = 0

    @property
    def dropped(self) -> int:
        """How many images were not answered."""
        return self.published - len(self.ages_s)


def camera(pipe: Connection, frames_file: Path, topics: Sequence[str]) -> None:
    """Publish when told (topic, rate, count); answer with each image's number and time of publication."""
    import rclpy
    from sensor_msgs.msg import Image

    rclpy.init()
    node = rclpy.create_node("benchmark_camera")
    publishers = {topic: node.create_publisher(Image, topic, 1) for topic in topics}
    messages = []
    for frame in np.load(frames_file):
        message = Image(height=frame.shape[0], width=frame.shape[1], encoding="bgr8", step=frame.strides[0])
        message.data = frame.tobytes()
        message.header.frame_id = "camera"
        messages.append(message)
    pipe.send("ready")
    number = 0
    while (order := pipe.recv()) is not None:
        topic, rate, count = order
        publisher = publishers[topic]
        limit = time.monotonic() + PATIENCE_S
        while not publisher.get_subscription_count() and time.monotonic() < limit:
            time.sleep(0.05)
        sent = {}
        next_at = time.monotonic()
        for _ in range(count):
            time.sleep(max(0.0, next_at - time.monotonic()))
            next_at = max(next_at + 1 / rate, time.monotonic())
            number += 1
            message = messages[number % len(messages)]
            message.header.stamp.sec = number
            sent[number] = time.monotonic()
            publisher.publish(message)
        pipe.send(sent)
    node.destroy_node()
    rclpy.shutdown()


def echo(pipe: Connection | None, image_topic: str, answer_topic: str, thresholds: bool = True) -> None:
    """Answer every image with an empty array: what the middleware and rclpy cost alone.

    Without a pipe it goes on until it is ended from outside.
    """
    if thresholds:
        keep_freed_images()
    import rclpy
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from vision_msgs.msg import Detection2DArray

    rclpy.init()
    node = rclpy.create_node("benchmark_echo")
    publisher = node.create_publisher(Detection2DArray, answer_topic, 10)
    quality = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    node.create_subscription(
        Image, image_topic, lambda image: publisher.publish(Detection2DArray(header=image.header)), quality
    )
    if pipe is not None:
        pipe.send("ready")
    while pipe is None or not pipe.poll():
        rclpy.spin_once(node, timeout_sec=0.1)
    node.destroy_node()
    rclpy.shutdown()


def bare(pipe: Connection, model: Path, frames_file: Path, threads: int) -> None:
    """Time the bare call of the same session on the same frames whenever told."""
    detector = Detector.load(model, DetectorOptions(backend="onnxruntime", threads=threads))
    frames = np.load(frames_file)
    preprocess, session = detector._session(detector.input_shape(*frames[0].shape[:2]))
    batches = [preprocess([frame])[0].copy() for frame in frames]
    session.infer(batches[0])
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        rate, count = order
        taken = []
        next_at = time.monotonic()
        for index in range(count):
            # At the camera's pace, not flat out: a core that slept is as slow here as in the node.
            next_at = max(next_at + 1 / rate, time.monotonic())
            time.sleep(max(0.0, next_at - time.monotonic()))
            started = time.monotonic()
            session.infer(batches[index % len(batches)])
            taken.append(time.monotonic() - started)
        pipe.send(taken)


def burn(pipe: Connection) -> None:
    """Keep a core busy until told to end."""
    pipe.send("ready")
    while not pipe.poll():
        for _ in range(100_000):
            pass


class Planner:
    """Notes when detections arrive."""

    def __init__(self, topics: Sequence[str], peer: tuple[str, str] | None = None) -> None:
        import rclpy
        from vision_msgs.msg import Detection2DArray

        rclpy.init()
        self.node = rclpy.create_node("benchmark_planner")
        self.operator = Operator(self.node)
        self.arrived: dict[int, tuple[float, int]] = {}
        for topic in topics:
            # Raw: what this process spends on its own Python objects is no part of the node's latency.
            self.node.create_subscription(Detection2DArray, topic, self._note, 50, raw=True)
        if peer is not None:
            package, _, kind = peer[1].split("/")
            message_type = getattr(importlib.import_module(f"{package}.msg"), kind)
            self.node.create_subscription(message_type, peer[0], self._note_peer, 50)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._stopping = False
        self._thread.start()

    def _note(self, content: bytes) -> None:
        from rclpy.serialization import deserialize_message
        from vision_msgs.msg import Detection2DArray

        arrived = time.monotonic()
        message = deserialize_message(content, Detection2DArray)
        self.arrived[message.header.stamp.sec] = (arrived, len(message.detections))

    def _note_peer(self, message: Any) -> None:
        # Whatever its type calls its boxes, the image's stamp is in the header.
        self.arrived[message.header.stamp.sec] = (time.monotonic(), 0)

    def _spin(self) -> None:
        import rclpy

        while not self._stopping:
            rclpy.spin_once(self.node, timeout_sec=0.1)

    def close(self) -> None:
        """Leave the graph."""
        import rclpy

        self._stopping = True
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown()


@contextmanager
def started(target: Any, *arguments: Any) -> Iterator[tuple[Connection, Any]]:
    """Run a role in a process of its own, ready to be told."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    try:
        yield ours, process
    finally:
        ours.send(None)
        process.join(10)


@contextmanager
def peer_process(command: str, log: Path) -> Iterator[psutil.Popen | None]:
    """Run another detection node, if any; end it and what it started."""
    if not command:
        yield None
        return
    with log.open("w") as file:
        process = psutil.Popen(shlex.split(command), stdout=file, stderr=file)
        try:
            yield process
        finally:
            for one in (*process.children(recursive=True), process):
                one.terminate()
            process.wait(20)


def page_faults(process: psutil.Process) -> int:
    """Return how many pages a process has been given so far."""
    text = Path(f"/proc/{process.pid}/stat").read_text()
    return int(text.rpartition(")")[2].split()[7])


def fly(
    pipe: Connection, planner: Planner, topic: str, rate: float, count: int, process: psutil.Process
) -> Flight:
    """Publish ``count`` images on a topic and gather what became of them."""
    before, faults = sum(process.cpu_times()[:2]), page_faults(process)
    begun = time.monotonic()
    pipe.send((topic, rate, count))
    sent = pipe.recv()
    seconds = time.monotonic() - begun
    time.sleep(SETTLE_S)
    flight = Flight(len(sent), seconds, cpu_s=sum(process.cpu_times()[:2]) - before)
    flight.faults = page_faults(process) - faults
    for number, at in sent.items():
        if number in planner.arrived:
            arrived, boxes = planner.arrived[number]
            flight.ages_s.append(arrived - at)
            flight.boxes.append(boxes)
    if not flight.ages_s:
        raise SystemExit(f"no answers to {len(sent)} images on {topic}")
    return flight


def p95(values: Sequence[float]) -> float:
    return float(np.percentile(values, 95))


def ms(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms"


def merged(flights: Sequence[Flight]) -> Flight:
    return Flight(
        sum(flight.published for flight in flights),
        sum(flight.seconds for flight in flights),
        [age for flight in flights for age in flight.ages_s],
        [boxes for flight in flights for boxes in flight.boxes],
        sum(flight.cpu_s for flight in flights),
        sum(flight.faults for flight in flights),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="an ONNX file; default: an export of --weights")
    parser.add_argument("--weights", type=Path, help="an Ultralytics .pt; default: an untrained YOLOv8n")
    parser.add_argument("--images", type=Path, help="folder of frames; default: generated scenes")
    parser.add_argument("--camera", default="1920x1080", metavar="WIDTHxHEIGHT")
    parser.add_argument("--threads", type=int, default=0, help="of the network; 0: one per core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=12, help="images a stretch without load")
    parser.add_argument("--overload", type=float, default=8.0, metavar="SECONDS", help="under load, a round")
    parser.add_argument("--domain", type=int, default=97, help="ROS_DOMAIN_ID to measure in")
    parser.add_argument("--busy", type=int, default=0, metavar="CORES", help="cores kept busy meanwhile")
    parser.add_argument("--peer-command", default="", help="command line of another detection node")
    parser.add_argument("--peer-topic", default="peer_detections", help="where it answers")
    parser.add_argument("--peer-type", default="vision_msgs/msg/Detection2DArray", help="type of its answers")
    parser.add_argument("--echo", nargs=2, metavar=("IMAGE", "ANSWER"), help="be an echo node, and no more")
    given = parser.parse_args()
    if given.echo:
        echo(None, *given.echo)
        return
    width, height = map(int, given.camera.split("x"))

    use_domain(given.domain)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, stored = given.model, folder / "frames.npy"
        if model is None:
            model = folder / "model.onnx"
            exporter = multiprocessing.get_context("spawn").Process(
                target=export, args=(given.weights, model, 640)
            )
            exporter.start()
            exporter.join()
            if exporter.exitcode:
                raise SystemExit("the export failed (see above)")
        np.save(stored, load_frames(given.images, height, width, 4))
        topics = ("image", "echo_image", "plain_image", PEER_IMAGE)
        answers = ("detections", "echo_detections", "plain_detections")
        parameters = {"model": model.resolve(), "backend": "onnxruntime", "threads": given.threads}
        parameters["max_det"] = MAX_BOXES
        with (
            started(bare, model.resolve(), stored, given.threads) as (bare_pipe, _),
            started(echo, topics[1], answers[1]) as (_, echo_process),
            started(echo, topics[2], answers[2], False) as (_, plain_process),
            running_node(parameters, folder / "node.log") as node,
            peer_process(given.peer_command, folder / "peer.log") as peer,
            started(camera, stored, topics) as (camera_pipe, _),
            ExitStack() as burners,
        ):
            for _ in range(given.busy):
                burners.enter_context(started(burn))
            processes = {
                "image": node,
                "echo_image": psutil.Process(echo_process.pid),
                "plain_image": psutil.Process(plain_process.pid),
            }
            if peer is not None:
                processes[PEER_IMAGE] = peer
            planner = Planner(answers, (given.peer_topic, given.peer_type) if peer is not None else None)
            try:
                measure(given, planner, camera_pipe, bare_pipe, processes)
            finally:
                planner.close()


def measure(
    given: argparse.Namespace,
    planner: Planner,
    camera_pipe: Connection,
    bare_pipe: Connection,
    processes: Mapping[str, psutil.Process],
) -> None:
    """Let all take turns, then print."""
    kinds: dict[str, list[Flight]] = defaultdict(list)
    calls: dict[float, list[float]] = {UNLOADED_HZ: [], OVERLOAD_HZ: []}
    node = processes["image"]
    memory = (0.0, 0.0)
    planner.operator.set_parameter("score_threshold", 0.25)
    for topic, process in processes.items():
        fly(
            camera_pipe, planner, topic, 2 * UNLOADED_HZ, min(4, given.count), process
        )  # the first images find everything cold
    for index in range(given.rounds):
        print(f"round {index + 1} of {given.rounds}", file=sys.stderr)
        overload = int(given.overload * OVERLOAD_HZ)
        # Back and forth, since the machine's speed drifts within a round too.
        for topic, process in list(processes.items())[:: -1 if index % 2 else 1]:
            kinds[topic].append(fly(camera_pipe, planner, topic, UNLOADED_HZ, given.count, process))
        for topic in ("image", PEER_IMAGE):
            if topic in processes:
                flight = fly(camera_pipe, planner, topic, OVERLOAD_HZ, overload, processes[topic])
                kinds[f"{topic} overload"].append(flight)
        for rate, count in ((UNLOADED_HZ, given.count), (OVERLOAD_HZ, overload)):
            bare_pipe.send((rate, count))
            calls[rate] += bare_pipe.recv()
        used = node.memory_full_info()
        memory = (max(memory[0], used.rss / 1e6), max(memory[1], used.uss / 1e6))
        for kind, threshold in (("none", NO_BOXES), ("many", MANY_BOXES)):
            planner.operator.set_parameter("score_threshold", threshold)
            kinds[kind].append(fly(camera_pipe, planner, "image", UNLOADED_HZ, given.count, node))
        planner.operator.set_parameter("score_threshold", 0.25)
    found = {kind: merged(flights) for kind, flights in kinds.items()}
    show(given, found, calls, memory, getattr(node, "start_up_s", 0.0))


def show(
    given: argparse.Namespace,
    found: dict[str, Flight],
    calls: Mapping[float, Sequence[float]],
    memory_mb: tuple[float, float],
    start_up_s: float,
) -> None:
    """Print the figures and what was wanted."""
    median = {kind: statistics.median(flight.ages_s) for kind, flight in found.items()}
    call = {rate: statistics.median(taken) for rate, taken in calls.items()}
    name = given.model or given.weights or "untrained YOLOv8n"
    threads = given.threads or len(os.sched_getaffinity(0))
    print(
        f"{Path(str(name)).name}, {given.camera} bgr8 over DDS with the shipped profile, {threads} threads, "
        f"{given.busy} cores kept busy\n"
    )
    print("Publication to detections, median (95th percentile); a process's CPU and page faults an answer")
    labels = {
        "image": f"node, {UNLOADED_HZ:g} Hz",
        "image overload": f"node, {OVERLOAD_HZ:g} Hz",
        "echo_image": "echo with thresholds",
        "plain_image": "echo without",
        PEER_IMAGE: f"peer, {UNLOADED_HZ:g} Hz",
        f"{PEER_IMAGE} overload": f"peer, {OVERLOAD_HZ:g} Hz",
    }
    for kind, label in labels.items():
        if kind in found:
            flight = found[kind]
            answers = len(flight.ages_s)
            print(
                f"  {label:24}{ms(median[kind]):>10}  ({ms(p95(flight.ages_s))}), "
                f"{1e3 * flight.cpu_s / answers:.1f} ms CPU, {flight.faults / answers:.0f} faults, "
                f"{answers / flight.seconds:.1f} answers/s, "
                f"{flight.dropped} of {flight.published} not answered"
            )
    for rate, taken in calls.items():
        print(f"  {f'bare call, {rate:g} Hz':24}{ms(call[rate]):>10}  ({ms(p95(taken))})")
    boxes = statistics.median(found["many"].boxes)
    print(f"\n{boxes:g} boxes cost {ms(median['many'] - median['none'])} more than none (under 5 ms wanted)")
    node, busy = found["image"], found["image overload"]
    rows = [
        (
            "node / (echo with thresholds + bare call)",
            median["image"] / (median["echo_image"] + call[UNLOADED_HZ]),
            "at most 1.3",
        ),
        ("95th percentile, 30 Hz / 2 Hz", p95(busy.ages_s) / p95(node.ages_s), "at most 2.2"),
        ("page faults an answer", node.faults / len(node.ages_s), "under 100"),
        ("memory, MB (RSS)", memory_mb[0], ""),
        ("private memory, MB", memory_mb[1], "at most 100"),
        ("start to active, s", start_up_s, "at most 0.35"),
    ]
    if PEER_IMAGE in found:
        theirs, theirs_busy = found[PEER_IMAGE], found[f"{PEER_IMAGE} overload"]
        rows += [
            ("latency / peer's", median["image"] / median[PEER_IMAGE], ""),
            (
                "answers / peer's",
                len(busy.ages_s) / busy.seconds / (len(theirs_busy.ages_s) / theirs_busy.seconds),
                "",
            ),
            (
                "CPU an answer / peer's",
                node.cpu_s / len(node.ages_s) / max(theirs.cpu_s / len(theirs.ages_s), 1e-9),
                "",
            ),
        ]
    print()
    for label, value, wanted in rows:
        print(f"  {label:46}{value:7.2f}" + (f"   wanted: {wanted}" if wanted else ""))


if __name__ == "__main__":
    main()
