"""Which DDS profile a process gets."""

from pathlib import Path

import pytest
from ament_index_python.packages import get_package_share_directory
from yolo_trt_node.dds import MIDDLEWARE, middleware, profile_environment

FAST, CYCLONE = MIDDLEWARE
CYCLONE_ENVIRONMENT = {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
OTHER_ENVIRONMENT = {"RMW_IMPLEMENTATION": "rmw_connextdds"}


def shipped(name: str) -> str:
    return str(Path(get_package_share_directory("yolo_trt_node")) / name)


@pytest.mark.parametrize(
    ("rmw", "expected"),
    [
        ("", FAST),
        ("rmw_fastrtps_cpp", FAST),
        ("rmw_fastrtps_dynamic_cpp", FAST),
        ("rmw_cyclonedds_cpp", CYCLONE),
        ("rmw_zenoh_cpp", None),
    ],
)
def test_the_middleware_is_the_one_that_the_environment_names(rmw, expected):
    assert middleware({"RMW_IMPLEMENTATION": rmw}) is expected
    assert middleware({}) is FAST


def test_fast_dds_gets_its_profile_under_the_names_of_all_versions():
    variables, note = profile_environment("auto", {})
    profile = shipped("config/dds/fastdds_large_frames.xml")
    assert variables == {
        "FASTRTPS_DEFAULT_PROFILES_FILE": profile,
        "FASTDDS_DEFAULT_PROFILES_FILE": profile,
    }
    assert profile in note


def test_cyclone_gets_its_own_as_a_url():
    variables, note = profile_environment("auto", CYCLONE_ENVIRONMENT)
    assert variables == {"CYCLONEDDS_URI": f"file://{shipped('config/dds/cyclonedds_large_frames.xml')}"}
    assert "Cyclone DDS" in note


@pytest.mark.parametrize(
    "environment",
    [
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "/my/own.xml"},
        {"FASTDDS_DEFAULT_PROFILES_FILE": "/my/own.xml"},
        {"FASTDDS_BUILTIN_TRANSPORTS": "UDPv4"},
        {**CYCLONE_ENVIRONMENT, "CYCLONEDDS_URI": "file:///my/own.xml"},
        OTHER_ENVIRONMENT,
    ],
)
def test_auto_leaves_the_users_choice_and_other_middleware_alone(environment):
    assert profile_environment("auto", environment) == ({}, "")


def test_none_is_nothing():
    assert profile_environment("none", {}) == ({}, "")


@pytest.mark.parametrize("environment", [{}, CYCLONE_ENVIRONMENT])
def test_another_profile_wins_over_the_environments(tmp_path, monkeypatch, environment):
    (tmp_path / "own.xml").touch()
    monkeypatch.chdir(tmp_path)
    known = middleware(environment)
    set_already = {**environment, known.variables[0]: "/other.xml"}
    variables, _ = profile_environment("own.xml", set_already)
    assert variables == dict.fromkeys(known.variables, f"{known.prefix}{tmp_path / 'own.xml'}")


@pytest.mark.parametrize(
    ("choice", "environment", "words"),
    [("nowhere.xml", {}, "there is no file"), ("own.xml", OTHER_ENVIRONMENT, "neither Fast DDS nor Cyclone")],
)
def test_what_cannot_be_given_is_refused(choice, environment, words):
    with pytest.raises(ValueError, match=words):
        profile_environment(choice, environment)
