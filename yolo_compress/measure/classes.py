"""Which class of a model is which class of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yolo_compress.errors import UserError


@dataclass(frozen=True)
class ClassMap:
    """How a model's and a data set's classes are compared.

    Attributes:
        names: of the classes that are measured.
        of_model: position in ``names`` of each of the model's classes; -1 for those that do not count.
        of_data: the same for the data set's classes.
    """

    names: tuple[str, ...]
    of_model: NDArray[np.int64]
    of_data: NDArray[np.int64]


def match_classes(
    model: Path | str,
    known: Sequence[str],
    data: Path,
    names: Sequence[str],
    *,
    named: bool = True,
    mapping: str | None = None,
) -> ClassMap:
    """Find which classes belong together.

    Without a mapping they do by number: the names may differ (``person`` and ``pedestrian``), but not stand
    in another order.

    Args:
        model: for messages.
        known: the model's class names.
        data: for messages.
        names: the data set's class names.
        named: False where the data set tells only how many classes it has.
        mapping: ``MODEL=DATA`` pairs of names with commas between, as ``car=car,truck=van``; what is not
            named does not count.

    Raises:
        UserError: the numbers of classes differ, the same names stand in another order, or the mapping names
            a class that is not there.
    """
    if mapping is not None:
        return _mapped(str(model), known, data, names, mapping)
    if len(known) != len(names):
        raise UserError(
            f"{model} knows {len(known)} classes ({_few(known)}), but {data} has {len(names)} "
            f"({_few(names)}); measure it on data with its own classes, or say which belong together: "
            f"--classes {_suggestion(known, names)}"
        )
    moved = [name for index, name in enumerate(known) if name in names and names[index] != name]
    if moved and named:
        raise UserError(
            f"{model} and {data} have the same classes in another order: {moved[0]} is class "
            f"{list(known).index(moved[0])} of the model and {list(names).index(moved[0])} of the data; what "
            "is measured by number would mean nothing. Correct `names:` in the description where the labels "
            f"are of the model's order, else match them by name: --classes {_suggestion(known, names)}"
        )
    same = np.arange(len(names))
    return ClassMap(tuple(names), same, same)


def _mapped(model: str, known: Sequence[str], data: Path, names: Sequence[str], mapping: str) -> ClassMap:
    pairs: list[tuple[str, str]] = []
    for entry in mapping.split(","):
        ours, equals, theirs = (part.strip() for part in entry.partition("="))
        if not equals:
            raise UserError(f"--classes {mapping}: {entry!r} is no MODEL=DATA pair, as in car=car,truck=van")
        for name, all_names, owner in ((ours, known, model), (theirs, names, data)):
            if name not in all_names:
                raise UserError(f"--classes: {owner} has no class {name!r}; it has {', '.join(all_names)}")
        pairs.append((ours, theirs))
    if len({ours for ours, _ in pairs}) < len(pairs):
        raise UserError(f"--classes {mapping}: a class of the model can mean only one of the data's")
    wanted = {theirs for _, theirs in pairs}
    measured = tuple(name for name in names if name in wanted)
    meaning = dict(pairs)
    return ClassMap(
        measured,
        np.array([measured.index(meaning[name]) if name in meaning else -1 for name in known], np.int64),
        np.array([measured.index(name) if name in wanted else -1 for name in names], np.int64),
    )


def _few(classes: Sequence[str]) -> str:
    return ", ".join(classes[:6]) + (", ..." if len(classes) > 6 else "")


def _suggestion(known: Sequence[str], names: Sequence[str]) -> str:
    shared = [name for name in known if name in names]
    return ",".join(f"{name}={name}" for name in shared) or f"{known[0]}={names[0]},..."
