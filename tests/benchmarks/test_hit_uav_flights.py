"""No flight is trained on and measured on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "hit_uav_flights.py"


def test_flights_are_split_whole_and_each_can_be_measured_alone(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("hit_uav_flights", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    flights = {"a": ["train/images/1.jpg", "train/images/2.jpg"], "b": ["val/images/3.jpg"], "c": ["x/4.jpg"]}
    rows = [f"{image},{flight}" for flight, images in flights.items() for image in images]
    (tmp_path / "flights.csv").write_text("\n".join(["image,flight", *rows]))
    (tmp_path / "hit_uav.yaml").write_text("names: {0: Person}\n")
    path = script.split(tmp_path, tmp_path / "out", ("b", "c"))
    described = yaml.safe_load(path.read_text())
    found = {
        name: [
            Path(line).relative_to(tmp_path).as_posix() for line in (path.parent / file).read_text().split()
        ]
        for name, file in described.items()
        if name.startswith(("train", "val"))
    }
    assert found == {
        "train": flights["a"],
        "val": flights["b"] + flights["c"],
        "val_b": flights["b"],
        "val_c": flights["c"],
    }
    with pytest.raises(SystemExit, match="has no flight d"):
        script.split(tmp_path, tmp_path / "out", ("d",))
