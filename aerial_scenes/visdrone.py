"""VisDrone's annotation formats: reading, writing, conversion to YOLO labels, statistics.

VisDrone-DET stores one text file per image, one object per line::

    left,top,width,height,score,category,truncation,occlusion

VisDrone-VID and -MOT store one file per sequence and put the 1-based frame number and the target id first::

    frame,target_id,left,top,width,height,score,category,truncation,occlusion

Boxes are in pixels of the image, the origin in its upper left corner. Field meanings follow the toolkit's
read-me (https://github.com/VisDrone/VisDrone2018-DET-toolkit): ``score`` is 0 where the evaluation ignores
the box, ``truncation`` says how far the object lies outside the frame, ``occlusion`` how much of it is
hidden.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

VISDRONE_CLASSES: tuple[str, ...] = (
    "pedestrian",
    "people",
    "bicycle",
    "car",
    "van",
    "truck",
    "tricycle",
    "awning-tricycle",
    "bus",
    "motor",
)
"""Names of VisDrone's categories 1 to 10 in order; the index is the YOLO class."""

IGNORED_REGION = 0
"""Category of an area that the evaluation leaves out."""
OTHERS = 11
"""Category of vehicles that are none of the ten classes; left out by the evaluation."""

# Inclusive ranges of the fields that are not free numbers.
_FIELD_RANGES = {"score": (0, 1), "category": (0, OTHERS), "truncation": (0, 1), "occlusion": (0, 2)}


@dataclass(frozen=True)
class Annotation:
    """One line of a VisDrone annotation file.

    Attributes:
        left: Left edge in pixels.
        top: Upper edge in pixels.
        width: Width in pixels.
        height: Height in pixels.
        score: 1, or 0 where the evaluation ignores the box.
        category: 0 ignored region, 1 to 10 ``VISDRONE_CLASSES``, 11 others.
        truncation: Part of the object outside the frame: 0 none, 1 one to fifty percent. More than fifty
            percent is annotated with score 0.
        occlusion: Part of the object hidden by something else: 0 none, 1 up to fifty percent, 2 more.
        target_id: Identity of the object over the frames of a sequence; 0 for ignored regions and single
            images.
    """

    left: int
    top: int
    width: int
    height: int
    score: int
    category: int
    truncation: int = 0
    occlusion: int = 0
    target_id: int = 0

    @property
    def evaluated(self) -> bool:
        """Whether this is an object of the ten classes that counts in the evaluation."""
        return self.score != 0 and IGNORED_REGION < self.category < OTHERS


def _parse_fields(line: str, count: int, where: str, names: Sequence[str]) -> list[int]:
    # Some official files end their lines with a comma.
    parts = [part.strip() for part in line.strip().rstrip(",").split(",")]
    if len(parts) != count:
        raise ValueError(
            f"{where}: expected {count} comma-separated fields ({','.join(names)}), got {len(parts)}"
        )
    values = []
    for name, part in zip(names, parts, strict=True):
        try:
            value = int(part)
        except ValueError:
            raise ValueError(f"{where}: field '{name}' must be an integer, got '{part}'") from None
        low, high = _FIELD_RANGES.get(name, (None, None))
        if low is not None and high is not None and not low <= value <= high:
            raise ValueError(f"{where}: field '{name}' must be {low} to {high}, got {value}")
        if name in ("width", "height", "target_id") and value < 0:
            raise ValueError(f"{where}: field '{name}' must not be negative, got {value}")
        if name == "frame" and value < 1:
            raise ValueError(f"{where}: field 'frame' counts from 1, got {value}")
        values.append(value)
    return values


_DET_FIELDS = ("left", "top", "width", "height", "score", "category", "truncation", "occlusion")
_VID_FIELDS = ("frame", "target_id", *_DET_FIELDS)


def _numbered_lines(path: Path) -> Iterable[tuple[str, str]]:
    try:
        text = path.read_text(encoding="ascii")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a VisDrone annotation file (byte {error.start} is no ASCII)") from None
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"{path}, line {number}", line


def read_annotations(path: str | Path) -> list[Annotation]:
    """Read a VisDrone-DET annotation file.

    Args:
        path: The text file of one image. An empty file is an image without objects.

    Returns:
        The annotations in the file's order.

    Raises:
        ValueError: A line is malformed; the message names file, line and field.
        OSError: The file can't be read.
    """
    return [
        Annotation(*_parse_fields(line, 8, where, _DET_FIELDS)) for where, line in _numbered_lines(Path(path))
    ]


def _det_line(annotation: Annotation) -> str:
    return ",".join(str(getattr(annotation, name)) for name in _DET_FIELDS)


def format_annotations(annotations: Iterable[Annotation]) -> str:
    """Return the text of a VisDrone-DET file (target ids are not part of that format)."""
    return "".join(_det_line(annotation) + "\n" for annotation in annotations)


def write_annotations(path: str | Path, annotations: Iterable[Annotation]) -> None:
    """Write a VisDrone-DET annotation file; see `format_annotations`."""
    Path(path).write_text(format_annotations(annotations), encoding="ascii")


def read_sequence(path: str | Path) -> dict[int, list[Annotation]]:
    """Read a VisDrone-VID or -MOT annotation file.

    Args:
        path: The text file of one sequence.

    Returns:
        Annotations by frame number (from 1), in ascending order; frames without objects are absent.

    Raises:
        ValueError: A line is malformed; the message names file, line and field.
        OSError: The file can't be read.
    """
    frames: dict[int, list[Annotation]] = {}
    for where, line in _numbered_lines(Path(path)):
        frame, target_id, *rest = _parse_fields(line, 10, where, _VID_FIELDS)
        frames.setdefault(frame, []).append(replace(Annotation(*rest), target_id=target_id))
    return dict(sorted(frames.items()))


def write_sequence(path: str | Path, frames: Mapping[int, Iterable[Annotation]]) -> None:
    """Write a VisDrone-VID annotation file.

    Args:
        path: Where to write.
        frames: Annotations by frame number, which counts from 1.

    Raises:
        ValueError: A frame number is below 1.
        OSError: The file can't be written.
    """
    lines = []
    for frame in sorted(frames):
        if frame < 1:
            raise ValueError(f"{path}: frame numbers of a VisDrone sequence count from 1, got {frame}")
        lines += [f"{frame},{annotation.target_id},{_det_line(annotation)}\n" for annotation in frames[frame]]
    Path(path).write_text("".join(lines), encoding="ascii")


def to_yolo_labels(
    annotations: Iterable[Annotation], width: int, height: int
) -> list[tuple[int, float, float, float, float]]:
    """Convert annotations to YOLO labels.

    Boxes are clipped to the image. Ignored regions, others, and boxes of score 0 are dropped, as are boxes
    with no area inside the image.

    Args:
        annotations: Annotations of one image.
        width: Image width in pixels.
        height: Image height in pixels.

    Returns:
        ``(class 0..9, centre x, centre y, width, height)``, the last four relative to the image's size.

    Raises:
        ValueError: The image size is not positive.
    """
    if width <= 0 or height <= 0:
        raise ValueError(f"image size must be positive, got {width}x{height}")
    labels = []
    for annotation in annotations:
        if not annotation.evaluated:
            continue
        x0, x1 = max(annotation.left, 0), min(annotation.left + annotation.width, width)
        y0, y1 = max(annotation.top, 0), min(annotation.top + annotation.height, height)
        if x1 > x0 and y1 > y0:
            labels.append(
                (
                    annotation.category - 1,
                    (x0 + x1) / 2 / width,
                    (y0 + y1) / 2 / height,
                    (x1 - x0) / width,
                    (y1 - y0) / height,
                )
            )
    return labels


def format_yolo_labels(labels: Iterable[tuple[int, float, float, float, float]]) -> str:
    """Return the text of a YOLO label file: ``class cx cy w h`` per line."""
    return "".join(f"{cls} {cx:.8f} {cy:.8f} {w:.8f} {h:.8f}\n" for cls, cx, cy, w, h in labels)


def annotation_statistics(images: Iterable[Sequence[Annotation]]) -> dict[str, object]:
    """Summarise annotations as the figures by which data sets of small objects are compared.

    Args:
        images: Annotations of each image.

    Returns:
        ``images``; ``boxes_per_image`` and ``size_px`` (square root of the box area) at percentiles 5, 25,
        50, 75 and 95; shares of COCO's ``small``, ``medium`` and ``large`` boxes;
        ``ignored_regions_per_image``; and per class its share of all boxes, the percentiles 10, 50 and 90 of
        ``width_px``, ``height_px`` and ``size_px``, the shares of occlusion 0, 1 and 2 and of truncated
        boxes.

    Raises:
        ValueError: There is no evaluated box to summarise.
    """
    counts: list[int] = []
    rows: list[tuple[int, int, int, int, int]] = []
    ignored = 0
    for image in images:
        kept = [a for a in image if a.evaluated]
        counts.append(len(kept))
        ignored += sum(a.category == IGNORED_REGION for a in image)
        rows += [(a.category, a.width, a.height, a.truncation, a.occlusion) for a in kept]
    if not rows:
        raise ValueError("no box of the ten classes in these annotations")
    table = np.array(rows)
    size = np.sqrt(table[:, 1] * table[:, 2])

    def percentiles(values: np.ndarray, at: Sequence[int]) -> list[float]:
        return [round(float(v), 1) for v in np.percentile(values, at)]

    classes = {}
    for index, name in enumerate(VISDRONE_CLASSES, start=1):
        own = table[:, 0] == index
        if own.any():
            classes[name] = {
                "share": round(float(own.mean()), 4),
                "width_px": percentiles(table[own, 1], (10, 50, 90)),
                "height_px": percentiles(table[own, 2], (10, 50, 90)),
                "size_px": percentiles(size[own], (10, 50, 90)),
                "occlusion": [round(float((table[own, 4] == level).mean()), 3) for level in range(3)],
                "truncated": round(float((table[own, 3] > 0).mean()), 3),
            }
    return {
        "images": len(counts),
        "boxes_per_image": percentiles(np.array(counts), (5, 25, 50, 75, 95)),
        "size_px": percentiles(size, (5, 25, 50, 75, 95)),
        "small": round(float((size < 32).mean()), 3),
        "medium": round(float(((size >= 32) & (size < 96)).mean()), 3),
        "large": round(float((size >= 96).mean()), 3),
        "ignored_regions_per_image": round(ignored / len(counts), 2),
        "occlusion": [round(float((table[:, 4] == level).mean()), 3) for level in range(3)],
        "truncated": round(float((table[:, 3] > 0).mean()), 3),
        "classes": classes,
    }


def _main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m aerial_scenes.visdrone", description=__doc__.split("\n")[0]
    )
    commands = parser.add_subparsers(dest="command", required=True)
    stats = commands.add_parser("stats", help="print statistics of a folder of VisDrone-DET annotation files")
    stats.add_argument("folder", type=Path, help="folder with one .txt per image (searched recursively)")
    arguments = parser.parse_args()
    files = sorted(arguments.folder.rglob("*.txt"))
    if not files:
        parser.error(f"{arguments.folder}: no .txt files there")
    try:
        result = annotation_statistics(read_annotations(file) for file in files)
    except ValueError as error:
        parser.error(str(error))
    for key, value in result.items():
        if key != "classes":
            print(f"{key}: {json.dumps(value)}")
    for name, entry in result["classes"].items():  # type: ignore[attr-defined]
        print(f"  {name}: {json.dumps(entry)}")


if __name__ == "__main__":
    _main()
