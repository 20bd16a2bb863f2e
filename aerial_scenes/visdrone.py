"""VisDrone's annotation format: reading, writing, conversion to YOLO labels.

VisDrone-DET stores one text file per image, one object per line::

    left,top,width,height,score,category,truncation,occlusion

Boxes are in pixels of the image, the origin in its upper left corner. Field meanings follow the toolkit's
read-me (https://github.com/VisDrone/VisDrone2018-DET-toolkit): ``score`` is 0 where the evaluation ignores
the box, ``truncation`` says how far the object lies outside the frame, ``occlusion`` how much of it is
hidden.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

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
        if name in ("width", "height") and value < 0:
            raise ValueError(f"{where}: field '{name}' must not be negative, got {value}")
        values.append(value)
    return values


_DET_FIELDS = ("left", "top", "width", "height", "score", "category", "truncation", "occlusion")


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
