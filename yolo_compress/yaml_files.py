"""Reading YAML of anybody: small, plain, and never more than it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolo_compress.errors import UserError

# Recipes and descriptions of data sets have a few hundred nodes; lists of images are files of their own.
LARGEST_BYTES = 4 * 2**20
DEEPEST = 32
MOST_NODES = 200_000
# libyaml is fifty times as fast; the wheels of PyYAML have it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_yaml(path: Path, what: str) -> Any:
    """Read a YAML file.

    Args:
        path: UTF-8, at most 4 MiB, nested at most 32 deep.
        what: names the file's purpose in errors, as in ``the recipe``.

    Returns:
        Plain values. Aliases are allowed as long as the whole stays small.

    Raises:
        UserError: the file cannot be read, or is no such YAML; the message says why.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # no name of a file holds a null byte
        raise UserError(f"cannot read {what} {path}: {getattr(error, 'strerror', error)}") from error
    if len(content) > LARGEST_BYTES:
        raise UserError(f"{what} {path} is larger than {LARGEST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{what} {path} is no valid YAML: it is not UTF-8; save it as UTF-8") from error
    return parse_yaml(text, f"{what} {path}")


def parse_yaml(text: str, what: str) -> Any:
    """Parse YAML text; see `read_yaml`."""
    try:
        require_small(text, what)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"{what} is no valid YAML: {error}") from error


def require_small(text: str, what: str) -> None:
    """Count nodes as if every alias were written out, before anything is built.

    Raises:
        UserError: they are too many, too deep, or endless.
        yaml.YAMLError: the text is no YAML.
    """
    sizes: dict[str, int] = {}
    # Of each open collection: its anchor, and the nodes in it so far.
    opened: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, total))
            total += 1
            if len(opened) > DEEPEST:
                raise UserError(f"{what} is nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in opened):
                raise UserError(f"{what} contains itself: *{event.anchor} stands inside of &{event.anchor}")
            total += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if total > MOST_NODES:
            raise UserError(f"{what} holds more than {MOST_NODES:,} values, its aliases written out")
