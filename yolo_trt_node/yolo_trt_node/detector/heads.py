"""Which head a model without our card has: told by what its exporter wrote; another is refused by name.

The shape of an output alone does not tell a layout: rows of 6 values come from YOLOv10, from YOLOv5 with one
class, from RT-DETR with two, and from tools that put score and class behind the corners. What Ultralytics'
exporter writes into the file (``head``, ``end2end``, ``args``, ``description``) does tell. Whatever is left
in doubt is refused, since a wrong guess publishes boxes that are nowhere.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

from yolo_trt_node.detector.specs import ModelError, TensorSpec

EXPORT_AGAIN = (
    "export it from its checkpoint with `yolo-compress export CHECKPOINT.pt`, or "
    "`yolo export model=CHECKPOINT.pt format=onnx`"
)

# Heads of Ultralytics whose output is that of Detect.
_DETECT_HEADS = ("Detect", "v10Detect", "WorldDetect")
# Models that suppress inside, whose exporters of before 2026 did not say so.
_ONE_TO_ONE = re.compile(r"yolo-?v?(10|26)", re.IGNORECASE)
_MASK_COEFFICIENTS = 32
_OBJECTNESS = "YOLOv5's or YOLOv7's own repository, or YOLOX, which rate an anchor besides its classes"
_ULTRALYTICS_MODEL = (
    "such a model cannot be flown: train one of Ultralytics' (yolov8, or yolov5u for a YOLOv5), and "
    "`yolo export model=CHECKPOINT.pt format=onnx`"
)


def check_task(metadata: Mapping[str, str]) -> None:
    """Refuse models for another task, and with another head than Detect.

    Args:
        metadata: the ONNX file's ``metadata_props``.

    Raises:
        ModelError: it is one; the message names it.
    """
    task = metadata.get("task", "detect")
    if task != "detect":
        raise ModelError(
            f"this is a model for the task {task[:40]!r}; the node flies models for the task 'detect': train "
            "one of those (such as yolov8n.pt), and " + EXPORT_AGAIN
        )
    head = metadata.get("head", "Detect")
    if head == "RTDETRDecoder" or re.search(r"rt-?detr", metadata.get("description", ""), re.IGNORECASE):
        raise ModelError(
            "this is an RT-DETR, whose boxes are shares of the image and centred: its head is none that the "
            "node flies; take a YOLO (such as yolov8n.pt), and " + EXPORT_AGAIN
        )
    if head not in _DETECT_HEADS:
        raise ModelError(
            f"this model's head is Ultralytics' {head[:40]!r}; the node flies {', '.join(_DETECT_HEADS)}: "
            "train a detector (such as yolov8n.pt), and " + EXPORT_AGAIN
        )


def check_outputs(outputs: tuple[TensorSpec, ...]) -> TensorSpec:
    """Return a detector's one output.

    Raises:
        ModelError: there are others, or it has another rank, or numbers of a type that cannot be read.
    """
    found = "; ".join(map(str, outputs[:6]))
    if any(len(output.shape) == 5 for output in outputs):
        raise ModelError(
            f"the outputs ({found}) are the grids of YOLOv5's or YOLOv7's own repository; "
            + _ULTRALYTICS_MODEL
        )
    if len(outputs) == 4:
        raise ModelError(
            f"the four outputs ({found}) look like those of TensorRT's EfficientNMS; {EXPORT_AGAIN}"
        )
    if len(outputs) != 1 or len(outputs[0].shape) != 3:
        raise ModelError(
            "the model is no YOLOv8-style detector: expected one output of shape [N, 4 + classes, anchors] "
            f"or [N, detections, 6], found {found or 'none'}; {EXPORT_AGAIN}"
        )
    # An engine built elsewhere may end in a type that no array here has.
    if outputs[0].dtype.startswith(("bf", "fp8", "fp4", "float8", "float4")):
        raise ModelError(
            f"the output {found} gives {outputs[0].dtype}; supported are float32 and float16 outputs (layers "
            "may compute in less): build the engine again from the ONNX file, or export that again"
        )
    return outputs[0]


def head_layout(
    metadata: Mapping[str, str],
    output: TensorSpec,
    classes: int | None,
    size: tuple[int | None, int | None],
    stride: int,
) -> str:
    """Tell the layout of a model that has no card of ours.

    Args:
        metadata: the ONNX file's ``metadata_props``.
        output: its output, of rank 3.
        classes: number of the classes that it names; ``None`` where it names none.
        size: height and width of its input in pixels; ``None`` where one is free.
        stride: its largest stride in pixels.

    Returns:
        ``raw`` or ``end2end``.

    Raises:
        ModelError: the output is that of another exporter, or leaves the layout in doubt.
    """
    _, rows, columns = output.shape
    if suppresses_inside(metadata):
        return "end2end"
    height, width = size
    # Every level of the pyramid has an anchor a cell, so there are never fewer than the coarsest has.
    fewest = 1 if height is None or width is None else max(1, (height // stride) * (width // stride))
    enough = columns is None or columns >= fewest
    if classes is None:
        # Without names the number of classes is taken from the shape, so nothing else may explain it.
        if rows is not None and rows > 4 and enough and (columns is None or columns > rows):
            return "raw"
        raise ModelError(_stranger(output, None))
    if rows in (None, 4 + classes) and enough:
        return "raw"
    raise ModelError(_stranger(output, classes))


def suppresses_inside(metadata: Mapping[str, str]) -> bool:
    """Whether Ultralytics' exporter says that the model's rows are final: x1 y1 x2 y2 score class."""
    if metadata.get("end2end", "False") == "True" or _nms_argument(metadata):
        return True
    return "end2end" not in metadata and (
        metadata.get("head") == "v10Detect"
        or (
            metadata.get("author") == "Ultralytics"
            and _ONE_TO_ONE.search(metadata.get("description", "").partition(" trained on ")[0]) is not None
        )
    )


def _nms_argument(metadata: Mapping[str, str]) -> bool:
    if metadata.get("nms", "False") == "True":
        return True
    try:
        arguments = ast.literal_eval(metadata.get("args", "{}"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return False  # no export of Ultralytics: what is left decides
    return isinstance(arguments, dict) and arguments.get("nms") is True


def _stranger(output: TensorSpec, classes: int | None) -> str:
    """Say whose output this is, as far as its shape tells, and what to do."""
    _, rows, columns = output.shape
    if classes is None:
        if columns is not None and rows is not None and 5 < columns < rows:
            return (
                f"the output {output} has a row an anchor: it is transposed, or of {_OBJECTNESS}, and names "
                f"no classes; {EXPORT_AGAIN}. From YOLOv5, YOLOv7 and YOLOX {_ULTRALYTICS_MODEL}"
            )
        return (
            f"the model names no classes, and its output {output} does not show how many there are; "
            f"{EXPORT_AGAIN}, which write the names into the file"
        )
    if columns == 5 + classes:
        kinds = f"of {_OBJECTNESS}"
        if columns == 6:
            kinds += ", or rows of corners, score and class as DeepStream takes them"
        return f"the output {output} is {kinds}; {_ULTRALYTICS_MODEL}"
    if columns is not None and columns in (6, 4 + classes):
        owners = []
        if columns == 4 + classes:
            owners += ["an RT-DETR (centred boxes as shares of the image)", "a transposed YOLOv8"]
        if columns == 6:
            owners += ["DeepStream's (corners, score, class)", "an end2end model that does not say so"]
        return (
            f"the output {output} has a row an anchor, as that of {' or of '.join(owners)}, and nothing in "
            f"the file says which; {EXPORT_AGAIN}, which say it"
        )
    if rows is not None:
        extra = rows - 4 - classes
        if extra == _MASK_COEFFICIENTS:
            return f"the output {output} is that of a segmentation model; take a detector, and {EXPORT_AGAIN}"
        if extra == 1:
            return (
                f"the output {output} has one value an anchor more than {classes} classes make: it is of an "
                f"-obb model, or of {_OBJECTNESS}; take a YOLOv8 detector, and {EXPORT_AGAIN}"
            )
        if rows == 4 + classes:
            return (
                f"the output {output} has fewer anchors than an input of this size makes: it is none of a "
                f"YOLOv8-style head; {EXPORT_AGAIN}"
            )
        return (
            f"the output {output} has {rows} values an anchor, which makes {rows - 4} classes, but the model "
            f"names {classes}; {EXPORT_AGAIN}"
        )
    return f"the layout of the output {output} is none that is known; {EXPORT_AGAIN}"
