"""Checkpoints of strangers: none runs code, and what is no detector is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.hostile import checkpoint_with_code
from typer.testing import CliRunner

from yolo_compress import cli
from yolo_compress.checkpoints import load_model
from yolo_compress.errors import UserError

from ultralytics.nn.tasks import (  # isort: skip
    ClassificationModel,
    DetectionModel,
    OBBModel,
    PoseModel,
    SegmentationModel,
)


@pytest.mark.parametrize(
    "verb",
    [
        ("prune", "{}", "--macs", "0.5"),
        ("export", "{}"),
        ("evaluate", "{}", "--data", "{data}"),
        ("doctor", "{recipe}", "teacher.model={}"),
    ],
    ids=lambda verb: verb[0],
)
def test_no_verb_runs_the_code_in_a_checkpoint(
    verb: tuple[str, ...], checkpoint: Path, dataset: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "ran"
    model = torch.load(checkpoint, weights_only=False)["model"]
    path = checkpoint_with_code(tmp_path / "x.pt", mark, model)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"output: {tmp_path}/out\ninput_size: 64\ndata: {{yaml: {dataset}}}\nteacher: {{model: x.pt}}\n"
    )
    arguments = [word.format(path, data=dataset, recipe=recipe) for word in verb]
    result = CliRunner().invoke(cli.app, arguments)
    assert not mark.exists()
    said = f"{result.output}{result.exception}"
    assert "which would run on loading" in said
    assert "--trust" in said
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, UserError | SystemExit)


@pytest.mark.parametrize(
    ("model", "description", "says"),
    [
        (SegmentationModel, "yolov8n-seg.yaml", "a segmentation model"),
        (PoseModel, "yolov8n-pose.yaml", "a pose model"),
        (OBBModel, "yolov8n-obb.yaml", "a model of oriented boxes"),
        (ClassificationModel, "yolov8n-cls.yaml", "a classification model"),
    ],
    ids=["seg", "pose", "obb", "cls"],
)
def test_what_is_no_detector_is_named(model: type, description: str, says: str, tmp_path: Path) -> None:
    torch.save({"model": model(description, verbose=False)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"holds {says}.*not a detector"):
        load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("channels", [1, 4])
def test_a_detector_of_other_channels_is_refused(channels: int, tmp_path: Path) -> None:
    torch.save({"model": DetectionModel("yolov8n.yaml", ch=channels, verbose=False)}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=f"images of {channels} channels"):
        load_model(tmp_path / "x.pt")


@pytest.mark.parametrize("content", [b"", b"PK", b"text", b"\x80\x04N.", bytes(range(256)) * 100])
def test_what_is_no_checkpoint_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(UserError, match="is no checkpoint that Ultralytics") as told:
        load_model(tmp_path / "x.pt")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("value", [{"model": None}, [], "text", {"model": torch.zeros(3)}, 7])
def test_a_checkpoint_without_a_model_is_one_line(value: object, tmp_path: Path) -> None:
    torch.save(value, tmp_path / "x.pt")
    with pytest.raises(UserError) as told:
        load_model(tmp_path / "x.pt")
    assert "\n" not in str(told.value)
