"""Classes of a model and of data belong together by number or as one says, and never in another order."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.toy_detector import NAMES, write_toy_detector

from yolo_compress.errors import UserError
from yolo_compress.measure.accuracy import evaluate_model
from yolo_compress.measure.classes import match_classes

MODEL, DATA = "model.onnx", Path("data.yaml")


@pytest.mark.parametrize(
    ("known", "names", "named"),
    [
        (["car", "van"], ["car", "van"], True),
        (["person", "car"], ["pedestrian", "car"], True),
        (["car", "class_0"], ["class_0", "class_1"], False),
    ],
)
def test_classes_are_compared_by_number(known: list[str], names: list[str], named: bool) -> None:
    matched = match_classes(MODEL, known, DATA, names, named=named)
    assert matched.names == tuple(names)
    assert matched.of_model.tolist() == matched.of_data.tolist() == [0, 1]


@pytest.mark.parametrize("known", [["van", "car"], ["bus", "car"], ["van", "bus"]])
def test_the_same_names_in_another_order_are_refused(known: list[str]) -> None:
    with pytest.raises(UserError, match=r"another order: .* --classes (car=car|van=van)"):
        match_classes(MODEL, known, DATA, ["car", "van"])


def test_another_number_of_classes_is_refused_with_a_mapping_to_begin_with() -> None:
    with pytest.raises(UserError, match=r"knows 3 classes .* has 2 .*--classes car=car$"):
        match_classes(MODEL, ["person", "car", "bus"], DATA, ["car", "van"])


def test_a_mapping_measures_what_it_names() -> None:
    matched = match_classes(
        MODEL,
        ["person", "car", "truck", "bus"],
        DATA,
        ["bus", "van", "car"],
        mapping="truck=van, car=van,bus=bus",
    )
    assert matched.names == ("bus", "van")
    assert matched.of_model.tolist() == [-1, 1, 1, 0]
    assert matched.of_data.tolist() == [0, 1, -1]


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("car", "no MODEL=DATA pair"),
        ("lorry=van", "model.onnx has no class 'lorry'; it has car, bus"),
        ("car=lorry", "data.yaml has no class 'lorry'; it has van, car"),
        ("car=van,car=car", "only one of the data's"),
    ],
)
def test_a_mapping_that_cannot_be_is_explained(mapping: str, says: str) -> None:
    with pytest.raises(UserError) as error:
        match_classes(MODEL, ["car", "bus"], DATA, ["van", "car"], mapping=mapping)
    assert says in str(error.value)


def test_a_model_is_measured_by_the_names_that_are_said_to_belong_together(
    painted: Path, tmp_path: Path
) -> None:
    model = write_toy_detector(tmp_path / "toy.onnx")
    first, second, third = NAMES
    expected = evaluate_model(model, painted).per_class[0]
    painted.write_text(painted.read_text().replace(str(list(NAMES)), f"[one, {first}, {third}]"))
    with pytest.raises(UserError, match="another order"):
        evaluate_model(model, painted)
    mapped = evaluate_model(model, painted, classes=f"{first}=one,{second}={first}")
    assert [entry.name for entry in mapped.per_class] == ["one", first]
    assert (mapped.per_class[0].objects, mapped.per_class[0].ap50) == (expected.objects, expected.ap50)
