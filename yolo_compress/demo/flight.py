"""A flight as a rosbag2 bag: camera images, and what is truly to be seen in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import BagWriter, open_bag, read_stamp, typestore
from yolo_trt_node.replay.messages import DETECTIONS_TYPE, IMAGE_TYPE

from aerial_scenes.flight import Flight
from aerial_scenes.scenes import SceneSpec
from yolo_compress.data.labelled import GroundTruth, truth_of
from yolo_trt_node import cdr

IMAGE_TOPIC = "/camera/image_raw"
TRUTH_TOPIC = "/ground_truth"
FRAME_ID = "camera"
# Ignored regions travel in the truth's messages under this class id.
IGNORED = "ignored"

Image = NDArray[np.uint8]
FlightProgress = Callable[[int], None]


@dataclass(frozen=True)
class DemoFrame:
    """One image of a flight and what is to be found in it.

    Attributes:
        image: H x W x 3 uint8 BGR.
        truth: boxes in its pixels.
        track_ids: one for each box of the truth; empty texts where nothing is tracked.
    """

    image: Image
    truth: GroundTruth
    track_ids: tuple[str, ...]


def generated_shots(seed: int, spec: SceneSpec, frames: int, fps: float) -> Iterator[DemoFrame]:
    """Render a flight over generated scenes, frame by frame."""
    for frame in Flight(seed, spec, frames, fps):
        tracks = tuple(str(a.target_id) for a in frame.annotations if a.evaluated)
        yield DemoFrame(frame.image, truth_of(frame.annotations), tracks)


def write_flight(bag: Path, shots: Iterable[DemoFrame], fps: float, progress: FlightProgress) -> int:
    """Write a flight into a new bag: images on `IMAGE_TOPIC`, truth with the same stamps on `TRUTH_TOPIC`.

    Returns:
        The number of frames.
    """
    store = typestore()
    count = 0
    with BagWriter(bag, store) as writer:
        for shot in shots:
            # Any time will do, as long as it is not zero: the player moves all stamps to the present.
            stamp = 1_000_000_000_000_000_000 + round(count * 1e9 / fps)
            header = messages.header(store, stamp, FRAME_ID)
            writer.write(IMAGE_TOPIC, IMAGE_TYPE, messages.image(store, header, shot.image), stamp)
            writer.write(TRUTH_TOPIC, DETECTIONS_TYPE, _truth_message(header, shot), stamp)
            count += 1
            progress(count)
    return count


class RecordedFlight:
    """A flight's bag, read frame by frame."""

    def __init__(self, bag: Path) -> None:
        """Read the truth and the stamps; images stay on disk until asked for."""
        self.bag = bag
        self._store = typestore()
        self.truths: list[GroundTruth] = []
        self.stamps_ns: list[int] = []
        with open_bag(bag) as reader:
            self.duration_s = reader.duration / 1e9
            for _, _, data in reader.messages(_on(reader, TRUTH_TOPIC)):
                self.stamps_ns.append(read_stamp(data))
                self.truths.append(_truth(self._store.deserialize_cdr(data, DETECTIONS_TYPE)))

    def __len__(self) -> int:
        return len(self.truths)

    def images(self, wanted: Sequence[int]) -> dict[int, Image]:
        """Return frames by index, H x W x 3 uint8 BGR."""
        chosen = {}
        with open_bag(self.bag) as reader:
            for index, (_, _, data) in enumerate(reader.messages(_on(reader, IMAGE_TOPIC))):
                if index in wanted:
                    message = self._store.deserialize_cdr(data, IMAGE_TYPE)
                    chosen[index] = message.data.reshape(message.height, message.width, 3)
        return chosen


def boxes_and_classes(message: Any) -> tuple[NDArray[np.float64], list[str], NDArray[np.float64]]:
    """Take a Detection2DArray apart: N x 4 left, top, width, height in pixels; class ids; scores."""
    rows, class_ids, scores = [], [], []
    for detection in message.detections:
        box, center = detection.bbox, detection.bbox.center.position
        rows.append((center.x - box.size_x / 2, center.y - box.size_y / 2, box.size_x, box.size_y))
        class_ids.append(detection.results[0].hypothesis.class_id)
        scores.append(detection.results[0].hypothesis.score)
    return np.array(rows, np.float64).reshape(-1, 4), class_ids, np.array(scores, np.float64)


def _on(reader: Any, topic: str) -> list[Any]:
    return [connection for connection in reader.connections if connection.topic == topic]


def _truth(message: Any) -> GroundTruth:
    boxes, class_ids, _ = boxes_and_classes(message)
    ignored = np.array([class_id == IGNORED for class_id in class_ids], np.bool_)
    classes = [int(class_id) for class_id in class_ids if class_id != IGNORED]
    return GroundTruth(boxes[~ignored], np.array(classes, np.int64), boxes[ignored])


def _truth_message(header: Any, shot: DemoFrame) -> bytes:
    """Serialize the truth, and the ignored regions."""
    truth = shot.truth
    boxes = np.concatenate((truth.boxes, truth.ignored))
    low, high = boxes[:, :2], boxes[:, :2] + boxes[:, 2:]
    return cdr.detection_array(
        header,
        (low + high) / 2,
        high - low,
        np.ones(len(boxes)),
        [str(class_id) for class_id in truth.class_ids] + [IGNORED] * len(truth.ignored),
        [*shot.track_ids, *[""] * len(truth.ignored)],
    )
