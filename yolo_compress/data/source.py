"""The images of a run: a data set that the user has, or scenes generated into the run's folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
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
from yolo_compress.data.labelled import beside, read_split, spread
from yolo_compress.errors import UserError


@dataclass(frozen=True)
class Source:
    """Where a run finds its images.

    Attributes:
        description: Ultralytics data set description with absolute paths, in the run's folder.
        name: for people.
        fingerprint: a hash that changes when description, images or labels do.
    """

    description: Path
    name: str
    fingerprint: str


def prepare_source(recipe: Recipe, folder: Path, console: Console) -> Source:
    """Generate what is to be generated, and write the description that training and evaluation read.

    Args:
        recipe: its `data` says where the images come from.
        folder: of the run; receives ``data.yaml`` and, where the recipe asks for them, the scenes or the
            lists of the images chosen.
        console: for progress.

    Raises:
        UserError: the data cannot be used.
    """
    splits = sorted({"train", "val", recipe.evaluate.split})
    scenes, limit = recipe.data.scenes, recipe.data.limit
    given = (
        recipe.data.yaml if scenes is None else _generate(scenes, recipe.threads, folder / "data", console)
    )
    assert given is not None  # one of the two, says the recipe's validation
    read = {split: read_split(given, split) for split in splits}
    content = yaml.safe_load(given.read_text(encoding="utf-8"))
    # Ultralytics looks for a relative path in its own settings' folder.
    content["path"] = str((given.parent / str(content.get("path") or ".")).resolve())
    if limit is not None:
        for split in splits:
            listed = folder / f"{split}.txt"
            _write(listed, "".join(f"{image.absolute()}\n" for image in spread(read[split].images, limit)))
            content[split] = str(listed.absolute())
    description = folder / "data.yaml"
    _write(description, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    name = "generated scenes" if scenes else given.stem
    if scenes is None:
        return Source(description, name, _fingerprint(description, splits))
    return Source(description, name, _fingerprint_of_scenes(scenes, description, splits))


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


def _generate(scenes: Scenes, threads: int, folder: Path, console: Console) -> Path:
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


def _fingerprint(description: Path, splits: Sequence[str]) -> str:
    """Hash the description, and images and labels by path, size and time of change.

    Reading gigabytes before each run would cost more than the rare false alarm.
    """
    entries = [
        (str(path), status.st_size, status.st_mtime_ns) for path, status in _files(description, splits)
    ]
    return files.digest_of([description.read_text(encoding="utf-8"), entries])


def _fingerprint_of_scenes(scenes: Scenes, description: Path, splits: Sequence[str]) -> str:
    """Hash what was generated from what, so that a run's folder can be copied and moved."""
    entries = [
        (os.path.relpath(path, description.parent), status.st_size)
        for path, status in _files(description, splits)
    ]
    return files.digest_of([scenes.model_dump(mode="json"), entries])


def _files(description: Path, splits: Sequence[str]) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield the images of some splits and what is beside each, with their status."""
    for split in splits:
        for image in read_split(description, split).images:
            for path in (image, beside(image, "labels"), beside(image, "annotations")):
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()


def _write(path: Path, text: str) -> None:
    """Write a file unless it says so already: Ultralytics' label cache looks at the time of change."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)
