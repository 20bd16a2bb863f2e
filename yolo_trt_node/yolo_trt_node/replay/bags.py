"""Reading and writing rosbag2 bags (MCAP), with or without ROS on the machine.

A thin layer over the library ``rosbags``, which knows the standard messages; others it learns from the
definition files of their ROS packages.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

# CDR encapsulation (4 bytes), then the header's stamp: sec int32, nanosec uint32.
_STAMP_OFFSET = 4


class BagError(ValueError):
    """A bag cannot be read or written; the message says why."""


def typestore(**packages: Path) -> Any:
    """Return the message types of Jazzy, and those of further interface packages.

    Args:
        packages: by package name, the folder with its ``.msg`` files.
    """
    store = get_typestore(Stores.ROS2_JAZZY)
    types = {}
    for package, folder in packages.items():
        for file in sorted(folder.glob("*.msg")):
            types.update(get_types_from_msg(file.read_text(), f"{package}/msg/{file.stem}"))
    store.register({name: fields for name, fields in types.items() if name not in store.fielddefs})
    return store


def read_stamp(message: bytes) -> int:
    """Return the stamp in nanoseconds of a serialised message that begins with a header."""
    seconds, nanoseconds = struct.unpack_from("<iI" if message[1] & 1 else ">iI", message, _STAMP_OFFSET)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def shift_stamp(message: bytes, nanoseconds: int) -> bytes:
    """Return a serialised message that begins with a header, its stamp moved by so many nanoseconds."""
    moved = bytearray(message)
    stamp = divmod(read_stamp(message) + nanoseconds, 1_000_000_000)
    struct.pack_into("<iI" if message[1] & 1 else ">iI", moved, _STAMP_OFFSET, *stamp)
    return bytes(moved)


@contextmanager
def open_bag(path: Path) -> Iterator[Reader]:
    """Open a bag for reading.

    Raises:
        BagError: there is no readable bag.
    """
    try:
        reader = Reader(path)
        reader.open()
    # The library raises errors of many kinds for a folder that is no bag or a file cut short.
    except Exception as error:
        raise BagError(
            f"{path} is no readable rosbag2 bag ({error}); a bag is the folder that holds metadata.yaml"
        ) from error
    try:
        yield reader
    finally:
        reader.close()


class BagWriter:
    """Writes serialised messages into a new MCAP bag; close it, or use it as a context manager."""

    def __init__(self, path: Path, store: Any) -> None:
        """Create the bag.

        Args:
            path: folder of the bag; must not exist yet.
            store: the message types, from `typestore`.

        Raises:
            BagError: the folder exists or cannot be made.
        """
        if path.exists():
            raise BagError(f"{path} exists already; name another bag or remove it")
        self._store = store
        self._writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
        self._connections: dict[str, Any] = {}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer.open()
        except OSError as error:
            raise BagError(f"cannot create the bag {path}: {error}") from error

    def write(self, topic: str, kind: str, message: bytes, stamp_ns: int) -> None:
        """Append a serialised message.

        Args:
            topic: absolute topic name.
            kind: type name such as ``sensor_msgs/msg/Image``.
            message: CDR with its 4-byte encapsulation.
            stamp_ns: when it was received, nanoseconds.
        """
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
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


__all__ = ["BagError", "BagWriter", "open_bag", "read_stamp", "shift_stamp", "typestore"]
