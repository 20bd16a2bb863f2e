"""Detect in every image of a bag, offline, as fast as the machine goes, and write a bag of detections.

Examples:
    ros2 run yolo_trt_node bag_detect flight/ --model drone.onnx
    ros2 run yolo_trt_node bag_detect flight/ --model drone.onnx -o found/ --max-batch 8 --tiling 2x2
    ros2 run yolo_trt_node bag_detect flight/ --params-file detect.yaml
    ros2 run yolo_trt_node bag_detect flights/* --out found/ --jobs 4 --model drone.onnx

With the parameter file of a node, the boxes and track ids are those of that node, had it missed no image. The
images of TOPIC are answered on TOPIC/detections, with their headers and log times. No ROS node runs, and
none is needed. Stopped half way (Ctrl-C, a crash, an empty battery), the same command goes on where it was.
Many bags are looked at several at once, each in its own process; a summary of all lies in --out.
"""

from __future__ import annotations

import argparse
import hashlib
import heapq
import itertools
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection

from yolo_trt_node.boxes import Detections
from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.drawing import draw_detections
from yolo_trt_node.images.reader import ImageReader
from yolo_trt_node.images.thermal import AUTO_RANGE
from yolo_trt_node.node_options import NODE_OPTIONS, Settings
from yolo_trt_node.options import add_arguments
from yolo_trt_node.params_file import add_params_file, option_values
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bag_files import Bag
from yolo_trt_node.replay.bag_images import image_connections, read_pictures
from yolo_trt_node.replay.bags import (
    STORAGES,
    BagError,
    BagWriter,
    explained_disk_errors,
    flush_to_disk,
    open_bag,
    typestore,
)
from yolo_trt_node.replay.bags import messages as read_messages
from yolo_trt_node.replay.coders import JpegCoder
from yolo_trt_node.replay.journal import Answer, BagImage, Journal, Result
from yolo_trt_node.replay.lanes import detect_in_order, lanes_for, read_ahead
from yolo_trt_node.replay.many import detect_in_bags
from yolo_trt_node.replay.progress import ProgressLine
from yolo_trt_node.stop_signals import interrupted_once
from yolo_trt_node.tracking import Tracker, TrackerOptions

OFFLINE_OPTIONS = tuple(
    option
    for option in NODE_OPTIONS
    if option.field in {"model", "max_megapixels", "thermal_range", "tracker"}
    or option.field in DetectorOptions.__dataclass_fields__
    or option.name.startswith("tracker_")
)
"""The node's options that mean something without a node."""

IMAGES = ("none", "original", "annotated")
"""Which images are written beside the detections."""

_FORMAT = 4  # of the journal and what lies in it


@explained_disk_errors
def detect_in_bag(
    source: Path,
    model: Path,
    output: Path,
    options: DetectorOptions,
    *,
    tracking: TrackerOptions | None = None,
    topics: Sequence[str] = (),
    storage: str = "mcap",
    max_pixels: int = 64_000_000,
    thermal_range: str = AUTO_RANGE,
    images: str = "none",
) -> Result:
    """Detect in every image of a bag; go on with a run that was broken off.

    Args:
        source: the bag.
        model: the model file.
        output: folder of the new bag; it appears when it is complete.
        options: how to run the model; ``max_batch`` images go through the network at once.
        tracking: how to follow the objects of each topic; ``None``: not at all.
        topics: image topics; without any all of them.
        storage: one of `bags.STORAGES`.
        max_pixels: compressed images with more are not read.
        thermal_range: which counts of 16-bit images become black and white (`ThermalRange`).
        images: one of `IMAGES`: written beside the detections, as they are, or as JPEG with the boxes drawn
            in on ``TOPIC/annotated/compressed``.

    Raises:
        BagError: a bag cannot be read or written.
        ModelError: the model cannot be used.
    """
    work = output.with_name(f"{output.name}.unfinished")
    if output.exists():
        # Both there: a run was killed between its last two steps.
        shutil.rmtree(work, ignore_errors=True)
        raise BagError(f"{output} exists already; name another with -o, or remove it")
    store = typestore()
    with open_bag(source) as bag:
        connections = messages.without_depth(store, bag, image_connections(bag, topics))
        if not connections:
            raise BagError(f"{source} has no images but distances (depth); name another topic with --topics")
        detector = Detector.load(model, options)
        identity = {
            "format": _FORMAT,
            "bag": [bag.start_time, bag.duration, bag.message_count],
            "topics": sorted(c.topic for c in connections),
            "model": hashlib.sha256(detector.path.read_bytes()).hexdigest(),
            "options": asdict(options),
            "tracker": tracking and asdict(tracking),
            "backend": detector.backend,
            "max_pixels": max_pixels,
            "thermal_range": thermal_range,
            "images": images,
        }
        with Journal(work / "answers.sqlite3", json.loads(json.dumps(identity))) as journal:
            progress = ProgressLine(sum(c.msgcount for c in connections), journal.count, detector.backend)
            damage: list[str] = []
            # Trackers have to see again what they saw before the run was broken off.
            skip = journal.count if tracking is None else 0
            readers = {c.topic: ImageReader(max_pixels, thermal_range) for c in connections}
            lanes = lanes_for(detector)
            pictures = read_ahead(
                read_pictures(store, bag, connections, skip, readers, damage),
                (1 + len(lanes)) * options.max_batch,
            )
            ids = itertools.count(1)
            trackers = {} if tracking is None else {c.topic: Tracker(tracking, ids) for c in connections}
            try:
                if trackers:
                    for picture, found in zip(islice(pictures, journal.count), journal.found(), strict=False):
                        if found is not None:
                            track(trackers, picture, found)
                batches = iter(lambda: list(islice(pictures, options.max_batch)), [])
                draw = partial(with_boxes, store, detector.card.names) if images == "annotated" else None
                with closing(detect_in_order(lanes, batches)) as done:
                    for batch, detected in done:
                        journal.add(answers(batch, detected, trackers, draw))
                        progress.show(journal.count)
            finally:
                pictures.close()
                progress.end(journal.count)
            journal.commit()
            result = journal.result("".join(damage))
            # An empty bag has no start.
            start_ns = bag.start_time if bag.message_count else 0
            write_bag(
                store,
                work / output.name,
                storage,
                journal,
                detector,
                connections,
                start_ns,
                bag if images == "original" else None,
            )
    (work / output.name).rename(output)
    shutil.rmtree(work)
    return result


def answers(
    batch: Sequence[BagImage],
    detected: Iterable[Detections],
    trackers: Mapping[str, Tracker],
    draw: Callable[[BagImage, Detections], bytes] | None = None,
) -> list[Answer]:
    """Make answers of what was found in a batch's readable pictures, and follow the objects, by topic.

    Trackers see the pictures in the order of the calls. ``draw`` makes a message of a picture with its boxes.
    """
    each, made = iter(detected), []
    for picture in batch:
        found, message, annotated = None, None, None
        if picture.frame is not None:
            found = track(trackers, picture, next(each))
            message = serialized_detections(picture.header, found)
            annotated = draw(picture, found) if draw else None
        made.append(Answer(picture, found, message, annotated))
    return made


def with_boxes(store: Any, names: Sequence[str], picture: BagImage, found: Detections) -> bytes:
    """Serialise a readable picture with boxes drawn in, as JPEG."""
    assert picture.frame is not None
    drawn = draw_detections(picture.frame.to_bgr(), found, names)
    return JpegCoder().message(store, picture.header, drawn)


def track(trackers: Mapping[str, Tracker], picture: BagImage, found: Detections) -> Detections:
    """Let the tracker of a picture's topic, if any, give the detections their ids."""
    if picture.frame is None or picture.topic not in trackers:
        return found
    stamp = picture.header.stamp
    stamp_s = stamp.sec + stamp.nanosec * 1e-9
    return replace(found, track_ids=trackers[picture.topic].update(found, picture.frame, stamp_s))


def write_bag(
    store: Any,
    path: Path,
    storage: str,
    journal: Journal,
    detector: Detector,
    connections: Sequence[Connection],
    start_ns: int,
    source: Bag | None = None,
) -> None:
    """Write the bag of answers, and of ``source``'s images; the same give the same bag, byte for byte."""
    shutil.rmtree(path, ignore_errors=True)
    header = messages.header(store, start_ns, "")
    label = messages.label_info(store, header, detector.card.names, detector.score_threshold)
    vision = messages.vision_info(store, header, f"{detector.path.name} ({detector.backend})", "/label_info")
    with BagWriter(path, store, storage) as writer:
        for topic, kind, data in (
            ("/label_info", messages.LABEL_INFO_TYPE, label),
            ("/vision_info", messages.VISION_INFO_TYPE, vision),
        ):
            writer.add(topic, kind, latched=True)
            writer.write(topic, kind, data, start_ns)
        for connection in connections:
            writer.add(answer_topic(connection.topic), messages.DETECTIONS_TYPE)
        kinds = {
            messages.DETECTIONS_TYPE: ("/detections", journal.answers()),
            JpegCoder.kind: (f"/annotated{JpegCoder.beside}", journal.annotated()),
        }
        parts = [_under(beside, kind, rows) for kind, (beside, rows) in kinds.items()]
        parts.append(_originals(source, connections))
        for log_ns, topic, kind, data in heapq.merge(*parts, key=lambda part: part[0]):
            writer.write(topic, kind, data, log_ns)
    flush_to_disk(path)


def _under(
    beside: str, kind: str, rows: Iterator[tuple[str, int, bytes]]
) -> Iterator[tuple[int, str, str, bytes]]:
    """Yield log time, topic, type and content of what is published beside the images' topics."""
    for topic, log_ns, data in rows:
        yield log_ns, topic + beside, kind, data


def _originals(
    source: Bag | None, connections: Sequence[Connection]
) -> Iterator[tuple[int, str, str, bytes]]:
    """Yield log time, topic, type and content of a bag's images, as far as they can be read."""
    if source is None:
        return
    try:
        for connection, log_ns, data in read_messages(source, connections):
            yield log_ns, connection.topic, connection.msgtype, data
    except BagError:
        return  # where the answers end, too, and that was said


def answer_topic(image_topic: str) -> str:
    """Return where the images of a topic are answered, as the node does for several cameras."""
    return f"{image_topic}/detections"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and detect; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    if given.out:
        if given.output or given.report:
            parser.error("-o and --report belong to a single bag; --out is the folder of many")
        return _many(given)
    if len(given.bags) > 1 or given.jobs > 1 or given.ray:
        parser.error("several bags, --jobs and --ray need --out: the folder of all that is written")
    source = Path(given.bags[0]).expanduser()
    output = Path(given.output or f"{source.resolve().stem}_detections").expanduser()

    interrupted_once()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        settings = Settings.read(option_values(given, OFFLINE_OPTIONS))
        if not settings.node.model:
            raise ValueError("no model: name one with --model, or as model in --params-file")
        started = time.monotonic()
        result = detect_in_bag(
            source,
            Path(settings.node.model),
            output,
            settings.detector,
            tracking=settings.tracker,
            topics=given.topics,
            storage=given.storage,
            max_pixels=settings.node.max_pixels,
            thermal_range=settings.node.thermal_range,
            images=given.images,
        )
        bad = sum(result.unreadable.values())
        if given.report:
            counts = {"images": result.images, "boxes": result.boxes, "unreadable": bad}
            given.report.write_text(json.dumps(counts))
    except (BagError, ModelError, OSError, ValueError) as error:
        print(f"bag_detect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbag_detect: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    print(
        f"{result.boxes} detections in {result.images - bad} images, {bad} unreadable, "
        f"{time.monotonic() - started:.1f} s: {output}"
    )
    for (topic, reason), count in result.unreadable.most_common():
        print(f"  {topic}: {count} unreadable: {reason}")
    if bad == result.images:
        print(f"bag_detect: not one image of {source} could be read", file=sys.stderr)
        return 1
    if result.damage:
        print(f"bag_detect: {result.damage}; {output} has the answers up to there", file=sys.stderr)
        return 1
    return 0


def _many(given: argparse.Namespace) -> int:
    """Detect in many bags; return the exit status."""
    words = ["--storage", given.storage, "--images", given.images]
    if given.topics:
        words += ["--topics", *given.topics]
    try:
        values = option_values(given, OFFLINE_OPTIONS)
        settings = Settings.read(values)
        if not settings.node.model:
            raise ValueError("no model: name one with --model, or as model in --params-file")
        values["model"] = str(Path(settings.node.model).expanduser().resolve())
        outcomes = detect_in_bags(
            [Path(bag).expanduser() for bag in given.bags],
            Path(given.out).expanduser(),
            values,
            words,
            jobs=given.jobs,
            ray=given.ray,
            say=lambda line: print(line, flush=True),
        )
    except (ValueError, OSError) as error:
        print(f"bag_detect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbag_detect: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    failed = [outcome for outcome in outcomes if outcome.status != "done"]
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} bags: {Path(given.out) / 'summary.html'}")
    for outcome in failed:
        print(f"bag_detect: {outcome.bag}: {outcome.reason}", file=sys.stderr)
    return int(bool(failed))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bag_detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "bags", nargs="+", metavar="BAG", help="a rosbag2 bag (sqlite3 or MCAP): its folder or file"
    )
    parser.add_argument("-o", "--output", help="folder of the new bag; default: BAG_detections, here")
    parser.add_argument("--out", metavar="DIR", help="of many bags: folder of all new bags and the summary")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="bags at once (%(default)s)")
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="work on a Ray cluster, whose workers must see the same files: its address, or auto",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the counts into this JSON file")
    parser.add_argument(
        "--topics",
        nargs="+",
        default=[],
        help="image topics; default: all, and of raw and compressed twins the raw one",
    )
    parser.add_argument(
        "--storage", choices=tuple(STORAGES), default="mcap", help="of the new bag; default: %(default)s"
    )
    parser.add_argument(
        "--images",
        choices=IMAGES,
        default="none",
        help="write the images beside the detections: as they are, or as JPEG with the boxes drawn in on "
        "TOPIC/annotated/compressed; default: %(default)s",
    )
    add_params_file(parser)
    add_arguments(parser, OFFLINE_OPTIONS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
