"""One flight over DDS: a player, the node and a recorder, each in a process of its own."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from yolo_trt_node.replay.bags import open_bag, read_stamp, typestore
from yolo_trt_node.replay.messages import DETECTIONS_TYPE
from yolo_trt_node.replay.processes import (
    NodeProcess,
    ProcessError,
    closing_all,
    dds_environment,
    executable,
)

from yolo_compress.demo.flight import IMAGE_TOPIC, RecordedFlight, boxes_and_classes
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Found

DETECTIONS_TOPIC = "/detections"
START_PATIENCE_S = 60.0
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
    environment = dds_environment(random.SystemRandom().randrange(1, 100))
    recorded, summary = folder / "detections", folder / "player.json"
    arguments = ["--ros-args", "-p", f"model:={model.resolve()}", "-r", f"image:={IMAGE_TOPIC}"]
    with _told(), closing_all() as running:

        def start(name: str, arguments: list[str]) -> NodeProcess:
            child = NodeProcess([executable(name), *arguments], environment, folder / f"{name}.log")
            running.append(child)
            return child

        node = start("detector_node", arguments)
        recorder = start("record_bag", [str(recorded), DETECTIONS_TOPIC])
        recorder.wait_for_log(f"recording {DETECTIONS_TOPIC}", START_PATIENCE_S, [node])
        player = start(
            "play_images",
            [
                str(flight.bag), "--topics", IMAGE_TOPIC, "--restamp", "--wait-for-subscribers", "1",
                "--summary", str(summary),
            ],
        )  # fmt: skip
        began = time.monotonic()
        while player.alive:
            for child in (node, recorder):
                child.require_alive()
            progress(min(time.monotonic() - began, flight.duration_s))
            time.sleep(0.1)
        if player.returncode:
            raise player.failure()
        time.sleep(DRAIN_S)
        recorder.close()
        node.close()
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


@contextmanager
def _told() -> Iterator[None]:
    """Let a process that failed be the user's error that it is."""
    try:
        yield
    except ProcessError as error:
        raise UserError(str(error)) from error
