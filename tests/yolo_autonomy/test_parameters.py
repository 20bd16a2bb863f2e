"""Launch arguments become parameters of the right types, and strange ones are refused."""

import pytest
from yolo_autonomy import target
from yolo_autonomy.parameters import read, read_all, within


@pytest.mark.parametrize(
    ("text", "default", "value"),
    [
        ("True", False, True),
        ("no", True, False),
        ("0.5", 1.0, 0.5),
        (" 7 ", 1, 7),
        ("7", "", "7"),
        ("car, bus", [""], ["car", "bus"]),
        ("[0.2, 1]", [0.5, 0.5], [0.2, 1.0]),
    ],
)
def test_an_argument_is_read_as_its_parameters_type(text, default, value):
    found = read("x", text, default)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "default", "what"),
    [
        ("maybe", True, "true or false"),
        ("1.5", 1, "a whole number"),
        ("nan", 1.0, "a number"),
        ("a,b", [0.5], "a"),
    ],
)
def test_what_cannot_be_read_is_named(text, default, what):
    with pytest.raises(ValueError, match=f"x:={text} is not {what}"):
        read("x", text, default)


def test_empty_arguments_leave_the_word_to_the_parameter_file():
    given = {"classes": "car", "keep_s": " ", "namespace": "drone"}
    assert read_all(given, target.PARAMETERS) == {"classes": ["car"]}


def test_numbers_out_of_range_are_named():
    assert within({"a": 1}, "a", 0, 1) == 1.0
    with pytest.raises(ValueError, match="a is nan; it must lie in 0 to 1"):
        within({"a": float("nan")}, "a", 0, 1)
