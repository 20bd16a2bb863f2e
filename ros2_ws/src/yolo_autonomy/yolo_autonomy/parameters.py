"""Tables of parameters, and how launch arguments set them; no ROS."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Table = Mapping[str, tuple[Any, str]]
"""Parameters by name: the default, and what it means (with its unit)."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def texts(value: object) -> tuple[str, ...]:
    """Return a string array's texts without the empty ones (ROS cannot tell an empty array's type)."""
    return tuple(text for text in value if text) if isinstance(value, list | tuple) else ()


def within(values: Mapping[str, Any], name: str, low: float, high: float) -> float:
    """Return a number that lies in a range.

    Raises:
        ValueError: it does not.
    """
    value = float(values[name])
    if not low <= value <= high:  # NaN does not
        raise ValueError(f"{name} is {value:g}; it must lie in {low:g} to {high:g}")
    return value


def read(name: str, text: str, default: object) -> object:
    """Read a launch argument as a value of its parameter's type; lists are separated by commas.

    Raises:
        ValueError: the text is no such value.
    """
    text = text.strip()
    try:
        if isinstance(default, bool):
            return _BOOLEANS[text.lower()]
        if isinstance(default, float | int):
            number = type(default)(text)
            if not math.isfinite(number):
                raise ValueError
            return number
        if isinstance(default, list):
            parts = [part.strip() for part in text.strip("[]").split(",")]
            return [read(name, part, default[0]) for part in parts]
    except (KeyError, ValueError) as error:
        kinds = {bool: "true or false", int: "a whole number", float: "a number", list: "a list of numbers"}
        raise ValueError(f"{name}:={text} is not {kinds[type(default)]}") from error
    return text


def read_all(arguments: Mapping[str, str], table: Table) -> dict[str, object]:
    """Read the launch arguments that set parameters; empty ones leave the word to the parameter file.

    Raises:
        ValueError: one cannot be read.
    """
    given = {name: arguments.get(name, "") for name in table}
    return {name: read(name, text, table[name][0]) for name, text in given.items() if text.strip()}
