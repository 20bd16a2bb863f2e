"""The dense detector: a checkpoint, or an architecture and its training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.techniques import Dense
from yolo_compress.errors import UserError
from yolo_compress.stages import Stage, StageModel, epochs
from yolo_compress.training import StageContext, StageTrainer, train
from yolo_compress.yaml_files import read_yaml

from ultralytics.nn.tasks import DetectionModel, yaml_model_load  # isort: skip


# Beyond any network that one trains: what a description may ask for before anything is built.
MOST_LAYERS, MOST_REPEATS, LARGEST_ARGUMENT = 500, 100, 16384
_ACTIVATION = r"(torch\.)?nn\.\w+\([\w=., ]*\)"
_MODULE = r"((nn|torchvision\.ops)\.)?[A-Za-z]\w*"


class DenseStage(Stage):
    """Takes a checkpoint as it is, or trains."""

    section: Dense

    def make(self, context: StageContext, checkpoints: Sequence[Path]) -> StageModel:
        """Load or train the detector."""
        if self.section.train is None:
            return load_model(self.section.model), {}
        start = _architecture_file(self.section, context.folder)
        return train(StageTrainer, start, self.section.train, context), {}

    def describe(self) -> str:
        """Name the model, and say how long it was trained."""
        name = Path(self.section.model).name
        return f"{name} as it is" if self.section.train is None else f"{name}, {epochs(self.section.train)}"


def architecture(dense: Dense) -> DetectionModel:
    """Return a model as a recipe describes it: the checkpoint, or the architecture with random weights.

    Raises:
        UserError: there is no such checkpoint or architecture.
    """
    if dense.model.endswith(".pt"):
        return load_model(dense.model)
    layers = _layers(dense)
    try:
        return DetectionModel(layers, verbose=False)
    except Exception as error:  # whatever a layer says to arguments that it does not know
        reason = next(iter(str(error).strip().splitlines()), "")
        raise UserError(
            f"Ultralytics builds no detector of the architecture {dense.model}: {reason or type(error)}"
        ) from error


def _layers(dense: Dense) -> dict[str, Any]:
    """Return Ultralytics' description of an architecture, with the width that the recipe asks for."""
    if Path(dense.model).is_file():
        read_yaml(Path(dense.model), "the architecture")  # for its limits
    try:
        layers: dict[str, Any] = yaml_model_load(dense.model)
    except FileNotFoundError as error:
        raise UserError(f"Ultralytics knows no architecture {dense.model}: {error}") from error
    require_architecture(layers, dense.model)
    if dense.width is not None:
        depth, _, most = layers["scales"][layers["scale"]]
        layers["scales"] = {layers["scale"]: [depth, dense.width, most]}
    return layers


def require_architecture(layers: object, name: str) -> None:
    """See that a description holds nothing but layers of a size that can be built.

    Ultralytics looks its names up as Python names, and builds whatever number of layers it is told.

    Args:
        layers: what the architecture's file holds.
        name: of the file.

    Raises:
        UserError: it holds something else.
    """

    def refuse(what: str) -> UserError:
        return UserError(f"the architecture {name}: {what}; yolov8n.yaml is an example")

    if not isinstance(layers, dict):
        raise refuse("it is no mapping with `backbone:` and `head:`")
    activation = layers.get("activation")
    if activation is not None and not re.fullmatch(_ACTIVATION, str(activation)):
        raise refuse(f"activation {str(activation)[:80]!r} is not of the form nn.ReLU()")
    rows = []
    for part in ("backbone", "head"):
        if not isinstance(layers.get(part), list):
            raise refuse(f"`{part}:` is no list of layers")
        rows += layers[part]
    if len(rows) > MOST_LAYERS:
        raise refuse(f"{len(rows)} layers are more than {MOST_LAYERS}")
    for index, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != 4 or not isinstance(row[3], list):
            raise refuse(f"layer {index} is not [from, repeats, module, [arguments]]")
        _, repeats, module, arguments = row
        if not isinstance(repeats, int) or not 1 <= repeats <= MOST_REPEATS:
            raise refuse(
                f"layer {index} is repeated {str(repeats)[:80]} times, at most {MOST_REPEATS} is allowed"
            )
        if not isinstance(module, str) or not re.fullmatch(_MODULE, module):
            raise refuse(f"layer {index} names the module {str(module)[:80]!r}")
        if any(isinstance(value, int | float) and not abs(value) <= LARGEST_ARGUMENT for value in arguments):
            raise refuse(f"layer {index} has an argument beyond {LARGEST_ARGUMENT}")
    scales = layers.get("scales") or {}
    for scale in scales.values() if isinstance(scales, dict) else [scales]:
        numbers = scale if isinstance(scale, list) else []
        fit = [isinstance(number, int | float) and 0 < number <= LARGEST_ARGUMENT for number in numbers]
        if len(fit) != 3 or not all(fit):
            raise refuse("`scales:` are lists of depth, width and the most channels")


def _architecture_file(dense: Dense, folder: Path) -> str:
    """Return what the trainer starts from: a checkpoint, or an architecture, ours where the width is."""
    if dense.model.endswith(".pt"):
        load_model(dense.model)  # for its error, which is clearer than the trainer's
        return dense.model
    layers = _layers(dense)
    if dense.width is None:
        return dense.model
    # The name decides on the scale that Ultralytics takes.
    path = folder / Path(dense.model).name
    files.write_text(
        path, yaml.safe_dump({k: v for k, v in layers.items() if k not in ("scale", "yaml_file")})
    )
    return str(path)
