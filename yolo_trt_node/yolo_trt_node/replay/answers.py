"""What was found in the images of a flight, read back from a bag; no ROS."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rosbags.interfaces import Connection

from yolo_trt_node.boxes import NO_ID, Detections
from yolo_trt_node.images.errors import ImageError
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_files import Bag
from yolo_trt_node.replay.bags import BagError
from yolo_trt_node.replay.bags import messages as read_messages

_MOST_BOXES = 2000  # of one image; more would be compared with each other for minutes
_COMPRESSED = "/compressed"

Answers = dict[str, dict[int, Detections]]
"""What was found in the images of a topic, by their times (`time_of`)."""


def read_names(store: Any, bag: Bag) -> tuple[str, ...]:
    """Return the classes' names from the ``LabelInfo`` of a bag.

    Raises:
        BagError: there is none, its numbers leave gaps, or two differ.
    """
    connections = [c for c in bag.connections if c.msgtype == messages.LABEL_INFO_TYPE]
    remedy = "name the classes in the order of their numbers: --names car,truck"
    found: set[tuple[tuple[int, str], ...]] = set()
    for connection, _, data in read_messages(bag, connections):
        entry = _message(store, connection, data)
        found.add(tuple(sorted((int(c.class_id), str(c.class_name)) for c in entry.class_map)))
    if not any(found):
        raise BagError(f"{bag.path} does not say what the classes are (no LabelInfo); {remedy}")
    if len(found) > 1:
        raise BagError(f"{bag.path} has two lists of classes that differ; {remedy}")
    (classes,) = found
    if [number for number, _ in classes] != list(range(len(classes))):
        raise BagError(f"the classes of {bag.path} are not numbered from 0 on without gaps; {remedy}")
    return tuple(name for _, name in classes)


def detection_topics(bag: Bag, images: Sequence[str], wanted: str = "") -> dict[str, str]:
    """Find where the images of each topic are answered.

    Args:
        bag: of the detections.
        images: image topics.
        wanted: the topic of the detections where somebody names it.

    Returns:
        Topics of detections by image topic; image topics that nothing answers are left out.

    Raises:
        BagError: nothing answers any of them, or it is not clear what does.
    """
    held = [c.topic for c in bag.connections if c.msgtype == messages.DETECTIONS_TYPE]
    listed = ", ".join(held) or "none"
    if not held:
        raise BagError(
            f"{bag.path} holds no detections (vision_msgs/Detection2DArray): name a bag that does with "
            "--detections, or a model with --model"
        )
    if wanted and (wanted not in held or len(images) != 1):
        raise BagError(
            f"--detections-topic {wanted} needs one image topic, and detections on it: there are the image "
            f"topics {', '.join(images)} (choose by --topics) and detections on {listed}"
        )
    if wanted:
        return {images[0]: wanted}
    pairs = {}
    for topic in images:
        plain = topic.removesuffix(_COMPRESSED)
        guesses = (f"{topic}/detections", f"{plain}/detections", f"{plain.rpartition('/')[0]}/detections")
        if answered := [guess for guess in guesses if guess in held]:
            pairs[topic] = answered[0]
    if len(set(pairs.values())) < len(pairs):
        raise BagError(
            f"several of the image topics {', '.join(pairs)} may belong to the same detections; choose "
            "one by --topics"
        )
    if not pairs and len(images) == len(held) == 1:
        pairs = {images[0]: held[0]}
    if not pairs:
        raise BagError(
            f"it is not clear which detections belong to {', '.join(images)}: {bag.path} has them on "
            f"{listed}; choose by --topics and --detections-topic"
        )
    for topic in images:
        if topic not in pairs:
            print(f"{topic} is left out: {bag.path} has no detections for it", file=sys.stderr)
    return pairs


def read_answers(store: Any, bag: Bag, pairs: Mapping[str, str], names: Sequence[str]) -> Answers:
    """Read what was found.

    Args:
        store: the message types.
        bag: of the detections.
        pairs: topics of detections by image topic.
        names: of the classes.

    Raises:
        BagError: the bag is damaged, or a class is none of ``names``.
    """
    images = {answered: topic for topic, answered in pairs.items()}
    connections = [c for c in bag.connections if c.topic in images and c.msgtype == messages.DETECTIONS_TYPE]
    numbers = {name: number for number, name in reversed(list(enumerate(names)))}
    found: Answers = {topic: {} for topic in pairs}
    for connection, log_ns, data in read_messages(bag, connections):
        message = _message(store, connection, data)
        time_ns = time_of(stamp_of(message.header), log_ns)
        found[images[connection.topic]][time_ns] = _detections(message, names, numbers, connection.topic)
    return found


def _detections(message: Any, names: Sequence[str], numbers: Mapping[str, int], topic: str) -> Detections:
    boxes, scores, classes, ids = [], [], [], []
    for item in message.detections:
        if not item.results:
            continue
        best = max(item.results, key=lambda result: result.hypothesis.score).hypothesis
        text = str(best.class_id)
        number = numbers.get(text, int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else -1)
        if not 0 <= number < len(names):
            raise BagError(
                f"{topic} has the class {text[:40]!r}, which is none of the {len(names)} classes "
                f"({', '.join(names[:10])}); name them in the order of their numbers: --names car,truck"
            )
        center = item.bbox.center.position
        size = item.bbox.size_x, item.bbox.size_y
        boxes.append((center.x - size[0] / 2, center.y - size[1] / 2, *size))
        scores.append(best.score)
        classes.append(number)
        track = str(item.id)
        ids.append(int(track) if track.isascii() and track.isdecimal() and len(track) < 19 else NO_ID)
    found = Detections.from_xywh(np.array(boxes), np.array(scores, np.float64), np.array(classes, np.int64))
    sane = np.isfinite(found.boxes).all(axis=1) & np.isfinite(found.scores)
    tracks = np.array(ids, np.int64)
    kept = np.flatnonzero(sane)
    kept = np.sort(kept[np.argsort(-found.scores[kept], kind="stable")[:_MOST_BOXES]])
    return Detections(
        found.boxes[kept],
        found.scores[kept],
        found.class_ids[kept],
        track_ids=tracks[kept] if (tracks != NO_ID).any() else None,
    )


def _message(store: Any, connection: Connection, data: bytes) -> Any:
    try:
        return messages.from_cdr(store, connection.msgtype, data)
    except ImageError as error:
        raise BagError(f"{connection.topic} holds a damaged message: {error}") from error


def stamp_of(header: Any) -> int:
    """Return a header's stamp in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def time_of(stamp_ns: int, log_ns: int) -> int:
    """Tell images apart by their stamps, or where a driver leaves them zero by their log times."""
    return stamp_ns or log_ns
