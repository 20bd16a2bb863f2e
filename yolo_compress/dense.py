"""The dense detector: a checkpoint, or an architecture and its training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from yolo_compress import files
from yolo_compress.checkpoints import load_model
from yolo_compress.config.sections import Dense
from yolo_compress.errors import UserError
from yolo_compress.stages import Made, Stage, epochs
from yolo_compress.training import Setting, StageTrainer, train

from ultralytics.nn.tasks import DetectionModel, yaml_model_load  # isort: skip


class DenseStage(Stage):
    """Takes a checkpoint as it is, or trains."""

    section: Dense

    def make(self, setting: Setting, checkpoints: Sequence[Path]) -> Made:
        """Load or train the detector."""
        if self.section.train is None:
            return load_model(self.section.model), {}
        start = _architecture_file(self.section, setting.folder)
        return train(StageTrainer, start, self.section.train, setting), {}

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
    return DetectionModel(_layers(dense), verbose=False)


def _layers(dense: Dense) -> dict[str, Any]:
    """Return Ultralytics' description of an architecture, with the width that the recipe asks for."""
    try:
        layers: dict[str, Any] = yaml_model_load(dense.model)
    except FileNotFoundError as error:
        raise UserError(f"Ultralytics knows no architecture {dense.model}: {error}") from error
    if dense.width is not None:
        depth, _, most = layers["scales"][layers["scale"]]
        layers["scales"] = {layers["scale"]: [depth, dense.width, most]}
    return layers


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
