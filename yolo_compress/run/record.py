"""What a run leaves in its folders: the names of the files, and what their records say."""

from __future__ import annotations

import datetime
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolo_compress import files
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.measure.latency import Latency

CHECKPOINT = "model.pt"
ONNX = "model.onnx"
RECORD = "stage.json"
# What the model got right in each image, see `measure.matches`.
MATCHES = "matches.npz"
# Hash of the inputs of a stage that has begun: what it left half done is of use to the same inputs only.
BEGUN = "inputs.sha256"
RECIPE = "recipe.yaml"
COMMANDS = "commands.txt"
EXPORTS = "export.json"
# Held by the process that works in a folder.
LOCK = ".lock"


@dataclass(frozen=True)
class StageResult:
    """What a stage left.

    Attributes:
        name: of the stage.
        checkpoint: stock Ultralytics ``.pt``.
        onnx: the exported, self-describing model.
        params: number of parameters.
        gmacs: multiply-accumulates in billions at the recipe's input size.
        accuracy: of the exported model on images never trained on.
        latency: of the exported model, beside the dense one's.
    """

    name: str
    checkpoint: Path
    onnx: Path
    params: int
    gmacs: float
    accuracy: Accuracy
    latency: Latency


# What every record of a finished stage holds.
_RECORDED: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "inputs": str,
    "checkpoint_sha256": str,
    "input_size": int,
    "seconds": (int, float),
    "params": int,
    "gmacs": (int, float),
}


def read_record(folder: Path) -> dict[str, Any]:
    """Return a stage's ``stage.json``, empty where the stage is not finished or the record damaged."""
    record = files.read_json(folder / RECORD)
    whole = all(isinstance(record.get(key), kind) for key, kind in _RECORDED.items())
    return record if whole else {}


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write a stage's ``stage.json``: the stage is done."""
    files.write_json(folder / RECORD, record)


def memo(
    path: Path,
    key: str,
    of: str,
    make: Callable[[], Mapping[str, Any]],
    valid: Callable[[Mapping[str, Any]], bool] = lambda entry: True,
) -> dict[str, Any]:
    """Return an entry of a JSON file, made and written unless it is there already, of the same things.

    Args:
        path: the file; its other entries stay.
        key: of the entry.
        of: hash of everything that the entry follows from, kept in it as ``of``.
        make: returns what belongs into the entry, plain values.
        valid: whether what the entry tells of is still so.
    """
    entry = files.read_json(path).get(key)
    if isinstance(entry, dict) and entry.get("of") == of and valid(entry):
        return entry
    entry = {"of": of, **make()}
    files.write_json(path, {**files.read_json(path), key: entry})
    return entry


def stage_result(folder: Path) -> StageResult:
    """Return what the record of a stage that is done and measured says."""
    record = read_record(folder)
    return StageResult(
        name=record["stage"],
        checkpoint=folder / CHECKPOINT,
        onnx=folder / ONNX,
        params=record["params"],
        gmacs=record["gmacs"],
        accuracy=accuracy_of(record),
        latency=Latency(**without_hash(record["latency"])),
    )


def accuracy_of(record: Mapping[str, Any]) -> Accuracy:
    """Return the accuracy that a stage's record tells of."""
    return Accuracy.from_record(without_hash(record["accuracy"]))


def without_hash(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry that `memo` made without its hash."""
    return {name: value for name, value in entry.items() if name != "of"}


def percent(value: float | None) -> str:
    """Render a share as per cent; a dash where there is none."""
    return "-" if value is None else f"{100 * value:.1f}"


def command_line() -> str:
    """Return what was typed to start this process, without the folder of the program."""
    main = sys.modules["__main__"]
    package = getattr(getattr(main, "__spec__", None), "name", "").removesuffix(".__main__")
    program = f"python -m {package}" if package else Path(sys.argv[0]).name
    return " ".join([program, *map(shlex.quote, sys.argv[1:])])


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
