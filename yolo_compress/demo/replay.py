"""One flight over DDS: a player, the node and a recorder, each in a process of its own."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ament_index_python.packages import get_package_prefix
from yolo_trt_node.dds import profile_environment
from yolo_trt_node.replay.bags import open_bag, read_stamp, typestore
from yolo_trt_node.replay.messages import DETECTIONS_TYPE

from yolo_compress.demo.flight import IMAGE_TOPIC, RecordedFlight, boxes_and_classes
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Found

DETECTIONS_TOPIC = "/detections"
START_PATIENCE_S = 60.0
STOP_PATIENCE_S = 10.0
# What the last frames may still need after the player has ended.
DRAIN_S = 2.0


@dataclass(frozen=True)
class FlownModel:
    """What a model answered on a flight.

    Attributes:
        name: of the model.
        found: by frame index, the boxes published for it.
        ages_s: by frame index, from the frame's stamp to the arrival of its detections, in seconds.
        frames: how many frames the player published.
        player_delay_s: how late the player was at worst, in seconds.
    """

    name: str
    found: dict[int, Found]
    ages_s: dict[int, float]
    frames: int
    player_delay_s: float

    @property
    def dropped(self) -> int:
        """Frames that were not answered."""
        return self.frames - len(self.found)

    def age_ms(self, quantile: float) -> float:
        """A quantile of the age in milliseconds."""
        return 1e3 * float(np.quantile(list(self.ages_s.values()), quantile))


def fly(
    name: str, model: Path, flight: RecordedFlight, folder: Path, progress: Callable[[float], None]
) -> FlownModel:
    """Fly a model: play the flight's images to the node and record what it answers.

    Args:
        name: of the model, for messages.
        model: ONNX file.
        flight: what to play.
        folder: where logs and the bag of detections go; must not exist.
        progress: is told the seconds flown.

    Raises:
        UserError: one of the processes failed; the message has the end of its log.
    """
    folder.mkdir(parents=True)
    environment = _environment()
    recorded, summary = folder / "detections", folder / "player.json"
    arguments = ["--ros-args", "-p", f"model:={model.resolve()}", "-r", f"image:={IMAGE_TOPIC}"]
    with _children() as start:
        node = start("detector_node", arguments, folder, environment)
        recorder = start("record_bag", [str(recorded), DETECTIONS_TOPIC], folder, environment)
        _wait_for(recorder, f"recording {DETECTIONS_TOPIC}", [node, recorder])
        player = start(
            "play_images",
            [
                str(flight.bag), "--topics", IMAGE_TOPIC, "--restamp", "--wait-for-subscribers", "1",
                "--summary", str(summary),
            ],
            folder,
            environment,
        )  # fmt: skip
        began = time.monotonic()
        while player.process.poll() is None:
            for child in (node, recorder):
                child.require_alive()
            progress(min(time.monotonic() - began, flight.duration_s))
            time.sleep(0.1)
        if player.process.returncode:
            raise player.failure()
        time.sleep(DRAIN_S)
        recorder.stop()
        node.stop()
    played = json.loads(summary.read_text())
    return _collect(name, flight, recorded, played)


def _collect(name: str, flight: RecordedFlight, recorded: Path, played: dict[str, Any]) -> FlownModel:
    """Match the recorded detections with the flight's frames by their stamps."""
    store = typestore()
    index_of = {stamp: index for index, stamp in enumerate(flight.stamps_ns)}
    original = {stamp: source for source, stamp, _ in played["published"][IMAGE_TOPIC]}
    found, ages = {}, {}
    with open_bag(recorded) as bag:
        for _, arrived_ns, data in bag.messages():
            stamp = read_stamp(data)
            index = index_of[original[stamp]]
            boxes, class_ids, scores = boxes_and_classes(store.deserialize_cdr(data, DETECTIONS_TYPE))
            found[index] = Found(boxes, scores, np.array([int(c) for c in class_ids], np.int64))
            ages[index] = (arrived_ns - stamp) / 1e9
    if not found:
        raise UserError(f"{name}: the node answered none of {len(flight)} frames; see {recorded.parent}")
    return FlownModel(name, found, ages, int(played["frames"]), float(played["worst_delay_s"]))


def _environment() -> dict[str, str]:
    """The children's environment: the shipped DDS profile for large frames, and a domain of their own."""
    environment = dict(os.environ)
    profile, _ = profile_environment("auto", environment)
    environment.update(profile)
    environment["ROS_DOMAIN_ID"] = str(random.SystemRandom().randrange(1, 100))
    environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


class _Child:
    """A running executable of the node's package."""

    def __init__(self, name: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        executable = Path(get_package_prefix("yolo_trt_node"), "lib", "yolo_trt_node", name)
        with self.log.open("w") as log:
            # A session of its own: Ctrl-C in the terminal is for the demo, which ends its children in order.
            self.process = subprocess.Popen(
                [str(executable), *arguments],
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def failure(self) -> UserError:
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
        return UserError(
            f"{self.name} ended with status {self.process.poll()}; its last words ({self.log}):\n{tail}"
        )

    def require_alive(self) -> None:
        if self.process.poll() is not None:
            raise self.failure()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def _children() -> Iterator[Callable[..., _Child]]:
    """Start processes, none of which outlives the block, however it is left."""
    running: list[_Child] = []

    def start(name: str, arguments: list[str], folder: Path, environment: dict[str, str]) -> _Child:
        child = _Child(name, arguments, folder, environment)
        running.append(child)
        return child

    try:
        yield start
    finally:
        for child in reversed(running):
            child.stop()


def _wait_for(child: _Child, text: str, alive: list[_Child]) -> None:
    end = time.monotonic() + START_PATIENCE_S
    while text not in child.log.read_text(errors="replace"):
        for one in alive:
            one.require_alive()
        if time.monotonic() > end:
            said = "\n".join(one.log.read_text(errors="replace").strip() for one in alive)
            raise UserError(
                f"{child.name} did not get ready within {START_PATIENCE_S:g} s. The logs say:\n{said}"
            )
        time.sleep(0.1)
