"""Pictures of reports: where a layer works."""

from __future__ import annotations

import pytest

from yolo_compress.report.charts import kept_channels, part_of


@pytest.mark.parametrize(
    ("layer", "part"),
    [
        ("model.0.conv", "backbone P1"),
        ("model.9.cv1.conv", "backbone P5"),
        ("15.cv2.conv", "neck P3"),
        ("model.22.cv3.0.1.conv", "head P3"),
        ("model.22.cv2.2.0.conv", "head P5"),
        ("model.30.conv", "layer 30"),
    ],
)
def test_a_layer_is_named_by_where_it_works(layer: str, part: str) -> None:
    assert part_of(layer) == part


def test_each_model_has_a_bar_for_each_layer_that_has_channels_to_choose_from() -> None:
    layers = {"model.0.conv": (16, 8), "model.22.cv2.0.0.conv": (64, 64), "model.22.dfl.conv": (1, 1)}
    figure = kept_channels({"one": layers, "two": layers})
    heights = [[bar.get_height() for bar in axis.patches] for axis in figure.axes]
    assert heights == [[50, 100], [50, 100]]
