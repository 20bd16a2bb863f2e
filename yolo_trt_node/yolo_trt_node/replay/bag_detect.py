"""Detect in every image of a bag, offline, as fast as the machine goes, and write a bag of detections.

Examples:
    ros2 run yolo_trt_node bag_detect flight/ --model drone.onnx
    ros2 run yolo_trt_node bag_detect flight/ --model drone.onnx -o found/ --max-batch 8 --tiling 2x2

The images of TOPIC are answered on TOPIC/detections, with their headers and log times. No ROS node runs, and
none is needed. Stopped half way (Ctrl-C, a crash, an empty battery), the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import queue
import shutil
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

from rosbags.interfaces import Connection
from rosbags.rosbag2 import Reader

from yolo_trt_node.cdr import serialized_detections
from yolo_trt_node.detector import Detector, DetectorOptions, ModelError
from yolo_trt_node.detector.options import BACKENDS, PRECISIONS
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.images.messages import ImageError
from yolo_trt_node.replay import messages
from yolo_trt_node.replay.bags import STORAGES, BagError, BagWriter, flush_to_disk, open_bag, typestore
from yolo_trt_node.replay.bags import messages as read_messages

COMMIT_PERIOD_S = 1.0
"""A process that is killed loses at most the work of so long."""

_FORMAT = 1
_COMPRESSED = "/compressed"
_TERMINAL_PERIOD_S = 0.5
_LOG_PERIOD_S = 10.0


class Picture(NamedTuple):
    """An image of the bag, decoded; ``frame`` is None where it cannot be read, and ``reason`` says why."""

    topic: str
    log_ns: int
    header: Any
    frame: Frame | None
    reason: str


@dataclass(frozen=True)
class Result:
    """What became of the bag.

    Attributes:
        images: how many there were.
        boxes: how many were found.
        unreadable: how many images could not be read, by topic and reason.
        damage: why the bag could not be read to its end; empty when it could.
    """

    images: int
    boxes: int
    unreadable: Counter[tuple[str, str]]
    damage: str


class Journal:
    """The answers so far, safe against a kill at any moment, from which the bag is written in the end.

    A bag cannot be gone on with: its index is written last. SQLite's transactions can.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Open the journal of a run that was broken off, or begin one.

        Args:
            path: of the file.
            identity: everything that the answers depend on.

        Raises:
            BagError: it belongs to another run, or another process writes it.
        """
        self._database = sqlite3.connect(path, timeout=0.0)
        try:
            # One process at a time; and a power cut, too, loses only the last transactions.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS run (identity TEXT)")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, topic TEXT, "
                    "log_ns INTEGER, boxes INTEGER, message BLOB, reason TEXT)"
                )
                found = self._database.execute("SELECT identity FROM run").fetchone()
                if found is None:
                    self._database.execute("INSERT INTO run VALUES (?)", (json.dumps(identity),))
        except sqlite3.Error as error:
            self._database.close()
            raise BagError(
                f"{path} cannot be used ({error}): another bag_detect writes it, or it is damaged; in the "
                f"second case remove {path.parent} and begin again"
            ) from error
        begun = json.loads(found[0]) if found else identity
        if begun != identity:
            other = [key for key in identity if begun.get(key) != identity[key]]
            self._database.close()
            raise BagError(
                f"{path.parent} was begun with another {', '.join(other)}: finish that run with what it "
                "was begun with, remove the folder, or name another output with -o"
            )
        self.count = int(self._database.execute("SELECT count(*) FROM answers").fetchone()[0])
        self._committed = time.monotonic()

    def add(self, answers: Sequence[tuple[Picture, int, bytes | None]]) -> None:
        """Append the answers of a batch: picture, number of boxes, message (None: the image is unreadable).

        As one: a run that goes on then makes the very batches that an unbroken one makes.
        """
        self._database.executemany(
            "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            [
                (self.count + index, picture.topic, picture.log_ns, boxes, message, picture.reason)
                for index, (picture, boxes, message) in enumerate(answers)
            ],
        )
        self.count += len(answers)
        if time.monotonic() - self._committed > COMMIT_PERIOD_S:
            self.commit()

    def commit(self) -> None:
        """Keep what was added."""
        self._database.commit()
        self._committed = time.monotonic()

    def answers(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic of the image, log time and message of each answer, in order."""
        yield from self._database.execute(
            "SELECT topic, log_ns, message FROM answers WHERE message IS NOT NULL ORDER BY number"
        )

    def result(self, damage: str) -> Result:
        """Count what there is."""
        (boxes,) = self._database.execute("SELECT coalesce(sum(boxes), 0) FROM answers").fetchone()
        unreadable = self._database.execute(
            "SELECT topic, reason, count(*) FROM answers WHERE message IS NULL GROUP BY topic, reason"
        )
        counted = Counter({(topic, reason): count for topic, reason, count in unreadable})
        return Result(self.count, int(boxes), counted, damage)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was answered counts, however the run ends.
        self.commit()
        self._database.close()


def image_connections(bag: Reader, topics: Sequence[str]) -> list[Connection]:
    """Choose the image topics of a bag.

    Args:
        bag: open.
        topics: the ones wanted; without any all, but not the compressed twin of a topic that is there raw.

    Raises:
        BagError: there are none.
    """
    images = [c for c in bag.connections if c.msgtype in messages.IMAGE_TYPES]
    names = {c.topic for c in images}
    missing = [topic for topic in topics if topic not in names]
    if missing or not images:
        lost = f"has no images on {', '.join(missing)}" if missing else "has no images"
        held = ", ".join(f"{c.topic} ({c.msgtype})" for c in bag.connections)
        raise BagError(f"{bag.path} {lost}; it holds {held or 'nothing'}")
    if topics:
        return [c for c in images if c.topic in topics]
    return [
        c for c in images if not (c.topic.endswith(_COMPRESSED) and c.topic[: -len(_COMPRESSED)] in names)
    ]


def detect_in_bag(
    source: Path,
    model: Path,
    output: Path,
    options: DetectorOptions,
    *,
    topics: Sequence[str] = (),
    storage: str = "mcap",
    max_pixels: int = 64_000_000,
) -> Result:
    """Detect in every image of a bag; go on with a run that was broken off.

    Args:
        source: the bag.
        model: the model file.
        output: folder of the new bag; it appears when it is complete.
        options: how to run the model; ``max_batch`` images go through the network at once.
        topics: image topics; without any all of them.
        storage: one of `bags.STORAGES`.
        max_pixels: compressed images with more are not read.

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
        connections = image_connections(bag, topics)
        detector = Detector.load(model, options)
        identity = {
            "format": _FORMAT,
            "bag": [bag.start_time, bag.duration, bag.message_count],
            "topics": sorted(c.topic for c in connections),
            "model": hashlib.sha256(detector.path.read_bytes()).hexdigest(),
            "options": asdict(options),
            "backend": detector.backend,
            "max_pixels": max_pixels,
        }
        work.mkdir(parents=True, exist_ok=True)
        with Journal(work / "answers.sqlite3", json.loads(json.dumps(identity))) as journal:
            progress = Progress(sum(c.msgcount for c in connections), journal.count, detector.backend)
            damage: list[str] = []
            pictures = read_ahead(
                read_pictures(store, bag, connections, journal.count, max_pixels, damage),
                2 * options.max_batch,
            )
            try:
                while batch := list(islice(pictures, options.max_batch)):
                    journal.add(answer(detector, batch))
                    progress.show(journal.count)
            finally:
                pictures.close()
                progress.end(journal.count)
            journal.commit()
            result = journal.result("".join(damage))
            write_bag(store, work / output.name, storage, journal, detector, connections, bag.start_time)
    (work / output.name).rename(output)
    shutil.rmtree(work)
    return result


def read_pictures(
    store: Any,
    bag: Reader,
    connections: Sequence[Connection],
    skip: int,
    max_pixels: int,
    damage: list[str],
) -> Iterator[Picture]:
    """Decode the images of a bag, but for the first few; it ends where the bag is damaged, and says so."""
    try:
        for connection, log_ns, data in islice(read_messages(bag, connections), skip, None):
            try:
                header, frame = messages.read_image(store, connection.msgtype, data, max_pixels)
            except ImageError as error:
                yield Picture(connection.topic, log_ns, None, None, error.reason)
            else:
                yield Picture(connection.topic, log_ns, header, frame, "")
    except BagError as error:
        damage.append(str(error))


def read_ahead(pictures: Iterator[Picture], depth: int) -> Generator[Picture, None, None]:
    """Read a few pictures ahead, in a thread, so that decoding and inference go on side by side."""
    waiting: queue.Queue[Picture | BaseException | None] = queue.Queue(depth)
    stopping = threading.Event()

    def put(item: Picture | BaseException | None) -> None:
        while not stopping.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for picture in pictures:
                put(picture)
                if stopping.is_set():
                    return
            put(None)
        except BaseException as error:  # it is raised where the pictures are wanted
            put(error)

    reader = threading.Thread(target=read, name="read-ahead", daemon=True)
    reader.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopping.set()
        reader.join()


def answer(detector: Detector, batch: Sequence[Picture]) -> list[tuple[Picture, int, bytes | None]]:
    """Detect in a batch of pictures; see `Journal.add`."""
    found = iter(detector.detect([p.frame for p in batch if p.frame is not None]))
    answers: list[tuple[Picture, int, bytes | None]] = []
    for picture in batch:
        if picture.frame is None:
            answers.append((picture, 0, None))
            continue
        detections = next(found)
        answers.append((picture, len(detections), serialized_detections(picture.header, detections)))
    return answers


def write_bag(
    store: Any,
    path: Path,
    storage: str,
    journal: Journal,
    detector: Detector,
    connections: Sequence[Connection],
    start_ns: int,
) -> None:
    """Write the bag of answers; the same answers give the same bag, byte for byte."""
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
        for topic, log_ns, message in journal.answers():
            writer.write(answer_topic(topic), messages.DETECTIONS_TYPE, message, log_ns)
    flush_to_disk(path)


def answer_topic(image_topic: str) -> str:
    """Return where the images of a topic are answered, as the node does for several cameras."""
    return f"{image_topic}/detections"


class Progress:
    """Says how far it is: on a terminal in one line, in a log now and then."""

    def __init__(self, total: int, done: int, backend: str) -> None:
        """Begin to count."""
        self._total = total
        self._first = done
        self._start = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = self._start
        if done:
            print(f"going on after {done} of {total} images, on {backend}", file=sys.stderr)
        else:
            print(f"{total} images, on {backend}", file=sys.stderr)

    def show(self, done: int) -> None:
        """Say how far it is, if it is time to."""
        now = time.monotonic()
        if now - self._shown > (_TERMINAL_PERIOD_S if self._terminal else _LOG_PERIOD_S):
            self._shown = now
            self._print(done)

    def end(self, done: int) -> None:
        """Say how far it came."""
        self._print(done)
        if self._terminal:
            print(file=sys.stderr)

    def _print(self, done: int) -> None:
        speed = (done - self._first) / max(1e-9, time.monotonic() - self._start)
        text = f"{done}/{self._total} images, {speed:.1f} a second"
        if done < self._total and speed:
            text += f", {(self._total - done) / speed:.0f} s to go"
        if self._terminal:
            text = f"\r  {text}   "
        print(text, end="" if self._terminal else "\n", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and detect; return the exit status."""
    given = _parser().parse_args(arguments)
    source = Path(given.bag).expanduser()
    output = Path(given.output or f"{source.resolve().stem}_detections").expanduser()

    def stop(_number: int, _frame: FrameType | None) -> None:
        # Ctrl-C reaches the process from the terminal and again from `ros2`; the second must not cut short
        # what the first one began.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        options = DetectorOptions(
            backend=given.backend,
            precision=given.precision,
            input_shape=given.input_shape,
            score_threshold=given.score_threshold,
            iou_threshold=given.iou_threshold,
            max_det=given.max_det,
            classes=tuple(given.classes),
            tiling=given.tiling,
            tile_overlap=given.tile_overlap,
            max_batch=given.max_batch,
            threads=given.threads,
        )
        started = time.monotonic()
        result = detect_in_bag(
            source,
            Path(given.model),
            output,
            options,
            topics=given.topics,
            storage=given.storage,
            max_pixels=round(given.max_megapixels * 1e6),
        )
    except (BagError, ModelError, ValueError) as error:
        print(f"bag_detect: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nbag_detect: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    bad = sum(result.unreadable.values())
    print(
        f"{result.boxes} detections in {result.images - bad} images, {bad} unreadable, "
        f"{time.monotonic() - started:.1f} s: {output}"
    )
    for (topic, reason), count in result.unreadable.most_common():
        print(f"  {topic}: {count} unreadable: {reason}")
    if result.damage:
        print(f"bag_detect: {result.damage}; {output} has the answers up to there", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    defaults = DetectorOptions()
    parser = argparse.ArgumentParser(
        prog="bag_detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bag", help="a rosbag2 bag (sqlite3 or MCAP): its folder or file")
    parser.add_argument("--model", required=True, help="the ONNX file or engine")
    parser.add_argument("-o", "--output", help="folder of the new bag; default: BAG_detections, here")
    parser.add_argument(
        "--topics",
        nargs="+",
        default=[],
        help="image topics; default: all, and of raw and compressed twins the raw one",
    )
    parser.add_argument(
        "--storage", choices=tuple(STORAGES), default="mcap", help="of the new bag; default: %(default)s"
    )
    parser.add_argument("--backend", choices=("auto", *BACKENDS), default=defaults.backend)
    parser.add_argument("--precision", choices=PRECISIONS, default=defaults.precision)
    parser.add_argument("--input-shape", default=defaults.input_shape, help="auto, square or HEIGHTxWIDTH")
    parser.add_argument("--score-threshold", type=float, help="default: as the model's card says")
    parser.add_argument("--iou-threshold", type=float, help="default: as the model's card says")
    parser.add_argument(
        "--max-det", type=int, default=defaults.max_det, help="boxes an image at most; default: %(default)s"
    )
    parser.add_argument("--classes", nargs="+", default=[], help="names or ids; default: all")
    parser.add_argument("--tiling", default=defaults.tiling, help="none, auto or ROWSxCOLUMNS")
    parser.add_argument("--tile-overlap", type=float, default=defaults.tile_overlap)
    parser.add_argument(
        "--max-batch",
        type=int,
        default=defaults.max_batch,
        help="images (or tiles) through the network at once: more is faster on a GPU; default: %(default)s",
    )
    parser.add_argument(
        "--max-megapixels",
        type=float,
        default=64.0,
        help="compressed images with more million pixels are not read; default: %(default)s",
    )
    parser.add_argument("--threads", type=int, default=defaults.threads, help="CPU threads; 0: one per core")
    return parser


if __name__ == "__main__":
    sys.exit(main())
