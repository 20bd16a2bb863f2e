"""Export to an ONNX file that describes itself: weights, and the model card that the node reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper

from yolo_compress.errors import UserError
from yolo_compress.training import load_model
from yolo_compress.ultralytics_env import ULTRALYTICS_VERSION

from ultralytics import YOLO  # isort: skip
from ultralytics.nn.tasks import DetectionModel  # isort: skip

# The newest operator set that TensorRT 8.5, the oldest runtime supported, reads.
OPSET = 17
CARD_KEY = "model_card"
CARD_FORMAT_VERSION = 1
SCORE_THRESHOLD = 0.25
# Seen from above, vehicles stand side by side without overlap but people in groups do overlap: a low
# threshold would merge them. It is also Ultralytics' own, so that a stock and a compressed model suppress
# alike.
IOU_THRESHOLD = 0.7


def export_onnx(
    checkpoint: Path,
    destination: Path,
    input_size: int | None = None,
    *,
    score_threshold: float = SCORE_THRESHOLD,
    iou_threshold: float = IOU_THRESHOLD,
    compression: Mapping[str, Any] | None = None,
) -> None:
    """Export a checkpoint by Ultralytics' own exporter and write the model card into the file; atomically.

    Batch, height and width stay free (named ``batch``, ``height``, ``width``), so that the node can fit the
    input to the camera's aspect. fp32, graph simplified.

    Args:
        checkpoint: an Ultralytics ``.pt`` of a detector.
        destination: the ONNX file to write.
        input_size: side in pixels of the square input; None for the one that the model was trained with.
        score_threshold: default score cut for the card.
        iou_threshold: default IoU of the suppression for the card.
        compression: what the model was compressed from, for the card.

    Raises:
        UserError: the checkpoint is missing or no detector, or the input size no multiple of its stride.
    """
    model = load_model(checkpoint)
    stride = int(model.stride.max())
    if input_size is None:
        input_size = trained_size(model)
    if input_size < stride or input_size % stride:
        raise UserError(f"the input size {input_size} is no multiple of the model's stride {stride}")
    destination.parent.mkdir(parents=True, exist_ok=True)
    # The exporter writes beside the checkpoint, which may be a folder that is not ours.
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.pt"
        shutil.copyfile(checkpoint, source)
        exported = YOLO(source, task="detect").export(
            format="onnx", imgsz=input_size, dynamic=True, simplify=True, opset=OPSET, device="cpu"
        )
        graph = onnx.load(exported)
    card = {
        "format_version": CARD_FORMAT_VERSION,
        "task": "detect",
        "names": [str(model.names[i]) for i in sorted(model.names)],
        "input": {
            "height": input_size,
            "width": input_size,
            "channels": "RGB",
            "scale": 1 / 255,
            "letterbox_colour": [114, 114, 114],
        },
        "head": "end2end" if getattr(model.model[-1], "end2end", False) else "raw",
        "stride": stride,
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "compression": None if compression is None else dict(compression),
        "versions": versions(),
        "weights_sha256": weights_sha256(graph),
    }
    _write(graph, card, destination)


def trained_size(model: DetectionModel) -> int:
    """Return the input size in pixels that a checkpoint was trained with.

    It is 640, Ultralytics' default, where the checkpoint does not say.
    """
    given = getattr(model, "args", {})
    size = (given if isinstance(given, dict) else vars(given)).get("imgsz", 640)
    return int(size if isinstance(size, int) else max(size))


def versions() -> dict[str, str]:
    """Return the versions of everything that shapes the result."""
    return {
        "yolo_compress": version("yolo-compress"),
        "ultralytics": ULTRALYTICS_VERSION,
        **{name: version(name) for name in ("torch", "torch-pruning", "onnx", "onnxslim")},
    }


def weights_sha256(graph: onnx.ModelProto) -> str:
    """Return the SHA-256 over all weights of a graph: name, type, shape and values of each, by name."""
    digest = hashlib.sha256()
    for tensor in sorted(graph.graph.initializer, key=lambda item: item.name):
        values = numpy_helper.to_array(tensor)
        digest.update(f"{tensor.name} {values.dtype} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def read_card(path: Path) -> dict[str, Any]:
    """Return the model card of an exported file.

    Raises:
        UserError: the file has none.
    """
    entries = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    if CARD_KEY not in entries:
        raise UserError(f"{path} has no model card; export it with `yolo-compress export`")
    return json.loads(entries[CARD_KEY])


def update_card(path: Path, changes: Mapping[str, Any]) -> None:
    """Replace top-level entries of the card in an exported file; atomically, weights untouched."""
    _write(onnx.load(path), {**read_card(path), **changes}, path)


def _write(graph: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> None:
    """Put the card among the other metadata and write the file in one step."""
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**entries, CARD_KEY: json.dumps(card)})
    part = path.with_suffix(".part")
    onnx.save(graph, part)
    part.replace(path)
