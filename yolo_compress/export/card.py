"""The model card in an exported file: its constants, reading and writing it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import numpy_helper
from yolo_trt_node.detector.card import CARD_KEY, DEFAULT_IOU_THRESHOLD, DEFAULT_SCORE_THRESHOLD

from yolo_compress import files
from yolo_compress.errors import UserError

LETTERBOX_COLOR = (114, 114, 114)
SCALE = 1 / 255


@dataclass(frozen=True)
class CardFacts:
    """What a card says that an export does not find out by itself.

    Attributes:
        score_threshold: the default score cut.
        iou_threshold: IoU of the suppression: the default, or the one in an end2end head. Seen from above,
            vehicles stand side by side without overlap but people in groups do overlap: a low threshold would
            merge them.
        compression: what the model was compressed from, and what that cost.
    """

    score_threshold: float = DEFAULT_SCORE_THRESHOLD
    iou_threshold: float = DEFAULT_IOU_THRESHOLD
    compression: Mapping[str, Any] | None = None


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
    write_model(onnx.load(path), {**read_card(path), **changes}, path)


def write_model(graph: onnx.ModelProto, card: Mapping[str, Any], path: Path) -> None:
    """Put the card among the other metadata and write the file in one step."""
    entries = {entry.key: entry.value for entry in graph.metadata_props}
    onnx.helper.set_model_props(graph, {**entries, CARD_KEY: json.dumps(card)})
    files.write(path, graph.SerializeToString())
