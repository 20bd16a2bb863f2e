"""What holds of the shipped configuration, with or without ROS's launch system."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import rclpy
import yaml
from rclpy.parameter import Parameter
from yolo_trt_node.node_options import NODE_OPTIONS

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "config" / "dds" / "fastdds_large_frames.xml"
PARAMS_FILE = ROOT / "config" / "detect.yaml"

FRAME_4K_BYTES = 3840 * 2160 * 3
UDP_MESSAGE_BYTES = 65_500
DOCKER_SHM_BYTES = 64 << 20
NAMESPACE = {"dds": "http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles"}


@pytest.fixture
def profile() -> ElementTree.Element:
    return ElementTree.parse(PROFILE).getroot()


def transports(profile: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The transports that the default participant uses, by type."""
    (participant,) = profile.findall(".//dds:participant[@is_default_profile='true']", NAMESPACE)
    used = [entry.text for entry in participant.findall(".//dds:userTransports/dds:transport_id", NAMESPACE)]
    defined = {
        entry.findtext("dds:transport_id", None, NAMESPACE): entry
        for entry in profile.findall(".//dds:transport_descriptor", NAMESPACE)
    }
    return {defined[name].findtext("dds:type", None, NAMESPACE): defined[name] for name in used}


def number(transport: ElementTree.Element, name: str) -> int:
    return int(transport.findtext(f"dds:{name}", None, NAMESPACE))


def test_shared_memory_holds_a_4k_frame_and_fits_into_dockers_default(profile):
    segment = number(transports(profile)["SHM"], "segment_size")

    assert FRAME_4K_BYTES < segment < DOCKER_SHM_BYTES


def test_receivers_queue_holds_a_full_segment(profile):
    shared_memory = transports(profile)["SHM"]

    queue_bytes = number(shared_memory, "port_queue_capacity") * UDP_MESSAGE_BYTES

    assert queue_bytes > number(shared_memory, "segment_size")


def test_other_machines_stay_in_reach(profile):
    assert "UDPv4" in transports(profile)


def test_small_builtin_segment_is_off(profile):
    assert profile.findtext(".//dds:useBuiltinTransports", None, NAMESPACE) == "false"


def test_fast_dds_takes_the_profile():
    if "fastrtps" not in rclpy.get_rmw_implementation_identifier():
        pytest.skip(f"the profile is for Fast DDS; this is {rclpy.get_rmw_implementation_identifier()}")
    if not Path("/dev/shm").is_dir() or shutil.disk_usage("/dev/shm").free < DOCKER_SHM_BYTES:
        pytest.skip("less than 64 MB free in /dev/shm")
    script = (
        "import rclpy; rclpy.init(); node = rclpy.create_node('probe')\n"
        "for line in open('/proc/self/maps'):\n"
        "    if '/dev/shm/fastrtps_' in line:\n"
        "        start, end = (int(a, 16) for a in line.split()[0].split('-')); print(end - start)\n"
    )
    variables = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

    ran = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **dict.fromkeys(variables, str(PROFILE))},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert ran.returncode == 0, ran.stderr
    assert max(map(int, ran.stdout.split())) > FRAME_4K_BYTES


def test_parameter_file_has_exactly_the_nodes_parameters_at_their_defaults():
    (section,) = yaml.safe_load(PARAMS_FILE.read_text()).values()

    given = section["ros__parameters"]

    assert sorted(given) == sorted(option.name for option in NODE_OPTIONS)
    assert given == {option.name: option.default for option in NODE_OPTIONS}
    assert {name: type(value) for name, value in given.items()} == {
        option.name: type(option.default) for option in NODE_OPTIONS
    }


def test_ros_reads_the_parameter_file_for_any_node_name_with_the_declared_types():
    context = rclpy.Context()
    context.init(args=["--ros-args", "--params-file", str(PARAMS_FILE)])
    try:
        node = rclpy.create_node(
            "any_name",
            namespace="any/where",
            context=context,
            automatically_declare_parameters_from_overrides=True,
        )
        read = {option.name: node.get_parameter(option.name).type_ for option in NODE_OPTIONS}
        node.destroy_node()
    finally:
        context.try_shutdown()

    assert read == {
        option.name: Parameter.Type.from_parameter_value(option.default) for option in NODE_OPTIONS
    }


def test_every_parameter_in_the_file_is_explained_and_live_ones_marked():
    lines = PARAMS_FILE.read_text().splitlines()

    for option in NODE_OPTIONS:
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"    {option.name}:"))
        comment = []
        while lines[at - 1 - len(comment)].startswith("    #"):
            comment.append(lines[at - 1 - len(comment)])
        assert comment, f"{option.name} has no comment"
        assert ("(live)" in " ".join(comment)) == option.live, f"{option.name}: (live) is wrong"
