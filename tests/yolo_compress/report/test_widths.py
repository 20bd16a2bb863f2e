"""Widths that fall off the hardware's multiples are told, and only those."""

from __future__ import annotations

import pytest

from yolo_compress.report.widths import off_multiples


def test_layers_off_the_multiples_are_listed_those_first_that_waste_most() -> None:
    layers = {"0": (64, 64), "1": (64, 60), "2": (64, 9), "3": (128, 8)}
    found = off_multiples(layers, ["fp16"])
    assert found is not None
    assert found.header == ("layer", "before", "kept", "computed in fp16")
    assert found.rows == [["2", "64", "9", "16"], ["1", "64", "60", "64"]]
    assert "2 of 4 layers" in found.note


@pytest.mark.parametrize("precisions", [["fp32"], ["fp16"], ["fp32", "fp16"]])
def test_int8_wants_more_than_the_others(precisions: list[str]) -> None:
    layers = {"a": (64, 40), "b": (64, 32)}
    assert off_multiples(layers, precisions) is None
    found = off_multiples(layers, [*precisions, "int8"])
    assert found is not None
    assert found.header[-2:] == ("computed in fp16", "computed in int8")
    assert found.rows == [["a", "64", "40", "40", "64"]]
    alone = off_multiples(layers, ["int8"])
    assert alone is not None
    assert alone.rows == [["a", "64", "40", "64"]]


def test_the_table_stays_small_and_says_what_it_leaves_out() -> None:
    found = off_multiples({str(index): (64, 9 + index) for index in range(40)}, ["fp16"])
    assert found is not None
    assert len(found.rows) == 12
    assert "35 of 40 layers" in found.note
    assert "Shown: the 12" in found.note
