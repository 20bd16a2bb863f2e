"""Recordings that are no proper bag folder: ROS 1 bags, files without metadata.yaml, MCAP files cut short."""

from __future__ import annotations

import heapq
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rosbags.interfaces import Connection, ConnectionExtRosbag2, MessageDefinition, MessageDefinitionFormat
from rosbags.rosbag1 import Reader as Ros1Reader
from rosbags.rosbag2 import Reader

MCAP, SQLITE, ROS1 = ".mcap", ".db3", ".bag"
FILES = (MCAP, SQLITE, ROS1)
"""Suffixes of the files that recordings consist of."""

_MAGIC = b"\x89MCAP0\r\n"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 3, 4, 5, 6, 15
# A stranger's file may say that it unpacks to any size; recorders write chunks of a few megabytes.
_LARGEST_CHUNK = 1 << 30

RawMessage = tuple[Connection, int, bytes]


class Bag(Protocol):
    """What is read of a recording, whatever it is.

    Attributes:
        path: of the folder or file.
        connections: its topics.
        start_time: log time of the first message, nanoseconds.
        duration: to the last one, nanoseconds.
        message_count: of all topics.
    """

    path: Path
    connections: Sequence[Connection]
    start_time: int
    duration: int
    message_count: int

    def messages(self, connections: Collection[Connection] = ()) -> Iterator[RawMessage]:
        """Yield connection, log time (nanoseconds) and message (CDR), by log time; of all by default."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


def connection(number: int, topic: str, kind: str, count: int, definition: str = "") -> Connection:
    """Describe a topic as rosbag2's readers do."""
    form = MessageDefinitionFormat.MSG if definition else MessageDefinitionFormat.NONE
    return Connection(
        number,
        topic,
        kind,
        MessageDefinition(form, definition),
        "",
        count,
        ConnectionExtRosbag2("cdr", []),
        None,
    )


class Ros1Bag:
    """A ROS 1 bag, its messages turned into ROS 2's; topics of types that are not known are left out."""

    def __init__(self, path: Path, store: Any) -> None:
        """Open the file."""
        self.path = path
        self._store = store
        self._reader = Ros1Reader(path)
        self._reader.open()
        known = [c for c in self._reader.connections if c.msgtype in store.fielddefs]
        self.connections = [connection(c.id, c.topic, c.msgtype, c.msgcount) for c in known]
        self.start_time, self.duration = self._reader.start_time, self._reader.duration
        self.message_count = sum(c.msgcount for c in known)

    def messages(self, connections: Collection[Connection] = ()) -> Iterator[RawMessage]:
        """See `Bag`."""
        wanted = {c.id: c for c in connections or self.connections}
        found = self._reader.messages([c for c in self._reader.connections if c.id in wanted])
        for source, time_ns, raw in found:
            yield wanted[source.id], time_ns, bytes(self._store.ros1_to_cdr(raw, source.msgtype))

    def close(self) -> None:
        """Close the file."""
        self._reader.close()


class CutMcap:
    """An MCAP file without its end, as a killed recorder leaves it: read chunk by chunk up to there."""

    def __init__(self, path: Path) -> None:
        """Read all that is whole, to know the topics and their messages.

        Raises:
            ValueError: it is no MCAP file, or has no whole message.
        """
        self.path = path
        counts: dict[int, int] = {}
        self._channels: dict[int, tuple[str, str]] = {}
        first, last = 2**63 - 1, 0
        for channel, time_ns, _ in self._scan():
            counts[channel] = counts.get(channel, 0) + 1
            first, last = min(first, time_ns), max(last, time_ns)
        if not counts:
            raise ValueError("it has no whole message")
        self.connections = [
            connection(number, topic, kind, counts.get(number, 0))
            for number, (topic, kind) in self._channels.items()
        ]
        self.start_time, self.duration, self.message_count = first, last - first, sum(counts.values())

    def messages(self, connections: Collection[Connection] = ()) -> Iterator[RawMessage]:
        """See `Bag`; in the order of the file.

        Raises:
            ValueError: at the end, which is where the file is cut.
        """
        wanted = {c.id: c for c in connections or self.connections}
        for channel, time_ns, data in self._scan():
            if channel in wanted:
                yield wanted[channel], time_ns, data
        raise ValueError(f"{self.path} is cut off; `mcap recover` makes a whole file of what is there")

    def close(self) -> None:
        """Do nothing: the file is open only while it is read."""

    def _scan(self) -> Iterator[tuple[int, int, bytes]]:
        """Yield channel, log time and content of the messages in front of what is damaged."""
        schemas: dict[int, str] = {}
        with self.path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it does not begin as an MCAP file")
            for kind, content in _records(file):
                records = [(kind, content)]
                if kind == _CHUNK:
                    try:
                        records = list(_records(_unpacked(content)))
                    except Exception:  # each compression has its own; from here on nothing is whole
                        return
                for inner, data in records:
                    if inner == _SCHEMA:
                        schemas[_number(data)] = _text(data, 2)[0]
                    elif inner == _CHANNEL:
                        self._channels[_number(data)] = _text(data, 4)[0], schemas.get(_number(data, 2), "")
                    elif inner == _MESSAGE:
                        yield _number(data), struct.unpack_from("<Q", data, 6)[0], data[22:]
                if kind == _DATA_END:
                    return


class _Bytes:
    """A file that lies in memory."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        self._at += size
        return found


def _records(file: Any) -> Iterator[tuple[int, bytes]]:
    """Yield the whole records of a file: kind and content."""
    while len(head := file.read(9)) == 9:
        kind, size = struct.unpack("<BQ", head)
        if size > _LARGEST_CHUNK:
            return
        content = file.read(size)
        if len(content) < size:
            return
        yield kind, content


def _number(data: bytes, at: int = 0) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def _text(data: bytes, at: int) -> tuple[str, int]:
    """Return a string, and where it ends."""
    (size,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + size].decode(), at + 4 + size


def _unpacked(chunk: bytes) -> _Bytes:
    size = struct.unpack_from("<Q", chunk, 16)[0]
    if size > _LARGEST_CHUNK:
        raise ValueError(f"a chunk of {size} bytes")
    compression, at = _text(chunk, 28)
    packed = chunk[at + 8 :]
    if not compression:
        return _Bytes(packed)
    from rosbags.rosbag2.storage_mcap import DECOMPRESSORS

    return _Bytes(DECOMPRESSORS[compression](packed, size))


class JoinedBag:
    """Several files as one recording."""

    def __init__(self, path: Path, parts: Sequence[Any]) -> None:
        """Join open parts, in the order of their names."""
        self.path = path
        self._parts = parts
        topics: dict[tuple[str, str], Connection] = {}
        for part in parts:
            for c in part.connections:
                known = topics.get((c.topic, c.msgtype))
                count = c.msgcount + (known.msgcount if known else 0)
                topics[c.topic, c.msgtype] = c._replace(
                    id=len(topics) + 1 if not known else known.id, msgcount=count
                )
        self.connections = list(topics.values())
        filled = [part for part in parts if part.message_count]
        self.start_time = min((part.start_time for part in filled), default=0)
        end = max((part.start_time + part.duration for part in filled), default=0)
        self.duration = end - self.start_time
        self.message_count = sum(part.message_count for part in parts)

    def messages(self, connections: Collection[Connection] = ()) -> Iterator[RawMessage]:
        """See `Bag`."""
        wanted = {(c.topic, c.msgtype): c for c in connections or self.connections}

        def of(part: Any) -> Iterator[RawMessage]:
            chosen = [c for c in part.connections if (c.topic, c.msgtype) in wanted]
            if chosen:
                for c, time_ns, data in part.messages(chosen):
                    yield wanted[c.topic, c.msgtype], time_ns, data

        return heapq.merge(*(of(part) for part in self._parts), key=lambda message: message[1])

    def close(self) -> None:
        """Close all parts."""
        for part in self._parts:
            part.close()


def open_file(path: Path, store: Any) -> Any:
    """Open one file of a recording; an MCAP file that was cut short up to there.

    Raises:
        Exception: of any kind, where it cannot be read.
    """
    if path.suffix == ROS1:
        return Ros1Bag(path, store)
    try:
        reader = Reader(path)
        reader.open()
    except Exception:
        if path.suffix != MCAP:
            raise
        return CutMcap(path)
    return reader
