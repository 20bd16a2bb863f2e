"""Architectures of strangers: nothing in them is run, and none asks for more than can be built."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml

from yolo_compress.config.techniques import Dense
from yolo_compress.dense import architecture, require_architecture
from yolo_compress.errors import UserError

from ultralytics.nn.tasks import yaml_model_load  # isort: skip

STOCK = {key: value for key, value in yaml_model_load("yolov8n.yaml").items() if key != "yaml_file"}


def test_what_ultralytics_ships_is_taken() -> None:
    for name in ("yolov8n.yaml", "yolov8x.yaml", "yolov5nu.yaml", "yolo11n.yaml"):
        require_architecture(yaml_model_load(name), name)


def changed(**changes: object) -> dict:
    return {**copy.deepcopy(STOCK), **changes}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (changed(activation="__import__('os').mkdir('ran')"), "activation"),
        (changed(activation="nn.ReLU(__import__('os').mkdir('ran'))"), "activation"),
        (changed(backbone=[[-1, 10**9, "Conv", [64, 3, 2]]]), "is repeated 1000000000 times"),
        (changed(backbone=[[-1, 1, "Conv", [10**9, 3, 2]]]), "an argument beyond"),
        (changed(backbone=[[-1, 1, "os.mkdir", ["ran"]]]), "names the module 'os.mkdir'"),
        (changed(backbone=[[-1, 1, 7, []]]), "names the module '7'"),
        (changed(backbone=[[-1, 1, "Conv"]]), r"is not \[from"),
        (changed(backbone=[[-1, 1, "Conv", [64]]] * 501), "more than 500"),
        (changed(backbone=None), "`backbone:` is no list"),
        (changed(head={"a": 1}), "`head:` is no list"),
        (changed(scales={"n": [1e9, 1, 1]}), "scales"),
        ([], "no mapping"),
    ],
)
def test_what_is_no_list_of_layers_is_refused(content: object, says: str) -> None:
    with pytest.raises(UserError, match=f"the architecture x.yaml: .*{says}"):
        require_architecture(content, "x.yaml")


@pytest.mark.parametrize("module", ["Path", "subprocess", "NoSuchLayer"])
def test_a_name_that_is_no_layer_is_one_error(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine-yolov8n.yaml"
    path.write_text(yaml.safe_dump(changed(backbone=[[-1, 1, module, ["ran"]]])))
    dense = Dense.model_validate({"model": str(path), "train": {"epochs": 1, "batch": 1, "lr": 0.1}})
    with pytest.raises(UserError, match="builds no detector of the architecture") as told:
        architecture(dense)
    assert "\n" not in str(told.value)
    assert not (tmp_path / "ran").exists()
