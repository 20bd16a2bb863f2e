"""The description of a data set: which folders, which classes. Ultralytics' rules, and its refusals."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yolo_compress.errors import UserError
from yolo_compress.yaml_files import LARGEST_BYTES, require_small

# What Ultralytics' loader takes, by the name's ending in lower case.
IMAGE_FORMATS = frozenset(
    ("avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp")
)
# What a description may hold besides text that YAML knows; Ultralytics takes such a file without it.
_UNPRINTABLE = re.compile("[^\x09\x0a\x0d\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")
_TYPES: dict[str, tuple[type, ...]] = {
    "path": (str,),
    "train": (str, list),
    "val": (str, list),
    "test": (str, list),
    "names": (list, dict),
    "kpt_shape": (list,),
}
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz")


@dataclass(frozen=True)
class Description:
    """A data set description that was read.

    Attributes:
        path: the file.
        root: folder that its entries are relative to.
        names: of the classes, in the order of their numbers.
        named: False where the file gives only how many classes there are.
        splits: entries of each split as they were written, none of them empty.
        keypoints: columns that a label of a pose data set has behind its box; 0 elsewhere.
        channels: of the images.
    """

    path: Path
    root: Path
    names: tuple[str, ...]
    named: bool
    splits: dict[str, tuple[str, ...]]
    keypoints: tuple[int, int] = (0, 0)
    channels: int = 3


def find_description(data: Path) -> Path:
    """Return a data set's description: the file itself, or the one in a folder.

    Raises:
        UserError: there is none, or more than one.
    """
    if not os.path.isdir(data):
        if data.suffix.lower() in _ARCHIVES:
            raise UserError(f"{data} is an archive; unpack it and name the YAML file inside")
        return data
    for pattern in ("*.yaml", "*.yml"):
        files = sorted(data.glob(pattern)) or sorted(data.rglob(pattern))
        if len(files) > 1:
            files = [file for file in files if file.stem == data.resolve().name] or files
        if len(files) == 1:
            return files[0]
        if files:
            listed = ", ".join(str(file.relative_to(data)) for file in files[:5])
            raise UserError(f"the folder {data} holds {len(files)} descriptions ({listed}); name one of them")
    raise UserError(f"the folder {data} holds no data set description (*.yaml); write one, or name the file")


def read_description(data: Path) -> Description:
    """Read an Ultralytics data set description.

    Args:
        data: the YAML file, or a folder that holds one.

    Raises:
        UserError: it cannot be read, or Ultralytics would refuse it; the message says what to correct.
    """
    path = find_description(data)
    content = _load(path)

    def refuse(text: str) -> UserError:
        return UserError(f"{path}: {text}")

    for key, types in _TYPES.items():
        if content.get(key) is not None and not isinstance(content[key], types):
            wanted = " or ".join(
                {"str": "text", "list": "a list", "dict": "a mapping"}[t.__name__] for t in types
            )
            raise refuse(f"`{key}:` must be {wanted}, not {type(content[key]).__name__} ({content[key]!r})")
    if not content.get("val") and content.get("validation"):
        content["val"] = content.pop("validation")
    names, named = _names(content, refuse)
    keypoints = tuple(content.get("kpt_shape") or (0, 0))
    if len(keypoints) != 2 or not all(isinstance(value, int) and value >= 0 for value in keypoints):
        raise refuse(f"`kpt_shape:` must be two numbers, as [17, 3], not {content['kpt_shape']!r}")
    channels = content.get("channels") or 3
    if channels not in (1, 3):
        raise refuse(
            f"`channels: {channels}`: detectors here take images of 3 channels; grey ones are fine too"
        )
    root = Path(content.get("path") or ".")
    root = root if root.is_absolute() else path.absolute().parent / root
    splits: dict[str, tuple[str, ...]] = {}
    for key, value in content.items():
        entries = value if isinstance(value, list) else [value]
        if key != "path" and entries and all(isinstance(entry, str) and entry for entry in entries):
            splits[str(key)] = tuple(entries)
    return Description(path, root, names, named, splits, (keypoints[0], keypoints[1]), channels)


def _load(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            given = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as error:  # no name of a file holds a null byte
        raise UserError(
            f"cannot read the data set description {path}: {getattr(error, 'strerror', error)}"
        ) from error
    if len(given) > LARGEST_BYTES:
        raise UserError(f"the data set description {path} is larger than {LARGEST_BYTES >> 20} MiB")
    text = given.decode("utf-8", errors="ignore")
    try:
        try:
            content = _parse(text, path)
        except yaml.YAMLError:
            content = _parse(_UNPRINTABLE.sub("", text), path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(
            f"the data set description {path} is no valid YAML: {' '.join(str(error).split())}; "
            "indent by spaces, and quote what holds a colon"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is no data set description: it holds no `key: value` lines")
    return content


def _parse(text: str, path: Path) -> Any:
    """Parse YAML that is small also where its aliases are written out."""
    require_small(text, f"the data set description {path}")
    return yaml.safe_load(text)


def _names(content: dict[str, Any], refuse: Any) -> tuple[tuple[str, ...], bool]:
    """Return the classes' names in numeric order, and whether the description has any."""
    count = content.get("nc")
    if "nc" in content and not isinstance(count, int):
        try:
            if (number := float(str(count))) != int(number):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise refuse(f"`nc: {count}` must be a whole number") from None
        count = int(number)
    names = content.get("names")
    if names is None:
        if count is None:
            raise refuse("has no names; it needs `names:`, or `nc:` with the number of classes")
        if not 0 < count <= 100_000:
            raise refuse(f"`nc: {count}`: at least one class is needed")
        return tuple(f"class_{index}" for index in range(count)), False
    if not names:
        raise refuse("`names:` is empty; at least one class is needed")
    if count is not None and count != len(names):
        raise refuse(f"has {len(names)} names but `nc: {count}`; correct one of them, or leave `nc:` out")
    if isinstance(names, list):
        return tuple(str(name) for name in names), True
    try:
        numbered = {int(key): str(name) for key, name in names.items()}
    except (TypeError, ValueError):
        raise refuse(f"the keys of `names:` must be numbers, as in `0: car`, not {list(names)[:5]}") from None
    if sorted(numbered) != list(range(len(names))):
        raise refuse(
            f"`names:` numbers its {len(names)} classes {min(numbered)} to {max(numbered)}; they count "
            f"from 0 to {len(names) - 1}, and so do the labels"
        )
    return tuple(numbered[index] for index in range(len(names))), True


@dataclass(frozen=True)
class Listing:
    """The image files of a split, sorted as Ultralytics sorts them; and lines of lists that name no image."""

    images: tuple[Path, ...]
    skipped: tuple[str, ...]


def list_images(description: Description, split: str) -> Listing:
    """List the image files of a split: everything with an image's ending, at any depth, hidden files aside.

    Args:
        description: of the data set.
        split: a key of the description.

    Raises:
        UserError: there is no such split, an entry of it does not exist, or it has no images.
    """
    data = description.path
    entries = description.splits.get(split)
    if entries is None:
        raise UserError(
            f"{data} has no split {split!r}; it needs `{split}:` with a folder, a list file, or several"
            + (f" (it has {', '.join(description.splits)})" if description.splits else "")
        )
    found: list[str] = []
    skipped: list[str] = []
    for entry in entries:
        try:
            place = (description.root / entry).resolve()
            # Roboflow writes ../train/images for a folder that lies beside the description.
            if not place.exists() and len(entries) == 1 and entry.startswith("../"):
                place = (description.root / entry[3:]).resolve()
            place.is_dir()
        except (OSError, ValueError, RuntimeError) as error:  # too long, a null byte, a loop of links
            raise UserError(
                f"{data}: the split {split!r} names {entry[:200]!r}, which is no path: {error}"
            ) from error
        if place.is_dir():
            found += glob.glob(os.path.join(glob.escape(str(place)), "**", "*.*"), recursive=True)
        elif place.is_file():
            listed = _lines(place, description.root)
            found += listed
            skipped += [line for line in listed if not _is_image(line)]
        else:
            raise UserError(
                f"{data}: the split {split!r} points at {place}, which does not exist; `path:` in the "
                "description is taken relative to the description's own folder" + _hint(str(place))
            )
    images = sorted(name for name in found if _is_image(name))
    if not images:
        raise UserError(
            f"{data}: the split {split!r} has no images in {', '.join(map(str, entries))}; taken are "
            f"{', '.join(sorted(IMAGE_FORMATS))}"
        )
    return Listing(tuple(Path(name) for name in images), tuple(skipped))


def _hint(entry: str) -> str:
    if "*" in entry or "?" in entry:
        return "; wildcards are not followed: name the folder, or a list file"
    return "; ~ is not followed: write the whole path" if "~" in entry else ""


def _is_image(name: str) -> bool:
    return name.rpartition(".")[-1].lower() in IMAGE_FORMATS


def _lines(path: Path, root: Path) -> Sequence[str]:
    """Return the paths that a list file names, absolute; ``./`` is the list's own folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").strip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"cannot read the list of images {path} ({error}); a split is a folder, or a text file with "
            "the path of an image a line"
        ) from error
    own = f"{path.parent}{os.sep}"
    return [
        line.replace("./", own, 1) if line.startswith("./") else os.path.join(root, line)
        for line in lines
        if line.strip()
    ]
