"""An option is one dataclass field; everything else about it follows."""

import argparse
import math
from dataclasses import dataclass

import pytest
from yolo_trt_node.detector import Detector, DetectorOptions
from yolo_trt_node.detector.options import BACKENDS, DetectOptions, LoadOptions
from yolo_trt_node.node.parameters import descriptor
from yolo_trt_node.node_options import NODE_OPTIONS, LiveOptions, Settings
from yolo_trt_node.options import add_arguments, from_values, given_arguments, nearest, option, options_of

from yolo_trt_node import node_options


@dataclass(frozen=True)
class Dummy:
    """A new group of options."""

    strength: float = option(0.5, "How strongly, in newtons.", low=0.1, high=2.0)
    color: str = option("red", "Which color.", choices=("red", "green"))
    tags: tuple[str, ...] = option((), "Labels.")
    loud: bool = option(False, "Whether it makes a noise, at 100 %.")
    angle: float = option(math.pi, "Degrees.", low=0.0, high=360.0, shown=180.0, read=math.radians)
    limit: float | None = option(None, "Given or not.", low=0.0, high=1.0, unset=-1.0)
    inner: int = 7


OPTIONS = options_of(Dummy, "dummy_", live=True)


def test_a_new_field_is_a_parameter_with_its_descriptor():
    described = {entry.name: descriptor(entry) for entry in OPTIONS}

    assert list(described) == [f"dummy_{n}" for n in ("strength", "color", "tags", "loud", "angle", "limit")]
    assert described["dummy_strength"].description == "How strongly, in newtons."
    (allowed,) = described["dummy_strength"].floating_point_range
    assert (allowed.from_value, allowed.to_value) == (0.1, 2.0)
    (allowed,) = described["dummy_limit"].floating_point_range
    assert (allowed.from_value, allowed.to_value) == (-1.0, 1.0)
    assert described["dummy_color"].additional_constraints == "one of red, green"
    assert {entry.name: entry.default for entry in OPTIONS}["dummy_tags"] == [""]


def test_a_new_field_is_a_command_line_option(capsys):
    parser = argparse.ArgumentParser()
    add_arguments(parser, OPTIONS)

    given = parser.parse_args(["--dummy-strength", "1.5", "--dummy-loud", "--dummy-tags", "a", "b"])
    assert given_arguments(given, OPTIONS) == {
        "dummy_strength": 1.5, "dummy_loud": True, "dummy_tags": ["a", "b"],
    }  # fmt: skip
    with pytest.raises(SystemExit):
        parser.parse_args(["--dummy-color", "blue"])
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    assert "How strongly, in newtons. Default: 0.5." in " ".join(capsys.readouterr().out.split())


def test_values_come_back_as_the_dataclass_in_its_own_units():
    made = from_values(Dummy, {"dummy_angle": 90.0, "dummy_tags": ["", "a"], "dummy_limit": -1.0}, "dummy_")
    assert made == Dummy(angle=math.pi / 2, tags=("a",), limit=None)
    assert from_values(Dummy, {entry.name: entry.default for entry in OPTIONS}, "dummy_") == Dummy()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"dummy_strength": 3.0}, "dummy_strength is 3.0, but must lie between 0.1 and 2"),
        ({"dummy_strength": float("nan")}, "dummy_strength is nan"),
        ({"dummy_strength": 1}, "dummy_strength is 1, but must be a number with a point from 0.1 to 2"),
        ({"dummy_limit": -0.5}, "dummy_limit is -0.5"),
        ({"dummy_color": "blue"}, "dummy_color is 'blue'; use one of red, green"),
        ({"dummy_loud": 1}, "dummy_loud is 1, but must be true or false"),
        ({"dummy_tags": ["a", 2]}, "dummy_tags is .* but must be a list of texts"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_by_name(value, told):
    with pytest.raises(ValueError, match=told):
        from_values(Dummy, value, "dummy_")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("strength", "1.5", 1.5),
        ("loud", "True", True),
        ("loud", "0", False),
        ("tags", "a, b", ["a", "b"]),
        ("tags", "['a', \"b\"]", ["a", "b"]),
        ("color", "green", "green"),
    ],
)
def test_launch_arguments_are_read_by_the_options_type(name, text, value):
    (entry,) = (entry for entry in OPTIONS if entry.field == name)
    assert entry.parse(text) == value


@pytest.mark.parametrize(("name", "text"), [("strength", "much"), ("strength", "9"), ("loud", "loudly")])
def test_launch_arguments_that_do_not_fit_are_refused_by_name(name, text):
    (entry,) = (entry for entry in OPTIONS if entry.field == name)
    with pytest.raises(ValueError, match=f"dummy_{name}"):
        entry.parse(text)


def test_every_default_is_allowed_and_means_what_the_dataclass_says():
    defaults = Settings.read({entry.name: entry.default for entry in NODE_OPTIONS})
    assert defaults == Settings.read({})
    assert defaults.detector == DetectorOptions()
    assert defaults.tracker is None
    assert defaults.ground is None
    assert len({entry.name for entry in NODE_OPTIONS}) == len(NODE_OPTIONS)


def test_what_may_change_between_two_images_is_what_the_detector_takes_up(toy):
    live = {entry.field for entry in NODE_OPTIONS if entry.live}
    assert {entry.field for entry in options_of(DetectOptions)} <= live
    assert not {entry.field for entry in options_of(LoadOptions)} & live
    detector = Detector.load(toy, DetectorOptions(threads=1))
    detector.set_options(DetectOptions(score_threshold=0.7))
    assert detector.options == DetectorOptions(threads=1, score_threshold=0.7)


@pytest.mark.parametrize("rate", [1e-300, 0.009, -1.0, float("inf")])
def test_a_rate_that_silences_the_cameras_is_refused(rate):
    with pytest.raises(ValueError, match="max_rate_hz"):
        LiveOptions(max_rate_hz=rate)


def test_pruning_measures_on_the_backends_that_the_detector_has():
    from yolo_compress.config.techniques import Prune

    for backend in ("auto", *BACKENDS):
        assert Prune(target={"params": 0.5}, backend=backend).backend == backend
    with pytest.raises(ValueError, match="openvino"):
        Prune(target={"params": 0.5}, backend="cuda")


def test_a_wrong_name_is_told_what_it_most_likely_meant():
    assert (
        nearest("scorethreshold", [entry.name for entry in NODE_OPTIONS]) == "; did you mean score_threshold?"
    )
    assert nearest("xyz", [entry.name for entry in NODE_OPTIONS]) == ""
    assert LiveOptions(max_rate_hz=node_options.SLOWEST_HZ).max_rate_hz == node_options.SLOWEST_HZ
