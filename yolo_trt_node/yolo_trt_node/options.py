"""Options: each is one field of a dataclass, and everything else about it follows from there.

A field made by `option` carries its text, range and choices. `options_of` reads them off a dataclass; from
that follow ROS parameters and their descriptors, launch arguments, command lines (`add_arguments`), what a
parameter file may hold, and the checks (`from_values`, `check_fields`). No ROS.
"""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

Value = str | float | int | bool | list[str]
"""What an option may be as users write it: a parameter's value."""
Values = Mapping[str, Value]

T = TypeVar("T")

_KEY = "yolo_trt_node.option"
_KINDS = {bool: "true or false", str: "a text", int: "a whole number", float: "a number with a point"}


@dataclass(frozen=True)
class _Rule:
    """What a field's metadata say of it; see `option`."""

    text: str
    low: float | None
    high: float | None
    choices: tuple[str, ...]
    name: str
    shown: Value | None
    unset: float | None
    read: Callable[[Any], Any] | None


def option(
    default: Any,
    text: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    name: str = "",
    shown: Value | None = None,
    unset: float | None = None,
    read: Callable[[Any], Any] | None = None,
) -> Any:
    """Make a dataclass field that is an option.

    Args:
        default: the field's value where nobody gives one. Where it is ``None``, ``unset`` says how users
            write that. An empty tuple is a list of one empty text to users: ROS cannot tell the type of an
            empty list.
        text: what it does, with its unit, for a user.
        low: smallest number allowed, as users write it.
        high: largest number allowed, likewise; give both or neither.
        choices: the only texts allowed; empty for any.
        name: how users call it, where not as the field is called.
        shown: the default as users write it, where not as the field holds it.
        unset: a number outside the range that stands for ``None``.
        read: makes the field's value of the user's, where they differ (a unit, a syntax); ValueError where it
            cannot.
    """
    rule = _Rule(text, low, high, choices, name, shown, unset, read)
    return field(default=default, metadata={_KEY: rule})


@dataclass(frozen=True)
class Option:
    """One option, as users meet it.

    Attributes:
        name: as a parameter, in a parameter file and as a launch argument.
        field: the dataclass field that it sets.
        default: its value where nobody gives one; its Python type is the option's.
        text: what it does, with its unit.
        live: whether it may change between two images; the others take effect when the node is configured.
        low: smallest number allowed.
        high: largest number allowed.
        choices: the only texts allowed; empty for any.
        unset: a number that is allowed beside the range; it means "not given".
        convert: see `option`'s ``read``.
    """

    name: str
    field: str
    default: Value
    text: str
    live: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    unset: float | None = None
    convert: Callable[[Any], Any] | None = None

    @property
    def flag(self) -> str:
        """How it is called on a command line."""
        return "--" + self.name.replace("_", "-").replace(".", "-")

    @property
    def range(self) -> tuple[float, float] | None:
        """The numbers that ROS should let through, ``unset`` among them; ``None``: any."""
        if self.low is None or self.high is None:
            return None
        return (self.low if self.unset is None else min(self.low, self.unset)), self.high

    @property
    def expectation(self) -> str:
        """Say in words which values it takes."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        words = _KINDS.get(type(self.default), "a list of texts")
        if self.range is not None:
            words += f" from {_plain(self.range[0])} to {_plain(self.range[1])}"
        return words

    def check(self, value: Any) -> None:
        """Check a value as users write it: its type, range and choices.

        Raises:
            ValueError: it is not allowed; the message names the option and what it takes.
        """
        if type(value) is not type(self.default) or (
            isinstance(value, list) and not all(isinstance(entry, str) for entry in value)
        ):
            raise ValueError(f"{self.name} is {value!r}, but must be {self.expectation}")
        if self.choices and value not in self.choices:
            raise ValueError(f"{self.name} is {value!r}; use {self.expectation}")
        if not isinstance(value, str | list | bool):
            _check_number(self.name, value, self.low, self.high, self.unset)

    def read(self, value: Any) -> Any:
        """Return the field's value for a value as users write it.

        Raises:
            ValueError: it is not allowed.
        """
        self.check(value)
        if self.unset is not None and value == self.unset:
            return None
        if self.convert is not None:
            return self.convert(value)
        return tuple(entry for entry in value if entry) if isinstance(value, list) else value

    def parse(self, text: str) -> Value:
        """Read a value from a text, as launch arguments are; a list's entries are separated by commas.

        Raises:
            ValueError: the text is no such value.
        """
        value: Value = text
        try:
            if isinstance(self.default, bool):
                value = {"true": True, "1": True, "false": False, "0": False}[text.lower()]
            elif isinstance(self.default, int | float):
                value = type(self.default)(text)
            elif isinstance(self.default, list):
                # With or without the brackets and quotes that a parameter file has.
                bare = text.strip().removeprefix("[").removesuffix("]")
                value = [entry.strip().strip("\"'") for entry in bare.split(",")]
        except (ValueError, KeyError):
            raise ValueError(f"{self.name}:={text} must be {self.expectation}") from None
        self.check(value)
        return value


def _plain(number: float) -> str:
    """Write a limit, a whole number as one."""
    return str(int(number) if number == int(number) else number)


def _check_number(
    name: str, value: float, low: float | None, high: float | None, unset: float | None = None
) -> None:
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}, which is no number to work with")
    if low is not None and high is not None and value != unset and not low <= value <= high:
        raise ValueError(f"{name} is {value}, but must lie between {_plain(low)} and {_plain(high)}")


def options_of(kind: type, prefix: str = "", *, live: bool = False) -> tuple[Option, ...]:
    """Return the options that a dataclass's fields are, in their order.

    Args:
        kind: a dataclass; fields that `option` did not make are left out.
        prefix: begins the options' names.
        live: whether they may change between two images.
    """
    found = []
    for entry in fields(kind):
        rule: _Rule | None = entry.metadata.get(_KEY)
        if rule is None:
            continue
        shown = rule.shown
        if shown is None:
            shown = entry.default if entry.default is not MISSING else None
        if entry.default is None:
            shown = rule.unset
        elif isinstance(shown, tuple):
            shown = list(shown) or [""]
        assert shown is not None, f"{kind.__name__}.{entry.name} has no default"
        found.append(
            Option(
                name=prefix + (rule.name or entry.name),
                field=entry.name,
                default=shown,
                text=rule.text,
                live=live,
                low=rule.low,
                high=rule.high,
                choices=rule.choices,
                unset=rule.unset,
                convert=rule.read,
            )
        )
    return tuple(found)


def from_values(kind: type[T], given: Values, prefix: str = "") -> T:
    """Make a dataclass of its options' values; what is not given keeps its default.

    Raises:
        ValueError: a value is not allowed.
    """
    options = options_of(kind, prefix)
    return kind(**{entry.field: entry.read(given[entry.name]) for entry in options if entry.name in given})


def check_fields(made: object) -> None:
    """Check an instance's fields against their options' ranges and choices; for ``__post_init__``.

    Raises:
        ValueError: a value is not allowed; the message names the field.
    """
    for entry in options_of(type(made)):
        value = getattr(made, entry.field)
        if entry.choices and value not in entry.choices:
            raise ValueError(f"{entry.field} is {value!r}; use {entry.expectation}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            # The range is in the user's unit.
            low, high = (
                limit if limit is None or entry.convert is None else entry.convert(limit)
                for limit in (entry.low, entry.high)
            )
            _check_number(entry.field, value, low, high)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return which known name a wrong one most likely meant, as the end of a message; empty for none."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def add_arguments(parser: argparse.ArgumentParser, options: Iterable[Option]) -> None:
    """Give a command line the options; what is not given there is ``None``."""
    for entry in options:
        shown = entry.default
        if isinstance(shown, list):
            shown = " ".join(filter(None, shown)) or "none"
        elif isinstance(shown, bool):
            shown = str(shown).lower()
        more: dict[str, Any] = {
            "dest": entry.name,
            "help": f"{entry.text} Default: {shown if shown != '' else 'empty'}.".replace("%", "%%"),
        }
        if isinstance(entry.default, bool):
            more["action"] = argparse.BooleanOptionalAction
        else:
            more["metavar"] = entry.name.rpartition(".")[2].upper()
            if isinstance(entry.default, list):
                more["nargs"] = "+"
            else:
                more["type"] = type(entry.default)
            if entry.choices:
                more |= {"choices": entry.choices, "metavar": None}
        parser.add_argument(entry.flag, default=None, **more)


def given_arguments(namespace: argparse.Namespace, options: Iterable[Option]) -> dict[str, Value]:
    """Return the values of the options that were given on a command line."""
    found = {entry.name: getattr(namespace, entry.name, None) for entry in options}
    return {name: value for name, value in found.items() if value is not None}
