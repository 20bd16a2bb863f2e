"""The records of a comparison without its models: small enough to be kept beside the code, and shown again.

``records.json`` holds of each arm and seed the figures and, of each stage on the way, its command, date,
versions, channels and losses; ``matches/`` what each model got right in each image. Tables, intervals and
pictures follow from these alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from yolo_compress import files
from yolo_compress.config.loading import Arms
from yolo_compress.config.sections import Recipe
from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import Accuracy
from yolo_compress.measure.latency import Latency
from yolo_compress.measure.matches import Matches
from yolo_compress.run.record import read_record
from yolo_compress.training.job import HISTORY
from yolo_compress.verdicts import ComparisonResult, Row

RECORDS = "records.json"
_MATCHES = "matches"
# Of a stage's record, what anybody may want to know later.
_TOLD = (
    "stage",
    "command",
    "finished",
    "seconds",
    "versions",
    "input_size",
    "params",
    "gmacs",
    "checkpoint_sha256",
    "pruning",
    "channels",
)


def way(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """Return what is worth keeping of the stages in these folders, with the losses of each epoch."""
    told = []
    for folder in folders:
        record = read_record(folder)
        entry = {key: record[key] for key in _TOLD if key in record}
        if (folder / HISTORY).is_file():
            entry["history"] = json.loads((folder / HISTORY).read_text(encoding="utf-8"))
        told.append(entry)
    return told


def keep(result: ComparisonResult, recipes: dict[str, Recipe], folder: Path) -> None:
    """Write the records of what is there of a comparison.

    Args:
        result: the comparison so far.
        recipes: of each of its rows.
        folder: to write into; what it held of the comparison is replaced.
    """
    (folder / _MATCHES).mkdir(parents=True, exist_ok=True)
    for old in (folder / _MATCHES).glob("*.npz"):
        old.unlink()
    rows = {}
    for row in result.rows:
        for seed, matches in row.matches.items():
            matches.save(_matches_file(folder, row.name, seed))
        rows[row.name] = {
            "recipe": _recipe(recipes[row.name]),
            "kind": row.kind,
            "epochs": row.epochs,
            "params": row.params,
            "gmacs": row.gmacs,
            "latency": None if row.latency is None else asdict(row.latency),
            "seeds": {
                # Precision over recall follows from the matches.
                seed: {"accuracy": _without_curves(accuracy), "stages": row.stages.get(seed, [])}
                for seed, accuracy in row.accuracy.items()
            },
        }
    parts = {name: list(images) for name, images in result.parts.items()}
    # A line a value would be ten thousands; an arm a line can still be told apart.
    lines = [f"{json.dumps(name)}: {json.dumps(row)}" for name, row in rows.items()]
    text = f'{{"images": {result.images},\n"parts": {json.dumps(parts)},\n"arms": {{\n' + ",\n".join(lines)
    files.write_text(folder / RECORDS, text + "\n}}\n")


def read(arms: Arms, recipes: dict[str, Recipe], folder: Path) -> ComparisonResult | None:
    """Return the comparison that `keep` wrote; None where there is none.

    Args:
        arms: the comparison.
        recipes: of each of its rows, in their order.
        folder: with the records.

    Raises:
        UserError: an arm's record is of another recipe than the comparison's.
    """
    document = files.read_json(folder / RECORDS)
    if "arms" not in document:
        return None
    rows, missing = [], []
    for name, recipe in recipes.items():
        entry = document["arms"].get(name)
        if entry is None:
            missing += [(name, seed) for seed in arms.comparison.seeds]
            continue
        if entry["recipe"] != _recipe(recipe):
            raise UserError(
                f"{folder / RECORDS}: what was kept of the arm {name} is of another recipe than the "
                f"comparison's; kept {entry['recipe']}, now {_recipe(recipe)}"
            )
        seeds = {int(seed): kept for seed, kept in entry["seeds"].items()}
        missing += [(name, seed) for seed in arms.comparison.seeds if seed not in seeds]
        found = {seed: Matches.load(_matches_file(folder, name, seed)) for seed in seeds}
        rows.append(
            Row(
                name=name,
                kind=entry["kind"],
                epochs=entry["epochs"],
                params=entry["params"],
                gmacs=entry["gmacs"],
                accuracy={seed: Accuracy.from_record(kept["accuracy"]) for seed, kept in seeds.items()},
                latency=None if entry["latency"] is None else Latency(**entry["latency"]),
                matches={seed: matches for seed, matches in found.items() if matches is not None},
                left_out=arms.comparison.left_out,
                stages={seed: kept["stages"] for seed, kept in seeds.items()},
            )
        )
    parts = {
        name: tuple(document["parts"][name]) for name in arms.comparison.parts if name in document["parts"]
    }
    return ComparisonResult(arms, tuple(rows), tuple(missing), document["images"], parts)


def _matches_file(folder: Path, name: str, seed: int) -> Path:
    return folder / _MATCHES / f"{name}-seed{seed}.npz"


def _without_curves(accuracy: Accuracy) -> dict[str, Any]:
    return asdict(
        replace(accuracy, per_class=tuple(replace(entry, precision=()) for entry in accuracy.per_class))
    )


def _recipe(recipe: Recipe) -> dict[str, Any]:
    """Return what decides an arm's weights, models by their names alone: where they lie is of no account."""
    keys = {*Recipe.stage_sections(), "input_size", "amp"}
    content: dict[str, Any] = recipe.model_dump(mode="json", include=keys, exclude_defaults=True)
    for section in content.values():
        if isinstance(section, dict) and "model" in section:
            section["model"] = Path(section["model"]).name
    return content
