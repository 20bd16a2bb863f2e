"""A data set that the toy detector solves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from support.toy_detector import NAMES, expected_box, paint_cells


@pytest.fixture
def painted(tmp_path: Path) -> Path:
    """A data set that the toy detector solves but for the last image's object, which it cannot see."""
    for folder in ("images", "labels"):
        (tmp_path / "val" / folder).mkdir(parents=True)
    for index in range(4):
        row, column, name = 2 + index, 5 - index, NAMES[index % 2]
        seen = index < 3
        image = paint_cells(np.full((64, 64, 3), 114, np.uint8), [(row, column, name)] if seen else [])
        cv2.imwrite(str(tmp_path / "val" / "images" / f"{index}.png"), image)
        x0, y0, x1, y1 = np.array(expected_box(row, column)) / 64
        label = f"{NAMES.index(name)} {(x0 + x1) / 2} {(y0 + y1) / 2} {x1 - x0} {y1 - y0}"
        (tmp_path / "val" / "labels" / f"{index}.txt").write_text(label)
    (tmp_path / "data.yaml").write_text(f"val: val/images\nnames: {list(NAMES)}\n")
    return tmp_path / "data.yaml"
