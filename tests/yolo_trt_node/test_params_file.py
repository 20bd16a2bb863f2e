"""A parameter file means without ROS what it means to a node."""

import pytest
from yolo_trt_node.node_options import NODE_OPTIONS
from yolo_trt_node.params_file import known_values, meant_for_others, read_sections, values_for

FILE = """
/**:
  ros__parameters: {score_threshold: 0.1, tiling: 2x2, diagnostics: {min_rate_hz: 3.0}}
/uav1/yolo_detector:
  ros__parameters: {score_threshold: 0.5}
uav2:
  yolo_detector:
    ros__parameters: {score_threshold: 0.6}
/*/eyes:
  ros__parameters: {max_det: 9}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(FILE)
    return path


@pytest.mark.parametrize(
    ("node", "threshold"),
    [("/yolo_detector", 0.1), ("/uav1/yolo_detector", 0.5), ("/uav2/yolo_detector", 0.6), ("/a/b/eyes", 0.1)],
)
def test_a_node_gets_what_is_for_any_and_over_it_what_is_for_its_name(file, node, threshold):
    found = values_for(read_sections(file), node, file)
    assert found == {"score_threshold": threshold, "tiling": "2x2", "diagnostics.min_rate_hz": 3.0}
    assert known_values(found, NODE_OPTIONS, file) == found


def test_a_pattern_fits_one_namespace(file):
    assert values_for(read_sections(file), "/uav7/eyes", file)["max_det"] == 9


def test_a_file_for_another_node_names_its_sections_and_the_node(tmp_path):
    path = tmp_path / "theirs.yaml"
    path.write_text("/uav1/eyes:\n  ros__parameters: {model: a.onnx}\n")
    with pytest.raises(ValueError, match=r"parameters for /uav1/eyes, none for .* /yolo_detector"):
        values_for(read_sections(path), "/yolo_detector", path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "holds no parameters"),
        ("model: a.onnx", "holds no parameters"),
        ("a: [", "cannot be read as YAML"),
        ("[" * 3000, "cannot be read as YAML"),
        ("\x00", "cannot be read as YAML"),
        ("a: &a {ros__parameters: {b: *a}}", "aliases"),
        ("#" * 1_000_001, "larger than 1 MB"),
    ],
    ids=["empty", "flat", "cut", "deep", "binary", "alias", "large"],
)
def test_what_is_no_parameter_file_is_one_error(tmp_path, text, told):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=told):
        read_sections(path)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"scorethreshold": 0.1}, "no parameter scorethreshold; did you mean score_threshold"),
        ({"max_det": "many"}, "max_det is 'many', but must be a whole number"),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(values, told):
    with pytest.raises(ValueError, match=told):
        known_values(values, NODE_OPTIONS, "params.yaml")


def test_what_every_node_has_is_let_through():
    assert known_values({"use_sim_time": True, "max_det": 3}, NODE_OPTIONS, "") == {"max_det": 3}


def test_files_of_a_command_line_that_hold_nothing_for_the_node_are_named(file, tmp_path):
    theirs = tmp_path / "theirs.yaml"
    theirs.write_text("/uav1/eyes:\n  ros__parameters: {model: a.onnx}\n")
    arguments = ["detector_node", "--ros-args", "--params-file", str(file), "--params-file", str(theirs)]
    said = meant_for_others(arguments, "/yolo_detector")
    assert said.startswith(
        f"{theirs} has parameters for /uav1/eyes, none for this node, which is /yolo_detector"
    )
    assert meant_for_others(arguments[:4], "/yolo_detector") == ""
    assert meant_for_others(["--params-file"], "/yolo_detector") == ""
