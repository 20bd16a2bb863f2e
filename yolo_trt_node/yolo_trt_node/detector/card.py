"""What a model says of itself: the model card in an ONNX file's metadata.

``yolo-compress export`` writes the card as JSON under the metadata key ``model_card``. A stock Ultralytics
export has no card but says the same in keys of its own (``names``, ``stride``, ``imgsz``, ``task``); both are
read here, so that the user never has to name a class list, a tensor or an anchor count.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yolo_trt_node.detector.heads import EXPORT_AGAIN, check_outputs, check_task, head_layout
from yolo_trt_node.detector.specs import MAX_BATCH, MAX_PIXELS, MAX_SIDE, ModelError, TensorSpec

__all__ = ["ModelCard", "ModelError", "TensorSpec", "read_card"]

CARD_KEY = "model_card"
CARD_FORMAT_VERSION = 1

HEADS = ("raw", "end2end")

# What Ultralytics' own `predict` uses where nobody says otherwise.
DEFAULT_SCORE_THRESHOLD = 0.25
DEFAULT_IOU_THRESHOLD = 0.7

# What a file may claim: far beyond every detector there is, and little enough for memory and messages.
MAX_CLASSES = 10_000
MAX_NAME_LENGTH = 256
MAX_STRIDE = 1024
_MAX_TEXT = 1 << 20
_MAX_VALUES = 1 << 28


@dataclass(frozen=True)
class ModelCard:
    """Everything that the detector must know of a model besides its weights.

    Attributes:
        names: class names; the position is the class id.
        height: input height in pixels that the model was trained for (its nominal size).
        width: input width in pixels, likewise.
        stride: network stride in pixels; heights and widths must be multiples of it.
        head: ``raw`` (one column of ``4 + nc`` values an anchor, boxes as centre, width, height) or
            ``end2end`` (rows of x1, y1, x2, y2, score, class; suppression is inside the model).
        channels: channel order of the input tensor, ``RGB`` or ``BGR``.
        scale: factor from 8-bit values to the input tensor's values.
        letterbox_color: value of the padding, in the order of the image's channels.
        score_threshold: default score cut.
        iou_threshold: default IoU above which the weaker of two boxes of a class is dropped.
        fixed_height: input height where the model allows no other, else ``None``.
        fixed_width: likewise for the width.
        fixed_batch: batch size where the model allows no other, else ``None``.
        details: the rest of the card (origin, accuracy, versions), as it stands in the file.
    """

    names: tuple[str, ...]
    height: int
    width: int
    stride: int = 32
    head: str = "raw"
    channels: str = "RGB"
    scale: float = 1.0 / 255.0
    letterbox_color: tuple[int, int, int] = (114, 114, 114)
    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    iou_threshold: float = DEFAULT_IOU_THRESHOLD
    fixed_height: int | None = None
    fixed_width: int | None = None
    fixed_batch: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


def read_card(
    metadata: Mapping[str, str], inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> ModelCard:
    """Read a model's card from its metadata and check it against the model's tensors.

    Args:
        metadata: the ONNX file's ``metadata_props``.
        inputs: the model's inputs.
        outputs: the model's outputs.

    Raises:
        ModelError: the model is no detector of a known layout, or contradicts its own card.
    """
    batch, height, width = _check_input(inputs)
    own = CARD_KEY in metadata
    check_task(metadata)
    output = check_outputs(tuple(outputs))
    card = _parse_own(metadata[CARD_KEY]) if own else _parse_ultralytics(metadata)
    _check_bounds(card)
    names: tuple[str, ...] | None = card.get("names")
    stride: int = card.get("stride", 32)
    head = card.get("head") or head_layout(
        metadata, output, None if names is None else len(names), (height, width), stride
    )
    if head not in HEADS:
        raise ModelError(f"the model card names the head layout {head[:40]!r}; known are {', '.join(HEADS)}")
    rows = output.shape[1]
    if names is None:
        if head != "raw" or rows is None:
            raise ModelError(
                f"the model names no classes, and its output {output} does not show how many there are; "
                f"{EXPORT_AGAIN}, which write the names into the file"
            )
        names = tuple(f"class {i}" for i in range(min(rows - 4, MAX_CLASSES + 1)))
        _check_bounds({"names": names})
    if head == "raw" and rows is not None and rows != 4 + len(names):
        raise ModelError(
            f"the output {output} has {rows} values an anchor, which makes {rows - 4} classes, but the model "
            f"names {len(names)}; export the model again from its checkpoint"
        )
    if head == "end2end" and output.shape[2] not in (None, 6):
        raise ModelError(
            f"an end2end head gives rows of 6 values, but the output is {output}; {EXPORT_AGAIN}"
        )
    if math.prod(d for d in output.shape if d is not None) > _MAX_VALUES:
        raise ModelError(f"the output {output} is greater than any detector's; {EXPORT_AGAIN}")

    nominal_height = height or card.get("height", 640)
    nominal_width = width or card.get("width", 640)
    for side, value in (("height", nominal_height), ("width", nominal_width)):
        if value < stride or value % stride:
            raise ModelError(
                f"the model's input {side} {value} is no multiple of its stride {stride}; export the model "
                "again with an image size that is"
            )
    _check_size(batch or 1, nominal_height, nominal_width)
    return ModelCard(
        names=names,
        height=nominal_height,
        width=nominal_width,
        stride=stride,
        head=head,
        channels=card.get("channels", "RGB"),
        scale=card.get("scale", 1.0 / 255.0),
        letterbox_color=card.get("letterbox_color", (114, 114, 114)),
        score_threshold=card.get("score_threshold", DEFAULT_SCORE_THRESHOLD),
        iou_threshold=card.get("iou_threshold", DEFAULT_IOU_THRESHOLD),
        fixed_height=height,
        fixed_width=width,
        fixed_batch=batch,
        details=card.get("details", {}),
    )


def _check_input(inputs: Sequence[TensorSpec]) -> tuple[int | None, int | None, int | None]:
    """Return the batch size, height and width that the model fixes (``None``: free)."""
    if len(inputs) != 1:
        raise ModelError(
            f"a detector has one input, this model has {len(inputs)}: {'; '.join(map(str, inputs[:6]))}"
        )
    image = inputs[0]
    if len(image.shape) != 4 or image.shape[1] not in (3, None):
        raise ModelError(
            f"the input {image} is no image batch of shape [N, 3, height, width] (the node flies models of "
            f"3 channels); {EXPORT_AGAIN}"
        )
    if image.dtype not in ("float32", "float16"):
        raise ModelError(
            f"the input {image} takes {image.dtype}; supported are float32 and float16 "
            "(quantised models keep float inputs and quantise inside)"
        )
    batch, _, height, width = image.shape
    if not all(d is None or d > 0 for d in image.shape):
        raise ModelError(f"the input {image} is empty; {EXPORT_AGAIN}")
    _check_size(batch or 1, height or 1, width or 1)
    return batch, height, width


def _check_size(batch: int, height: int, width: int) -> None:
    """Refuse inputs that would take more memory than any machine that flies has."""
    if max(height, width) > MAX_SIDE or batch > MAX_BATCH or batch * height * width > MAX_PIXELS:
        raise ModelError(
            f"an input of {batch} x {height}x{width} pixels is more than {MAX_SIDE} a side, {MAX_BATCH} "
            f"images or {MAX_PIXELS >> 20} Mpx in all; export the model for a smaller image size"
        )


def _check_bounds(card: Mapping[str, Any]) -> None:
    """Refuse numbers and texts that no detector has, before anything is made of them."""
    names = card.get("names")
    if names is not None:
        if not 1 <= len(names) <= MAX_CLASSES:
            raise ModelError(f"the model names {len(names)} classes, not 1 to {MAX_CLASSES}")
        longest = max(names, key=len)
        if len(longest) > MAX_NAME_LENGTH:
            raise ModelError(
                f"a class name of the model has {len(longest)} characters ({longest[:20]!r}...), more than "
                f"{MAX_NAME_LENGTH}"
            )
    for key, least, greatest in (
        ("stride", 1, MAX_STRIDE),
        ("height", 1, MAX_SIDE),
        ("width", 1, MAX_SIDE),
        ("score_threshold", 0.0, 1.0),
        ("iou_threshold", 0.0, 1.0),
        ("scale", 1e-6, 1e6),
    ):
        # Written so that NaN is out of range too.
        if key in card and not least <= card[key] <= greatest:
            told = str(card[key])[:40]
            raise ModelError(f"the model says {key} {told}, which is not {least:g} to {greatest:g}")
    if not all(0 <= value <= 255 for value in card.get("letterbox_color", ())):
        raise ModelError(f"the model card's letterbox_color {card['letterbox_color']} is not of 0 to 255")


def _parse_own(text: str) -> dict[str, Any]:
    try:
        if len(text) > _MAX_TEXT:
            raise ValueError(f"it has {len(text)} characters, more than {_MAX_TEXT}")
        card = json.loads(text)
        version = int(card["format_version"])
        if version > CARD_FORMAT_VERSION:
            raise ModelError(
                f"the model card has format version {version}, this node reads up to {CARD_FORMAT_VERSION}; "
                "update yolo_trt_node"
            )
        if card["task"] != "detect":
            raise ModelError(f"this is a model for the task {str(card['task'])[:40]!r}, not 'detect'")
        entry = card["input"]
        if entry["channels"] not in ("RGB", "BGR"):
            raise ModelError(
                f"the model card's channel order {str(entry['channels'])[:40]!r} is neither RGB nor BGR"
            )
        if not isinstance(card["names"], list):
            raise TypeError("names is no list")
        # Cards of earlier exports spell it with a u.
        padding = entry["letterbox_color"] if "letterbox_color" in entry else entry["letterbox_colour"]
        red, green, blue = (int(value) for value in padding)
        return {
            "names": tuple(str(name) for name in card["names"]),
            "height": int(entry["height"]),
            "width": int(entry["width"]),
            "channels": entry["channels"],
            "scale": float(entry["scale"]),
            "letterbox_color": (red, green, blue),
            "head": str(card["head"]),
            "stride": int(card["stride"]),
            "score_threshold": float(card["score_threshold"]),
            "iou_threshold": float(card["iou_threshold"]),
            "details": card,
        }
    except ModelError:
        raise
    except _DAMAGE as error:
        raise ModelError(
            f"the model card in the file is damaged ({type(error).__name__}: {str(error)[:200]}); "
            "export the model again with `yolo-compress export`"
        ) from error


# What reading texts of strangers raises: wrong types and keys, infinite numbers, nesting too deep.
_DAMAGE = (
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    SyntaxError,
    OverflowError,
    RecursionError,
    MemoryError,
)


def _parse_ultralytics(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the keys that Ultralytics' exporter writes (Python literals as text)."""
    card: dict[str, Any] = {"details": dict(metadata)}
    try:
        for key in ("names", "stride", "imgsz", "channels"):
            if len(metadata.get(key, "")) > _MAX_TEXT:
                raise ValueError(f"{key} has {len(metadata[key])} characters, more than {_MAX_TEXT}")
        if "names" in metadata:
            card["names"] = _class_names(ast.literal_eval(metadata["names"]))
        if "stride" in metadata:
            card["stride"] = int(ast.literal_eval(metadata["stride"]))
        if "imgsz" in metadata:
            size = ast.literal_eval(metadata["imgsz"])
            card["height"], card["width"] = (size, size) if isinstance(size, int) else map(int, size)
    except _DAMAGE as error:
        raise ModelError(
            f"the model's metadata cannot be read ({type(error).__name__}: {str(error)[:200]}); export the "
            "model again"
        ) from error
    return card


def _class_names(names: Any) -> tuple[str, ...]:
    """Return the names in the order of their ids, which a mapping may hold as numbers or as texts."""
    if not isinstance(names, dict):
        if not isinstance(names, list | tuple):
            raise TypeError(f"names is a {type(names).__name__}")
        return tuple(str(name) for name in names)
    # As texts they would sort 0, 1, 10, 11, 2.
    numbered = {int(key): str(name) for key, name in names.items()}
    if len(numbered) < len(names):
        raise ValueError("names has a class id twice")
    return tuple(numbered[number] for number in sorted(numbered))
