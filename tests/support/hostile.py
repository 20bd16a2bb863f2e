"""Files as strangers may send them: each would run code, hang or exhaust memory where it is believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


class _RunsOnLoading:
    """Leaves a mark in the file system where a pickle of it is opened without care."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._mark),)


def checkpoint_with_code(path: Path, mark: Path, beside: object = None) -> Path:
    """Write a checkpoint that makes the folder ``mark`` if what it holds is run."""
    torch.save({"model": beside, "ema": None, "epoch": -1, "extra": _RunsOnLoading(mark)}, path)
    return path


YAML_BOMBS = {
    "anchors": "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10)),
    "contains itself": "a: &a [*a]\n",
    "nested": "a: " + "[" * 5000 + "]" * 5000,
    "nested blocks": "".join(f"{' ' * i}a:\n" for i in range(200)),
    "large": "a: " + "x" * (10 * 2**20),
    "number": "seed: " + "9" * 10_000,
    "tag": "seed: !!python/object/apply:os.mkdir [mark]",
    "open": "a: [",
    "list": "- a\n- b\n",
    "empty": "",
    "null bytes": "a: \0",
    "date": "seed: 2026-01-01\n",
    "keys": "{[1, 2]: 3, 4: 5, null: 6}\n",
    "duplicate document": "a: 1\n---\nb: 2\n",
}


def yaml_bombs(folder: Path) -> dict[str, Path]:
    """Write each of `YAML_BOMBS`, and UTF-16 and bytes that are no text; return them by name."""
    contents = {name: text.encode() for name, text in YAML_BOMBS.items()}
    contents["UTF-16"] = "seed: 1\n".encode("utf-16")
    contents["bytes"] = bytes(range(256))
    paths = {}
    for index, (name, content) in enumerate(contents.items()):
        paths[name] = folder / f"{index}.yaml"
        paths[name].write_bytes(content)
    return paths
