"""Files as strangers may damage or forge them, in very many ways, and what is read of each.

A `Target` makes sound files, spoils them by a seed and a number alone, and reads them as the products do.
It may refuse a file by the error that is meant for it, or read it; whatever else is raised is a find, and so
is what takes longer than `PATIENCE_S`. Run as a module with (target, count, seed), it prints one JSON line.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from support.toy_detector import model_card, scene, write_rectangle_detector, write_toy_detector

PATIENCE_S = 10.0
"""Whatever takes more of a core than this, or waits for a dozen times as long, hangs."""
_WAITING_S = 12 * PATIENCE_S
ROOM_MB = 1024
"""What a process that reads a stranger's file may take beside what it had, of private memory."""

_NUMBERS = (0, 1, -1, 2, 7, 255, 256, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63, -(2**63), 10**40)
_VALUES: tuple[Any, ...] = (
    *_NUMBERS, None, True, False, 0.5, -0.0, 1e-300, 1e308, float("nan"), float("inf"), -float("inf"),
    "", " ", "x", "a" * 5000, "[/red]", "${HOME}", "${NO_SUCH_NAME}", "../../etc/passwd", "/dev/zero", "\0",
    "\ud7ff", "{model}", "{0.__class__}", "%s", "~", "*", "1e3", "nan", "yolov8n.yaml", "__import__('os')",
    [], {}, [[]], [None], [0, 1], {"a": 1}, {0: "a", 2: "b"}, {None: None}, ["x"] * 300,
)  # fmt: skip
_SNIPPETS = (
    b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x80" * 12,
    b"&a [*a]", b"!!python/object/apply:os.mkdir [x]", b"- ", b": ", b"\t", b"{", b"[", b"}", b"'", b"\"",
    b"\n", b"---\n", b"<<: ", b"1e999", b"\xef\xbb\xbf", b"%YAML 9.9\n", b"#", b"? ", b"| ",
)  # fmt: skip


class Hang(BaseException):
    """A mutation took too long."""


def spoiled_bytes(rng: random.Random, content: bytes) -> bytes:
    """Change a few places: bits, bytes, numbers, cuts, repetitions, and pieces that mean something."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        span = min(len(changed) - at, rng.choice((1, 2, 4, 8, 30, 300)))
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                del changed[at : at + span]
            case 3:
                changed[at:at] = changed[at : at + span] * rng.choice((1, 2, 50))
            case 4:
                changed[at : at + rng.choice((0, span))] = rng.choice(_SNIPPETS)
            case 5:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS) & (1 << 8 * size) - 1
                changed[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
            case 6 if rng.random() < 0.3:
                del changed[at:]
    return bytes(changed)


def spoiled_tree(rng: random.Random, value: Any) -> Any:
    """Change a few places of nested plain values: another value, a key more or less, lists long or nested."""
    for step in range(rng.choice((1, 1, 2, 4))):
        holder = {"": value}
        where: Any = holder
        key: Any = ""
        # Down to a random place.
        while isinstance(where[key], dict | list) and where[key] and rng.random() < 0.8:
            where = where[key]
            key = rng.choice(list(where)) if isinstance(where, dict) else rng.randrange(len(where))
        match rng.randrange(8):
            case 0 if where is not holder:
                del where[key]
            case 1 if isinstance(where, dict):
                where[rng.choice(("x", "x.y", "", 7, None, *where))] = rng.choice(_VALUES)
            case 2:
                where[key] = [where[key]] * (400 if step == 0 and rng.random() < 0.3 else 2)
            case 3:
                for _ in range(rng.choice((1, 40, 2000))):
                    where[key] = [where[key]]
            case 4:
                where[key] = {rng.choice(("a", 0, "0")): where[key]}
            case 5 if isinstance(where[key], int | float):
                with contextlib.suppress(OverflowError):
                    where[key] = where[key] * rng.choice((-1, 0, 1e-9, 1e9, 1e300))
            case _:
                where[key] = rng.choice(_VALUES)
        value = holder.get("")
    return value


@dataclass(frozen=True)
class Target:
    """One kind of file.

    Attributes:
        name: for the table.
        prepare: writes what lies beside the files into a folder; returns the sound files' contents.
        spoil: makes a mutation of one of them.
        read: writes and reads one in that folder, as the products do.
        refusals: the errors that it may end in.
    """

    name: str
    prepare: Callable[[Path], list[Any]]
    spoil: Callable[[random.Random, Any], Any]
    read: Callable[[Path, Any], object]
    refusals: Callable[[], tuple[type[Exception], ...]]


@dataclass
class Outcome:
    """What became of a target's mutations."""

    refused: int = 0
    read: int = 0
    slowest_s: float = 0.0
    growth_mb: float = 0.0
    finds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


# --- Model files --------------------------------------------------------------------------------------------


def _models(folder: Path) -> list[bytes]:
    toys = [
        write_toy_detector(folder / "a.onnx"),
        write_toy_detector(folder / "b.onnx", static=True, half=True),
        write_toy_detector(folder / "c.onnx", metadata={"names": "{0: 'a', 1: 'b', 2: 'c'}", "stride": "8"}),
        write_rectangle_detector(folder / "d.onnx"),
    ]
    return [path.read_bytes() for path in toys]


def _read_model(folder: Path, content: bytes) -> None:
    from yolo_trt_node.detector.card import read_card
    from yolo_trt_node.detector.onnx_file import fingerprint, read_header

    path = folder / "m.onnx"
    path.write_bytes(content)
    header = read_header(path)
    read_card(header.metadata, header.inputs, header.outputs)
    fingerprint(path, header)


def _run_model(folder: Path, content: bytes) -> None:
    """Read a model and run it in a process of its own, as a first load does."""
    import onnxruntime  # noqa: F401  (here, or each child would)
    from yolo_trt_node.detector import Detector, DetectorOptions, ModelError

    _read_model(folder, content)
    options = DetectorOptions(backend="onnxruntime", threads=1, load_timeout_s=0.0)
    (folder / "why").write_text("")
    if not (child := os.fork()):
        # What the parent makes of a crash or another end is a test of its own (test_child).
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_CPU, (round(PATIENCE_S), round(PATIENCE_S)))
        _hold(ROOM_MB)
        status = 1
        try:
            Detector.load(folder / "m.onnx", options).detect([np.zeros((64, 64, 3), np.uint8)])
            status = 0
        except Exception as error:
            (folder / "why").write_text(f"{type(error).__name__}: {error}", errors="replace")
        os._exit(status)
    try:
        _, status = os.waitpid(child, 0)
    except Hang:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        raise
    if status:
        raise ModelError(f"the runtime refuses it (status {status}): {(folder / 'why').read_text()}")


# --- Cards --------------------------------------------------------------------------------------------------


def _cards(_folder: Path) -> list[Any]:
    own = {"model_card": model_card(64, 64)}
    stock = {
        "names": {0: "a", 1: "b", 2: "c"},
        "stride": 8,
        "imgsz": [64, 64],
        "task": "detect",
        "head": "Detect",
    }
    return [own, stock, {**stock, "names": ["a", "b", "c"], "args": {"nms": False}, "end2end": False}]


def _written(card: dict[str, Any]) -> dict[str, str]:
    """Write a card as metadata: ours is JSON, Ultralytics' are Python literals and plain texts."""
    return {
        str(key): json.dumps(value)
        if key == "model_card"
        else value
        if isinstance(value, str)
        else repr(value)
        for key, value in card.items()
    }


def _spoil_card(rng: random.Random, sound: Any) -> dict[str, str]:
    changed = spoiled_tree(rng, json.loads(json.dumps(sound)))
    changed = changed if isinstance(changed, dict) else {"model_card": changed}
    try:
        texts = _written(changed)
    except (RecursionError, ValueError, TypeError):  # nested deeper than Python writes
        texts = {"model_card": "[" * 3000}
    for key, text in texts.items():
        if rng.random() < 0.3:
            texts[key] = spoiled_bytes(rng, text.encode("utf-8", "replace")).decode("utf-8", "replace")
    return texts


def _read_card(_folder: Path, metadata: dict[str, Any]) -> None:
    from yolo_trt_node.detector.card import TensorSpec, read_card

    read_card(
        _written(metadata),
        (TensorSpec("images", "float32", (None, 3, 64, 64)),),
        (TensorSpec("output0", "float32", (None, 7, 64)),),
    )


# --- Recipes and descriptions -------------------------------------------------------------------------------


def _spoil_yaml(rng: random.Random, sound: bytes) -> bytes:
    content = sound
    if rng.random() < 0.7:
        with contextlib.suppress(RecursionError, ValueError, yaml.YAMLError):
            content = yaml.safe_dump(spoiled_tree(rng, yaml.safe_load(sound))).encode("utf-8", "replace")
    return spoiled_bytes(rng, content) if content is sound or rng.random() < 0.1 else content


def _recipes(folder: Path) -> list[bytes]:
    shipped = Path(__file__).parents[2] / "config" / "compress"
    for path in shipped.glob("*.yaml"):
        (folder / path.name).write_bytes(re.sub(rb"\$\{\w+\}", b"data", path.read_bytes()))
    return [path.read_bytes() for path in sorted(folder.glob("*.yaml"))]


def _read_recipe(folder: Path, content: bytes) -> None:
    from yolo_compress.config.loading import load_comparison, load_recipe
    from yolo_compress.errors import UserError

    path = folder / "m.yaml"
    path.write_bytes(content)
    try:
        load_recipe(path)
    except UserError:
        load_comparison(path)


def _descriptions(folder: Path) -> list[tuple[bytes, bytes]]:
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / split / kind).mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(folder / split / "images" / f"{index}.png"), np.full((32, 32, 3), 90, np.uint8))
    (folder / "list.txt").write_text("val/images/0.png\n./val/images/1.png\n")
    plain = b"path: .\ntrain: train/images\nval: val/images\nnames: [red, blue]\n"
    numbered = b"train: [train/images]\nval: list.txt\nnc: 2\nnames: {0: red, 1: blue}\nkpt_shape: [2, 3]\n"
    labels = b"0 0.5 0.5 0.25 0.25\n1 0.2 0.2 0.1 0.1\n"
    return [(plain, labels), (numbered, labels)]


def _spoil_description(rng: random.Random, sound: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    description, labels = sound
    if rng.random() < 0.7:
        return _spoil_yaml(rng, description), labels
    return description, spoiled_bytes(rng, labels)


def _read_description(folder: Path, content: tuple[bytes, bytes]) -> None:
    from yolo_compress.data.labelled import read_split

    (folder / "m.yaml").write_bytes(content[0])
    (folder / "val" / "labels" / "0.txt").write_bytes(content[1])
    split = read_split(folder / "m.yaml", "val")
    for sample in split.samples:
        sample.truth()
    split.reasons()


# --- Bags ---------------------------------------------------------------------------------------------------


def _bags(folder: Path) -> list[dict[str, bytes]]:
    """The same few images as MCAP and as SQLite; each a folder's files by name."""
    from yolo_trt_node.replay import messages
    from yolo_trt_node.replay.bags import BagWriter, typestore

    store = typestore()
    sound = []
    for storage in ("mcap", "sqlite3"):
        path = folder / storage
        with BagWriter(path, store, storage) as writer:
            for index in range(2):
                head = messages.header(store, 10**9 * (index + 1), "nose")
                data = messages.image(store, head, np.full((8, 8, 3), 99, np.uint8))
                writer.write("/raw", messages.IMAGE_TYPE, data, 10**9 * (index + 1))
                jpeg = cv2.imencode(".jpg", scene(32, 32))[1].tobytes()
                data = messages.compressed_image(store, head, "jpeg", jpeg)
                writer.write("/jpeg", messages.COMPRESSED_TYPE, data, 10**9 * (index + 1))
        sound.append({file.name: file.read_bytes() for file in path.iterdir()})
    return sound


def _spoil_bag(rng: random.Random, sound: dict[str, bytes]) -> dict[str, bytes]:
    changed = dict(sound)
    name = rng.choice(list(sound))
    changed[name] = (
        _spoil_yaml(rng, sound[name]) if name.endswith(".yaml") else spoiled_bytes(rng, sound[name])
    )
    # Without the description, the files are looked at by themselves.
    if not name.endswith(".yaml") and rng.random() < 0.5:
        del changed["metadata.yaml"]
    return changed


def _read_bag(folder: Path, content: dict[str, bytes]) -> None:
    from yolo_trt_node.images.reader import ImageReader
    from yolo_trt_node.replay import messages
    from yolo_trt_node.replay.bag_detect import image_connections, read_pictures
    from yolo_trt_node.replay.bags import open_bag, typestore

    path = folder / "bag"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, data in content.items():
        (path / name).write_bytes(data)
    store = _STORE.setdefault("", None) or _STORE.update({"": typestore()}) or _STORE[""]
    with open_bag(path) as bag:
        connections = messages.without_depth(store, bag, image_connections(bag, ()))
        readers = {c.topic: ImageReader(64_000_000) for c in connections}
        for _ in read_pictures(store, bag, connections, 0, readers, []):
            pass


_STORE: dict[str, Any] = {}


# --- All ----------------------------------------------------------------------------------------------------


def _model_error() -> tuple[type[Exception], ...]:
    from yolo_trt_node.detector import ModelError

    return (ModelError,)


def _user_error() -> tuple[type[Exception], ...]:
    from yolo_compress.errors import UserError

    return (UserError,)


def _bag_error() -> tuple[type[Exception], ...]:
    from yolo_trt_node.replay.bags import BagError

    return (BagError,)


TARGETS = {
    target.name: target
    for target in (
        Target("model files", _models, spoiled_bytes, _read_model, _model_error),
        Target("model files, run", _models, spoiled_bytes, _run_model, _model_error),
        Target("model cards", _cards, _spoil_card, _read_card, _model_error),
        Target("recipes", _recipes, _spoil_yaml, _read_recipe, _user_error),
        Target("data descriptions", _descriptions, _spoil_description, _read_description, _user_error),
        Target("bags", _bags, _spoil_bag, _read_bag, _bag_error),
    )
}


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    def tell(_number: int, _frame: object) -> None:
        raise Hang

    limits = (
        (signal.SIGALRM, signal.ITIMER_REAL, _WAITING_S),
        (signal.SIGPROF, signal.ITIMER_PROF, PATIENCE_S),
    )
    for number, timer, seconds in limits:
        signal.signal(number, tell)
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for _, timer, _ in limits:
            signal.setitimer(timer, 0)


def _hold(room_mb: int) -> None:
    """Let this process take so much private memory beside what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[5])
    limit = pages * resource.getpagesize() + (room_mb << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _core_s() -> float:
    """Return the seconds of a core that this process and its children have taken."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fuzz(target: Target, count: int, seed: int, first: int = 0) -> Outcome:
    """Read so many mutations in this process; the same ones for the same seed."""
    outcome, refusals = Outcome(), target.refusals()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sound = target.prepare(folder)
        for content in sound:
            target.read(folder, content)  # a sound file is read, or nothing else means anything
        before = _peak_mb()
        for index in range(first, first + count):
            rng = random.Random(f"{target.name} {seed} {index}")
            content = target.spoil(rng, rng.choice(sound))
            started = _core_s()
            try:
                with _patience():
                    target.read(folder, content)
                outcome.read += 1
            except refusals:
                outcome.refused += 1
            except (Exception, Hang) as error:
                frames = [f for f in traceback.extract_tb(error.__traceback__) if "yolo_" in f.filename]
                place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
                what = f"{type(error).__name__} in {place}"
                outcome.finds[what] += 1
                outcome.examples.setdefault(what, f"mutation {index}: {str(error)[:200]}")
            outcome.slowest_s = max(outcome.slowest_s, _core_s() - started)
        outcome.growth_mb = _peak_mb() - before
    return outcome


if __name__ == "__main__":
    _hold(4 * ROOM_MB)
    found = fuzz(TARGETS[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(vars(found)))
