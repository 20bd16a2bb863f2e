"""What the trainer is handed: a folder of its own with exactly the images that count.

Links to the images and labels of the user, and labels made from VisDrone's annotations, lie in the run's
folder. So Ultralytics' caches, and what it repairs, lie there too: the user's data are only read.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from aerial_scenes.visdrone import format_yolo_labels
from yolo_compress import files
from yolo_compress.data.labelled import Sample, Split, beside

# Marks a folder as finished, and for which data.
_MARK = "made_of"


def write_training_set(splits: Mapping[str, Split], folder: Path, fingerprint: str) -> dict[str, Any]:
    """Lay out splits for Ultralytics' trainer, unless they lie there already.

    Args:
        splits: what was read, by the split's name.
        folder: receives ``<split>/images``, ``<split>/labels``, ``<split>/annotations`` and the lists
            ``<split>.txt`` with the absolute path of an image a line; what it held of other data goes.
        fingerprint: changes when images or labels do.

    Returns:
        The content of the description: a list file for each split, and the names by number.
    """
    mark = folder / _MARK
    if not (mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint):
        shutil.rmtree(folder, ignore_errors=True)
        for name, split in splits.items():
            for kind in ("images", "labels", "annotations"):
                (folder / name / kind).mkdir(parents=True)
            for number, sample in enumerate(split.samples):
                _place(sample, folder / name / "images" / _file_name(number, sample.image))
        files.write_text(mark, fingerprint)
    for name, split in splits.items():
        # Anew each time: the folder of a run may have moved.
        images = (
            folder.resolve() / name / "images" / _file_name(*entry) for entry in enumerate(split.images)
        )
        text = "".join(f"{image}\n" for image in images)
        files.write_text(folder / f"{name}.txt", text)
    description = next(iter(splits.values())).description
    content: dict[str, Any] = {"path": str(folder.resolve())}
    content.update({name: str(folder.resolve() / f"{name}.txt") for name in splits})
    content["names"] = dict(enumerate(description.names))
    if any(description.keypoints):
        content["kpt_shape"] = list(description.keypoints)
    return content


def write_description(content: Mapping[str, Any], path: Path) -> None:
    """Write a description, unless the file says so already."""
    text = yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write_text(path, text)


def _file_name(number: int, image: Path) -> str:
    """Name an image so that the order is kept, no two are alike, and people know it again."""
    # With another letter, or a line break, a name could not stand in a list.
    return f"{number:06d}-{re.sub(r'[^0-9A-Za-z_-]', '_', image.stem)[:80]}{image.suffix.lower()}"


def _place(sample: Sample, image: Path) -> None:
    _link(sample.image, image)
    if sample.label_file is not None:
        _link(sample.label_file, beside(image, "labels"))
    elif sample.annotations is not None:
        rows = [(int(c), float(x), float(y), float(w), float(h)) for c, x, y, w, h in sample.labels.rows]
        beside(image, "labels").write_text(format_yolo_labels(rows), encoding="ascii")
    if sample.annotations is not None:
        _link(beside(sample.image, "annotations"), beside(image, "annotations"))


def _link(source: Path, destination: Path) -> None:
    try:
        destination.symlink_to(os.path.abspath(source))
    except OSError:  # a file system without links
        shutil.copyfile(source, destination)
