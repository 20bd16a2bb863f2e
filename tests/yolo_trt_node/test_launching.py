"""What the launch files do with their arguments; `tests/launch` runs them under the real launch."""

from dataclasses import dataclass

import pytest
from yolo_trt_node.launch_arguments import (
    DETECT_ARGUMENTS,
    PARAMS_FILE,
    REPLAY_ARGUMENTS,
    of_options,
    refuse_unknown,
)
from yolo_trt_node.launching import NO_MODEL, full_name, plan_detector
from yolo_trt_node.node_options import NODE_OPTIONS
from yolo_trt_node.options import option, options_of

from yolo_trt_node import launching

NAMES = [argument.name for argument in DETECT_ARGUMENTS]
TYPED = ["ros2", "launch", "yolo_trt_node", "detect.launch.py"]


@dataclass(frozen=True)
class Dummy:
    strength: float = option(0.5, "How strongly, in newtons.", low=0.1, high=2.0)


@pytest.fixture
def plan(tmp_path):
    """Plan a detector of some arguments; the others have their defaults."""

    def make(environment=None, outer="", **given):
        file = tmp_path / "default.yaml"
        file.write_text("/**:\n  ros__parameters: {model: ''}\n")
        defaults = {argument.name: argument.default for argument in DETECT_ARGUMENTS}
        given = {**defaults, "params_file": str(file), "dds_profile": "none", "model": "m.onnx", **given}
        return plan_detector(given, environment or {}, outer)

    return make


def test_a_new_option_is_a_launch_argument():
    (argument,) = of_options(options_of(Dummy, "dummy_"), but=())
    assert argument.name == "dummy_strength"
    assert argument.text == "How strongly, in newtons. Empty: as in params_file, else 0.5."
    assert argument.default == ""


def test_every_parameter_is_an_argument_and_every_argument_is_described():
    assert {entry.name for entry in NODE_OPTIONS} <= set(NAMES)
    replay = {argument.name for argument in REPLAY_ARGUMENTS}
    assert {entry.name for entry in NODE_OPTIONS} - replay == {"cameras", "autostart"}
    for arguments in (DETECT_ARGUMENTS, REPLAY_ARGUMENTS):
        assert len({argument.name for argument in arguments}) == len(arguments)
        assert all(argument.text.endswith(".") for argument in arguments)
    assert PARAMS_FILE == "config/detect.yaml"


def test_arguments_become_parameters_of_their_types(plan):
    made = plan(
        tiling="2x2", tracker="true", score_threshold="0.1", max_det="7", classes="car, van",
        transport="compressed", use_sim_time="1", **{"diagnostics.min_rate_hz": "2"},
    )  # fmt: skip
    assert made.parameters.pop("model").endswith("/m.onnx")
    assert made.parameters == {
        "tiling": "2x2", "tracker": True, "score_threshold": 0.1, "max_det": 7, "classes": ["car", "van"],
        "image_transport": "compressed", "use_sim_time": True, "diagnostics.min_rate_hz": 2.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"score_threshold": "high"}, "score_threshold:=high must be a number with a point"),
        ({"score_threshold": "7"}, "score_threshold is 7.0"),
        ({"backend": "cuda"}, "backend is 'cuda'; use one of auto, tensorrt"),
        ({"tracker": "maybe"}, "tracker:=maybe must be true or false"),
        ({"use_sim_time": "maybe"}, "use_sim_time:=maybe is neither true nor false"),
        ({"use_respawn": "2"}, "neither true nor false"),
        ({"params_file": "nowhere.yaml"}, "params_file:=nowhere.yaml: there is no file"),
        ({"dds_profile": "nowhere.xml"}, "there is no file"),
        ({"image_topic": "/camera-1/image"}, "image_topic:=/camera-1/image cannot be a topic"),
        ({"detections_topic": ""}, "cannot be a topic"),
        ({"cameras": "front,,down"}, "empty name"),
        ({"cameras": "front", "image_topic": "/nose"}, "image_topic is for one camera"),
        ({"enclave": "detector"}, "begins with a slash"),
        ({"transport": "raw", "image_transport": "raw"}, "give one of them"),
        ({"model": ""}, "no model given"),
    ],
)
def test_a_wrong_value_is_refused_with_a_remedy(plan, given, told):
    with pytest.raises(ValueError, match=told.replace("(", r"\(")):
        plan(**given)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("imagetopic:=/x", "no argument imagetopic; did you mean image_topic"),
        ("score_treshold:=0.1", "did you mean score_threshold"),
        ("whatever:=1", "no argument whatever"),
    ],
)
def test_an_unknown_argument_is_refused_and_the_nearest_named(word, told):
    with pytest.raises(ValueError, match=told):
        refuse_unknown([*TYPED, "model:=m", word], "detect.launch.py", NAMES)


def test_what_a_launch_file_that_includes_ours_is_given_is_its_own():
    refuse_unknown(["ros2", "launch", "theirs", "fleet.launch.py", "x:=1"], "detect.launch.py", NAMES)
    refuse_unknown([*TYPED, "--debug", "tiling:=2x2"], "detect.launch.py", NAMES)


@pytest.mark.parametrize(
    ("names", "full"),
    [
        (("", "", "eye"), "/eye"),
        (("", "uav1", "eye"), "/uav1/eye"),
        (("/fleet", "uav1", "eye"), "/fleet/uav1/eye"),
        (("/fleet", "/uav1/", "eye"), "/uav1/eye"),
    ],
)
def test_the_nodes_full_name(names, full):
    assert full_name(*names) == full


def test_the_log_level_and_the_enclave_are_the_nodes_own(plan):
    made = plan(namespace="uav1", node_name="eye", log_level="debug", enclave="/drone/eye")
    assert made.ros_arguments == ["--log-level", "uav1.eye:=debug", "--enclave", "/drone/eye"]


def test_topics_are_remapped_for_one_camera_only(plan):
    made = plan(image_topic="front/image")
    assert made.remappings == [("image", "front/image"), ("detections", "detections")]
    made = plan(cameras="['/front/image', \"/down/image\"]")
    assert made.remappings == []
    assert made.parameters["cameras"] == ["/front/image", "/down/image"]


def test_the_model_may_come_from_the_file(plan, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("/**:\n  ros__parameters: {model: a.onnx}\n")
    assert plan(model="", params_file=str(file)).parameters == {}
    assert NO_MODEL.startswith("no model given")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/uav1/eyes: {ros__parameters: {model: a.onnx}}", "for /uav1/eyes, none for .* /yolo_detector"),
        ("/**: {ros__parameters: {scorethreshold: 0.1}}", "did you mean score_threshold"),
        ("/**: {ros__parameters: {max_det: many}}", "max_det is 'many'"),
        ("model: m.onnx", "ros__parameters"),
    ],
)
def test_a_file_that_the_node_would_ignore_or_refuse_is_refused(plan, tmp_path, text, told):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ValueError, match=told) as error:
        plan(params_file=str(file))
    assert str(error.value).startswith(f"params_file:={file}")


def test_a_profile_that_the_user_chose_stays(plan):
    own = {"FASTRTPS_DEFAULT_PROFILES_FILE": "/my/profile.xml"}
    assert plan(own, dds_profile="auto").environment == {}
    assert "FASTRTPS_DEFAULT_PROFILES_FILE" in plan({}, dds_profile="auto").environment


@pytest.mark.parametrize("text", ["0", "-1", "soon", "inf", "nan"])
def test_numbers_that_must_be_positive(text):
    with pytest.raises(ValueError, match=f"rate:={text} is no number greater than 0"):
        launching.positive("rate", text)
