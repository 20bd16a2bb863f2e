"""What an offline run has found so far, safe against a kill at any moment."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from yolo_trt_node.boxes import Detections
from yolo_trt_node.images.frames import Frame
from yolo_trt_node.replay.bags import BagError

COMMIT_PERIOD_S = 1.0
"""A process that is killed loses at most the work of so long."""


class BagImage(NamedTuple):
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


class Answer(NamedTuple):
    """What was found in a picture, the message that says so, and the picture with boxes where that is wanted.

    ``None`` where it cannot be read.
    """

    picture: BagImage
    found: Detections | None
    message: bytes | None
    annotated: bytes | None = None


def _pack(found: Detections) -> bytes:
    """Write detections as bytes, so that a tracker may see again what it saw before."""
    return b"".join(
        np.ascontiguousarray(part).tobytes() for part in (found.boxes, found.scores, found.class_ids)
    )


def _unpack(packed: bytes) -> Detections:
    """Read `_pack`'s bytes, 24 a detection."""
    count = len(packed) // 24
    return Detections(
        np.frombuffer(packed, np.float32, 4 * count).reshape(-1, 4),
        np.frombuffer(packed, np.float32, count, offset=16 * count),
        np.frombuffer(packed, np.int32, count, offset=20 * count),
    )


class Journal:
    """The answers so far, safe against a kill at any moment, from which the bag is written in the end.

    A bag cannot be gone on with: its index is written last. SQLite's transactions can.
    """

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        """Open the journal of a run that was broken off, or begin one.

        Args:
            path: of the file; its folder is made.
            identity: everything that the answers depend on.

        Raises:
            BagError: it belongs to another run, or another process writes it.
            OSError: the folder cannot be made.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._database = sqlite3.connect(path, timeout=0.0)
        except sqlite3.Error as error:
            raise BagError(f"cannot make {path} ({error}): name another output with -o") from error
        try:
            # One process at a time; and a power cut, too, loses only the last transactions.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            with self._database:
                self._database.execute("CREATE TABLE IF NOT EXISTS run (identity TEXT)")
                self._database.execute(
                    "CREATE TABLE IF NOT EXISTS answers (number INTEGER PRIMARY KEY, topic TEXT, "
                    "log_ns INTEGER, boxes INTEGER, message BLOB, reason TEXT, found BLOB, annotated BLOB)"
                )
                found = self._database.execute("SELECT identity FROM run").fetchone()
                if found is None:
                    self._database.execute("INSERT INTO run VALUES (?)", (json.dumps(identity),))
        except sqlite3.Error as error:
            self._database.close()
            if "locked" in str(error):
                raise BagError(
                    f"another bag_detect works in {path.parent}; wait for it, or name another output with -o"
                ) from error
            if "full" in str(error):
                raise
            raise BagError(
                f"{path} cannot be used ({error}): remove {path.parent} and begin again, or name another "
                "output with -o"
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

    def add(self, answers: Sequence[Answer]) -> None:
        """Append the answers of a batch.

        As one: a run that goes on then makes the very batches that an unbroken one makes.
        """
        rows = [
            (
                self.count + index,
                answer.picture.topic,
                answer.picture.log_ns,
                0 if answer.found is None else len(answer.found),
                answer.message,
                answer.picture.reason,
                None if answer.found is None else _pack(answer.found),
                answer.annotated,
            )
            for index, answer in enumerate(answers)
        ]
        try:
            self._database.executemany("INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        except sqlite3.Error:
            self._database.rollback()  # half a batch must not be kept
            raise
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

    def annotated(self) -> Iterator[tuple[str, int, bytes]]:
        """Yield topic of the image, log time and message of each picture with boxes, in order."""
        yield from self._database.execute(
            "SELECT topic, log_ns, annotated FROM answers WHERE annotated IS NOT NULL ORDER BY number"
        )

    def found(self) -> Iterator[Detections | None]:
        """Yield what was found in each image so far; ``None`` where it cannot be read."""
        for (packed,) in self._database.execute("SELECT found FROM answers ORDER BY number"):
            yield None if packed is None else _unpack(packed)

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
        try:
            self.commit()
        finally:
            self._database.close()
