"""The images of a run: a data set that the user has, or scenes generated into the run's folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.progress import Progress

from aerial_scenes.dataset import generate_dataset
from aerial_scenes.scenes import SceneSpec
from yolo_compress import files
from yolo_compress.config.sections import Recipe, Scenes
from yolo_compress.data.labelled import Split, beside, read_split
from yolo_compress.data.training_set import write_description, write_training_set
from yolo_compress.errors import UserError

# Held while the data of a run's folder are laid out.
_LOCK = ".data.lock"


@dataclass(frozen=True)
class RunData:
    """Where a run finds its images.

    Attributes:
        description: Ultralytics data set description with absolute paths, in the run's folder.
        name: for people.
        fingerprint: a hash that changes when description, images or labels do.
    """

    description: Path
    name: str
    fingerprint: str


def prepare_source(recipe: Recipe, folder: Path, console: Console) -> RunData:
    """Generate what is to be generated, and write the description that training and evaluation read.

    Args:
        recipe: its `data` says where the images come from.
        folder: of the run; receives ``data.yaml`` and either the scenes, or links to exactly the images that
            are trained and measured on (`write_training_set`).
        console: for progress.

    Raises:
        UserError: the data cannot be used.
    """
    with files.locked(folder / _LOCK, wait=True):  # several processes may share a comparison
        return _prepare(recipe, folder, console)


def _prepare(recipe: Recipe, folder: Path, console: Console) -> RunData:
    splits = sorted({"train", "val", recipe.evaluate.split})
    scenes, limit = recipe.data.scenes, recipe.data.limit
    description = folder / "data.yaml"
    if scenes is None:
        given = recipe.data.yaml
        assert given is not None  # one of the two, says the recipe's validation
        read = {split: read_split(given, split, limit=limit) for split in splits}
        for name, one in read.items():
            one.require_labels(name)
            _tell_dropped(name, one, console)
        fingerprint = _fingerprint(read)
        write_description(write_training_set(read, folder / "training_set", fingerprint), description)
        return RunData(description, read["train"].description.path.stem, fingerprint)
    given = generate_scenes(scenes, recipe.threads, folder / "data", console)
    content = yaml.safe_load(given.read_text(encoding="utf-8"))
    # Ultralytics looks for a relative path in its own settings' folder.
    content["path"] = str((given.parent / str(content.get("path") or ".")).resolve())
    if limit is not None:
        for split in splits:
            listed = folder / f"{split}.txt"
            images = read_split(given, split, limit=limit).images
            files.write_text(listed, "".join(f"{image.absolute()}\n" for image in images))
            content[split] = str(listed.absolute())
    write_description(content, description)
    return RunData(description, "generated scenes", _fingerprint_of_scenes(scenes, description, splits))


def _tell_dropped(name: str, split: Split, console: Console) -> None:
    for reason, count, examples in split.reasons():
        console.print(
            f"data: {count} images of {name} are left out: {reason}; first {examples[0]}",
            soft_wrap=True,
            markup=False,
        )


def camera_spec(scenes: Scenes) -> SceneSpec:
    """Return the specification of the camera's own frames, before they are scaled to the training images.

    Raises:
        UserError: a field is unknown or out of range.
    """
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in scenes.camera.items()}
    try:
        return SceneSpec(**given)
    except (TypeError, ValueError) as error:
        raise UserError(f"data.scenes.camera: {error}") from error


def generate_scenes(scenes: Scenes, threads: int, folder: Path, console: Console) -> Path:
    """Generate scenes into a folder, or find them there, and return their description (``data.yaml``).

    Raises:
        UserError: the section describes no scenes that can be, or the folder cannot be written.
    """
    try:
        spec = camera_spec(scenes).scaled(scenes.scale, width=scenes.width, height=scenes.height)
    except ValueError as error:
        raise UserError(f"data.scenes: {error}") from error
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("scenes", total=scenes.train + scenes.val)
        try:
            return generate_dataset(
                folder,
                train=scenes.train,
                val=scenes.val,
                seed=scenes.seed,
                spec=spec,
                workers=min(2, threads),
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        except OSError as error:
            raise UserError(f"cannot generate the scenes: {error}") from error


def _fingerprint(read: Mapping[str, Split]) -> str:
    """Hash names and choice of images, and images and labels by path, size and time of change.

    Reading gigabytes before each run would cost more than the rare false alarm.
    """
    entries = [
        (name, str(path.absolute()), status.st_size, status.st_mtime_ns)
        for name, split in sorted(read.items())
        for path, status in _files(split)
    ]
    return files.digest_of([next(iter(read.values())).names, entries])


def _fingerprint_of_scenes(scenes: Scenes, description: Path, splits: Sequence[str]) -> str:
    """Hash what was generated from what, so that a run's folder can be copied and moved."""
    entries = [
        (os.path.relpath(path, description.parent), status.st_size)
        for split in splits
        for path, status in _files(read_split(description, split))
    ]
    return files.digest_of([scenes.model_dump(mode="json"), entries])


def _files(split: Split) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the images of a split and what is beside each, with their status."""
    for image in split.images:
        for path in (image, beside(image, "labels"), beside(image, "annotations")):
            with contextlib.suppress(FileNotFoundError):
                yield path, path.stat()
