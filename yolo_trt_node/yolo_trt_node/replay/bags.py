"""Reading and writing rosbag2 bags (MCAP and SQLite), with or without ROS on the machine.

A thin layer over the library ``rosbags``, which knows the standard messages; those of vision_msgs come from
the definition files beside this module.
"""

from __future__ import annotations

import errno
import functools
import os
import sqlite3
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, cast

from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from yolo_trt_node.replay.bag_files import FILES, MCAP, ROS1, SQLITE, Bag, JoinedBag, open_file

STORAGES = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
"""How a bag can be stored, by rosbag2's names."""

# CDR encapsulation (4 bytes), then the header's stamp: sec int32, nanosec uint32.
_STAMP_OFFSET = 4
_STAMPED = (("header", "std_msgs/msg/Header"), ("timestamp", "builtin_interfaces/msg/Time"))
_DEFINITIONS = Path(__file__).parent / "vision_msgs"
# Compressed images and video of others; a bag's own definitions of them are the same.
_FOXGLOVE = "builtin_interfaces/Time timestamp\nstring frame_id\nuint8[] data\nstring format\n"
_VIDEO_TYPES = {
    "foxglove_msgs/msg/CompressedImage": _FOXGLOVE,
    "foxglove_msgs/msg/CompressedVideo": _FOXGLOVE,
    "ffmpeg_image_transport_msgs/msg/FFMPEGPacket": (
        "std_msgs/Header header\nint32 width\nint32 height\nstring encoding\nuint64 pts\nuint8 flags\n"
        "bool is_bigendian\nuint8[] data\n"
    ),
}
# The version that Humble's rosbag2 reads too: from 9 on it stumbles over how the QoS is written.
_BAG_VERSION = 8
_ANY_TIME = QosTime(0, 0)


class BagError(ValueError):
    """A bag cannot be read or written; the message says why."""


_Made = TypeVar("_Made")


def explained_disk_errors(work: Callable[..., _Made]) -> Callable[..., _Made]:
    """Let a function that writes a bag tell what the disk does as a `BagError`."""

    @functools.wraps(work)
    def told(*arguments: Any, **options: Any) -> _Made:
        try:
            return work(*arguments, **options)
        except (OSError, sqlite3.Error) as error:
            # SQLite has no error numbers for it in Python 3.10.
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "is full" in str(error):
                raise BagError(
                    "the disk is full; what was answered is kept: make room, and the same command goes on"
                ) from error
            raise BagError(f"{error}; name another output, or mend its permissions") from error

    return told


def typestore() -> Any:
    """Return the message types of Jazzy, those of vision_msgs, and those of compressed video."""
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for file in sorted(_DEFINITIONS.glob("*.msg")):
        types.update(get_types_from_msg(file.read_text(), f"vision_msgs/msg/{file.stem}"))
    for name, definition in _VIDEO_TYPES.items():
        types.update(get_types_from_msg(definition, name))
    store.register(types)
    return store


def begins_with_stamp(store: Any, kind: str) -> bool:
    """Tell whether messages of a type begin with a header, or with a stamp alone as foxglove's."""
    if kind not in store.fielddefs:
        return False
    _, fields = store.fielddefs[kind]
    return bool(fields) and (fields[0][0], fields[0][1][1]) in _STAMPED


def read_stamp(message: bytes) -> int:
    """Return the stamp in nanoseconds of a serialised message that begins with a stamp."""
    seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, _STAMP_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def with_stamp(message: bytes, stamp_ns: int) -> bytes:
    """Return a serialised message that begins with a header, its stamp replaced (nanoseconds)."""
    moved = bytearray(message)
    stamp = divmod(stamp_ns, 1_000_000_000)
    struct.pack_into("<iI" if message[1] & 1 else ">iI", moved, _STAMP_OFFSET, *stamp)
    return bytes(moved)


@contextmanager
def open_bag(path: Path) -> Iterator[Bag]:
    """Open a recording for reading.

    Args:
        path: a bag's folder, also without metadata.yaml; or one file: MCAP, SQLite, or a ROS 1 bag.

    Raises:
        BagError: there is no readable bag.
    """
    try:
        bag = _opened(path)
    except BagError:
        raise
    # The library raises errors of many kinds for a folder that is no bag or a file cut short.
    except Exception as error:
        raise BagError(f"{path} is no readable bag: {error}.{_remedy(path)}") from error
    try:
        yield bag
    finally:
        bag.close()


def _opened(path: Path) -> Bag:
    if path.is_file():
        return cast(Bag, open_file(path, typestore()))
    whole = None
    if (path / "metadata.yaml").is_file():
        try:
            reader = Reader(path)
            reader.open()
            return cast(Bag, reader)
        except Exception as error:
            whole = error
    files = sorted(file for file in path.iterdir() if file.suffix in FILES) if path.is_dir() else []
    if not files:
        raise whole or BagError(
            f"{path} is no readable bag: it holds no file {', '.join(FILES)}.{_remedy(path)}"
        )
    store, parts = typestore(), []
    try:
        parts += [open_file(file, store) for file in files]
    except Exception:
        for part in parts:
            part.close()
        raise
    return cast(Bag, JoinedBag(path, parts))


def _remedy(path: Path) -> str:
    """Say what helps against a bag that cannot be read, where something does."""
    if not path.exists():
        return " There is no such file or folder"
    files = [path] if path.is_file() else sorted(path.iterdir())
    packed = [file.name for file in files if file.suffix == ".zstd"]
    if packed:
        return f" Unpack it first: zstd -d {packed[0]}"
    suffixes = {file.suffix for file in files}
    if ".active" in suffixes:
        return " It is still being recorded, or was never closed: `rosbag reindex` makes a .bag of it"
    if ROS1 in suffixes:
        return " Of a ROS 1 bag that was cut off, `rosbag reindex` makes a readable one"
    if MCAP in suffixes:
        return " Of a damaged MCAP file, `mcap recover` saves what is whole"
    if SQLITE in suffixes:
        return " Of a damaged database, `sqlite3 FILE .recover` saves what is whole; then `ros2 bag reindex`"
    return " A bag is a folder with .mcap or .db3 files, or a ROS 1 .bag file"


def messages(bag: Bag, connections: Collection[Connection]) -> Iterator[tuple[Connection, int, bytes]]:
    """Yield connection, log time (nanoseconds) and serialised message, in the order of the log times.

    Raises:
        BagError: the bag is damaged from here on, or ends before what it says it holds.
    """
    count = 0
    stream = bag.messages(connections=connections) if connections else iter(())
    while True:
        try:
            connection, log_ns, data = next(stream)
        except StopIteration:
            break
        except Exception as error:
            raise BagError(f"{bag.path} is damaged after {count} messages: {error}") from error
        count += 1
        yield connection, log_ns, bytes(data)
    held = sum(connection.msgcount for connection in connections)
    if count < held:
        raise BagError(
            f"{bag.path} says that it holds {held} messages of these topics, but {count} could be read: its "
            "index is incomplete. `mcap recover` (MCAP) or `ros2 bag reindex` makes it anew"
        )


class BagWriter:
    """Writes serialised messages into a new bag; close it, or use it as a context manager."""

    def __init__(self, path: Path, store: Any, storage: str = "mcap") -> None:
        """Create the bag.

        Args:
            path: folder of the bag; must not exist yet.
            store: the message types, from `typestore`.
            storage: one of `STORAGES`.

        Raises:
            BagError: the folder exists or cannot be made.
        """
        if path.exists():
            raise BagError(f"{path} exists already; name another bag or remove it")
        self._store = store
        self._writer = Writer(path, version=_BAG_VERSION, storage_plugin=STORAGES[storage])
        self._connections: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot create the bag {path}: {error}") from error

    def add(self, topic: str, kind: str, *, latched: bool = False) -> None:
        """Add a topic; it needs no message.

        Args:
            topic: absolute topic name.
            kind: type name such as ``sensor_msgs/msg/Image``.
            latched: players keep the last message for those who come later (transient local).

        Raises:
            BagError: the type's definition is not known.
        """
        if kind not in self._store.fielddefs:
            raise BagError(f"{topic}: the definition of {kind} is not known, so it cannot be written")
        self._connections[topic] = self._writer.add_connection(
            topic, kind, typestore=self._store, offered_qos_profiles=[_qos(latched)]
        )

    def write(self, topic: str, kind: str, message: bytes, stamp_ns: int) -> None:
        """Append a serialised message.

        Args:
            topic: absolute topic name.
            kind: type name such as ``sensor_msgs/msg/Image``.
            message: CDR with its 4-byte encapsulation.
            stamp_ns: when it was received, nanoseconds.
        """
        if topic not in self._connections:
            self.add(topic, kind)
        self._writer.write(self._connections[topic], stamp_ns, message)

    def close(self) -> None:
        """Finish the bag."""
        self._writer.close()

    def __enter__(self) -> BagWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def flush_to_disk(folder: Path) -> None:
    """Wait until a folder's files are on the disk, so that a rename of it cannot come before them."""
    for path in (*folder.iterdir(), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_latched(connection: Connection) -> bool:
    """Tell whether all publishers of a recorded topic kept the last message for latecomers."""
    profiles = connection.ext.offered_qos_profiles
    return bool(profiles) and all(p.durability is QosDurability.TRANSIENT_LOCAL for p in profiles)


def _qos(latched: bool) -> Qos:
    return Qos(
        history=QosHistory.KEEP_LAST,
        depth=1 if latched else 10,
        reliability=QosReliability.RELIABLE,
        durability=QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        deadline=_ANY_TIME,
        lifespan=_ANY_TIME,
        liveliness=QosLiveliness.AUTOMATIC,
        liveliness_lease_duration=_ANY_TIME,
        avoid_ros_namespace_conventions=False,
    )
