"""What a model says of itself: the model card in an ONNX file's metadata.

``yolo-compress export`` writes the card as JSON under the metadata key ``model_card``. A stock Ultralytics
export has no card but says the same in keys of its own (``names``, ``stride``, ``imgsz``, ``task``); both are
read here, so that the user never has to name a class list, a tensor or an anchor count.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

CARD_KEY = "model_card"
CARD_FORMAT_VERSION = 1

HEADS = ("raw", "end2end")

# What Ultralytics' own `predict` uses where nobody says otherwise.
DEFAULT_SCORE_THRESHOLD = 0.25
DEFAULT_IOU_THRESHOLD = 0.7


class ModelError(ValueError):
    """The model file cannot be used; the message says why, and what would help."""


@dataclass(frozen=True)
class TensorSpec:
    """Name, element type and shape of one input or output; a dimension that is free is ``None``."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Render as ``images float32[1, 3, ?, ?]``."""
        return f"{self.name} {self.dtype}[{', '.join('?' if d is None else str(d) for d in self.shape)}]"


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
        letterbox_colour: value of the padding, in the order of the image's channels.
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
    letterbox_colour: tuple[int, int, int] = (114, 114, 114)
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
    output = _check_output(outputs, metadata)
    card = _parse_own(metadata[CARD_KEY]) if CARD_KEY in metadata else _parse_ultralytics(metadata)

    head = card.get("head") or _head_of(output)
    if head not in HEADS:
        raise ModelError(f"the model card names the head layout {head!r}; known are {', '.join(HEADS)}")
    names = card.get("names") or _nameless(output, head)
    rows = output.shape[1]
    if head == "raw" and rows is not None and rows != 4 + len(names):
        raise ModelError(
            f"the output {output} has {rows} values an anchor, which makes {rows - 4} classes, but the model "
            f"names {len(names)}; export the model again from its checkpoint"
        )
    if head == "end2end" and output.shape[2] not in (None, 6):
        raise ModelError(f"an end2end head gives rows of 6 values, but the output is {output}")

    stride = int(card.get("stride", 32))
    nominal_height = height or int(card.get("height", 640))
    nominal_width = width or int(card.get("width", 640))
    for side, value in (("height", nominal_height), ("width", nominal_width)):
        if stride < 1 or value < stride or value % stride:
            raise ModelError(
                f"the model's input {side} {value} is no multiple of its stride {stride}; export the model "
                "again with an image size that is"
            )
    return ModelCard(
        names=tuple(names),
        height=nominal_height,
        width=nominal_width,
        stride=stride,
        head=head,
        channels=card.get("channels", "RGB"),
        scale=float(card.get("scale", 1.0 / 255.0)),
        letterbox_colour=card.get("letterbox_colour", (114, 114, 114)),
        score_threshold=float(card.get("score_threshold", DEFAULT_SCORE_THRESHOLD)),
        iou_threshold=float(card.get("iou_threshold", DEFAULT_IOU_THRESHOLD)),
        fixed_height=height,
        fixed_width=width,
        fixed_batch=batch,
        details=card.get("details", {}),
    )


def _check_input(inputs: Sequence[TensorSpec]) -> tuple[int | None, int | None, int | None]:
    """Return the batch size, height and width that the model fixes (``None``: free)."""
    if len(inputs) != 1:
        raise ModelError(
            f"a detector has one input, this model has {len(inputs)}: {'; '.join(map(str, inputs))}"
        )
    image = inputs[0]
    if len(image.shape) != 4 or image.shape[1] not in (3, None):
        raise ModelError(
            f"the input {image} is no image batch of shape [N, 3, height, width]; "
            "export the detector with `yolo-compress export` or `yolo export format=onnx`"
        )
    if image.dtype not in ("float32", "float16"):
        raise ModelError(
            f"the input {image} takes {image.dtype}; supported are float32 and float16 "
            "(quantised models keep float inputs and quantise inside)"
        )
    return image.shape[0], image.shape[2], image.shape[3]


def _check_output(outputs: Sequence[TensorSpec], metadata: Mapping[str, str]) -> TensorSpec:
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelError(
            f"this is a model for the task {task!r}; the node flies models for the task 'detect'"
        )
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        raise ModelError(
            "the model is no YOLOv8-style detector: expected one output of shape [N, 4 + classes, anchors] "
            f"or [N, detections, 6], found {'; '.join(map(str, outputs))}"
        )
    return outputs[0]


def _head_of(output: TensorSpec) -> str:
    """Tell the head layout from the output's shape, for models that do not name it."""
    # A raw head has thousands of anchors in its last dimension; only end2end rows are 6 long.
    return "end2end" if output.shape[2] == 6 else "raw"


def _nameless(output: TensorSpec, head: str) -> tuple[str, ...]:
    rows = output.shape[1]
    if head != "raw" or rows is None or rows <= 4:
        raise ModelError(
            f"the model names no classes, and its output {output} does not show how many there are; "
            "export it with `yolo-compress export` or `yolo export`, which write the names into the file"
        )
    return tuple(f"class {i}" for i in range(rows - 4))


def _parse_own(text: str) -> dict[str, Any]:
    try:
        card = json.loads(text)
        version = int(card["format_version"])
        if version > CARD_FORMAT_VERSION:
            raise ModelError(
                f"the model card has format version {version}, this node reads up to {CARD_FORMAT_VERSION}; "
                "update yolo_trt_node"
            )
        if card["task"] != "detect":
            raise ModelError(f"this is a model for the task {card['task']!r}, not 'detect'")
        entry = card["input"]
        if entry["channels"] not in ("RGB", "BGR"):
            raise ModelError(f"the model card's channel order {entry['channels']!r} is neither RGB nor BGR")
        red, green, blue = (int(value) for value in entry["letterbox_colour"])
        return {
            "names": tuple(str(name) for name in card["names"]),
            "height": int(entry["height"]),
            "width": int(entry["width"]),
            "channels": entry["channels"],
            "scale": float(entry["scale"]),
            "letterbox_colour": (red, green, blue),
            "head": str(card["head"]),
            "stride": int(card["stride"]),
            "score_threshold": float(card["score_threshold"]),
            "iou_threshold": float(card["iou_threshold"]),
            "details": card,
        }
    except ModelError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"the model card in the file is damaged ({type(error).__name__}: {error}); "
            "export the model again with `yolo-compress export`"
        ) from error


def _parse_ultralytics(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Read the keys that Ultralytics' exporter writes (Python literals as text)."""
    card: dict[str, Any] = {"details": dict(metadata)}
    try:
        if "names" in metadata:
            names = ast.literal_eval(metadata["names"])
            listed = [names[i] for i in sorted(names)] if isinstance(names, dict) else list(names)
            card["names"] = tuple(str(name) for name in listed)
        if "stride" in metadata:
            card["stride"] = int(ast.literal_eval(metadata["stride"]))
        if "imgsz" in metadata:
            size = ast.literal_eval(metadata["imgsz"])
            card["height"], card["width"] = (size, size) if isinstance(size, int) else map(int, size)
    except (ValueError, SyntaxError, TypeError, KeyError) as error:
        raise ModelError(f"the model's metadata cannot be read ({error}); export the model again") from error
    return card
