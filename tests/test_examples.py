"""The examples do what they say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

FOLDER = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    # Pickled by its name where a training is distributed.
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    text = Path(__file__).read_text()
    assert all(f'example("{path.stem}")' in text for path in FOLDER.glob("*.py"))
    assert len(list(FOLDER.glob("*.py"))) == 4


def test_detect_in_picture(tmp_path, capsys):
    from support.toy_detector import paint_cells, write_toy_detector

    write_toy_detector(tmp_path / "toy.onnx")
    picture = paint_cells(np.zeros((64, 64, 3), np.uint8), [(3, 3, "green")])
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    example("detect_in_picture").main(str(tmp_path / "toy.onnx"), str(tmp_path / "a.png"))
    assert capsys.readouterr().out == "green 1.00 at 20 16 36 40\n"
    with pytest.raises(SystemExit, match="no picture"):
        example("detect_in_picture").main(str(tmp_path / "toy.onnx"), str(tmp_path / "b.png"))


def test_detect_in_bag(tmp_path, capsys):
    from support.toy_detector import paint_cells, write_toy_detector
    from yolo_trt_node.replay import messages
    from yolo_trt_node.replay.bags import BagWriter, typestore

    write_toy_detector(tmp_path / "toy.onnx")
    store = typestore()
    with BagWriter(tmp_path / "bag", store) as writer:
        for index, name in enumerate(("red", "red", "blue")):
            picture = paint_cells(np.zeros((64, 64, 3), np.uint8), [(3, 3, name)])
            data = messages.image(store, messages.header(store, index * 10**9, "nose"), picture)
            writer.write("/camera", messages.IMAGE_TYPE, data, index * 10**9)
    example("detect_in_bag").main(str(tmp_path / "toy.onnx"), str(tmp_path / "bag"), "/camera")
    assert capsys.readouterr().out == "red: 2\nblue: 1\n"


def test_prune_and_export(tmp_path, capsys):
    from support.squares import make_model

    from yolo_compress.checkpoints import save_model

    save_model(make_model(), tmp_path / "dense.pt")
    example("prune_and_export").main(str(tmp_path / "dense.pt"), str(tmp_path / "small.onnx"), "64")
    said = capsys.readouterr().out
    assert "of the macs left (asked for 50.0%)" in said
    assert (tmp_path / "small.onnx").is_file()
    with pytest.raises(SystemExit, match="there is no model at"):
        example("prune_and_export").main(str(tmp_path / "other.pt"), str(tmp_path / "small.onnx"), "64")


def test_own_distiller(tmp_path, capsys):
    import json

    import yaml
    from support.squares import make_model, make_recipe, write_dataset

    from yolo_compress.checkpoints import load_model, save_model

    recipe = make_recipe(tmp_path / "out", write_dataset(tmp_path / "squares", train=2, val=2))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    save_model(make_model(), tmp_path / "model.pt")
    arguments = [str(tmp_path / name) for name in ("recipe.yaml", "model.pt", "model.pt")]
    example("own_distiller").main(*arguments)
    assert "written:" in capsys.readouterr().out
    load_model(tmp_path / "out" / "own" / "model.pt")
    history = json.loads((tmp_path / "out" / "own" / "history.json").read_text())
    assert all(row["distance_loss"] >= 0 for row in history)
