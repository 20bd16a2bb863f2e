"""The SROS 2 policy allows what the running node has, and nothing else."""

import importlib.util
import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import rclpy
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import NodeNameNonExistentError
from rclpy.parameter import Parameter
from support.ros import detector_node, wait_until
from yolo_trt_node.node.detector_node import DetectorNode
from yolo_trt_node.node.image_source import choose_source
from yolo_trt_node.node.policy import main, permissions
from yolo_trt_node.node_options import Settings

POLICY = Path(__file__).resolve().parents[3] / "config" / "sros2" / "policy.xml"
NODE = "yolo_detector"
IMAGE_TOPIC = "/camera/image_raw"


@pytest.fixture
def profile():
    policy = ElementTree.parse(POLICY).getroot()
    assert (policy.tag, policy.get("version")) == ("policy", "0.2.0")
    (profile,) = policy.findall("enclaves/enclave[@path='/yolo_detector']/profiles/profile")
    assert (profile.get("ns"), profile.get("node")) == ("/", NODE)
    return profile


def allowed(profile: ElementTree.Element, group: str, permission: str) -> set[str]:
    """The full names that a permission is given for, as sros2 reads them."""

    def full(name: str) -> str:
        if name.startswith("/"):
            return name
        return f"/{NODE}{name[1:]}" if name.startswith("~") else f"/{name}"

    return {
        full(entry.text)
        for rules in profile.findall(group)
        if rules.get(permission) == "ALLOW"
        for entry in rules
    }


def test_the_policy_and_the_running_node_agree(profile, environment, peer, toy):
    def names(look: str) -> set[str]:
        try:
            return {name for name, _ in getattr(peer.node, look)(NODE, "/")}
        except NodeNameNonExistentError:  # not discovered yet
            return set()

    # As detect.launch.py starts it, on simulated time, which the policy allows too.
    remapped = ["-r", f"image:={IMAGE_TOPIC}"]
    with detector_node(environment, {"model": toy, "use_sim_time": "true"}, remapped) as node:
        node.wait_for_log("active: listening on")
        compressed = choose_source(IMAGE_TOPIC, "compressed", "auto", lambda _: []).topic
        found = {}

        def agree() -> bool:
            # What belongs to a node becomes known bit by bit.
            found["publish"] = names("get_publisher_names_and_types_by_node")
            found["subscribe"] = names("get_subscriber_names_and_types_by_node") | {compressed}
            found["reply"] = names("get_service_names_and_types_by_node")
            found["request"] = names("get_client_names_and_types_by_node")
            return found == expected

        expected = {
            **{name: allowed(profile, "topics", name) for name in ("publish", "subscribe")},
            **{name: allowed(profile, "services", name) for name in ("reply", "request")},
        }
        if importlib.util.find_spec("type_description_interfaces") is None:
            # Humble's nodes have no such service; there the permission lies idle.
            expected["reply"].discard(f"/{NODE}/get_type_description")
        wait_until(agree, 10.0)
    assert found == expected


def test_every_permission_is_one_that_sros2_knows(profile):
    known = {"topics": {"publish", "subscribe"}, "services": {"request", "reply"}}
    for rules in profile:
        assert set(rules.attrib) <= known[rules.tag]
        assert set(rules.attrib.values()) == {"ALLOW"}
        assert {entry.tag for entry in rules} == {rules.tag[:-1]}
        assert not any("*" in entry.text for entry in rules), "a wildcard allows more than the node needs"


CONFIGURATIONS = {
    "namespace, name and topics": (
        {},
        {"namespace": "/uav1", "name": "eye", "image_topic": "nose/image", "detections_topic": "/found"},
    ),
    "several cameras": ({"cameras": ["front", "/down/image_raw", "/tail/compressed"]}, {}),
    "ground projection": ({"ground_frame": "map"}, {}),
    "all of it": (
        {"cameras": ["front", "/down/image"], "ground_frame": "map", "tracker": True},
        {"namespace": "/uav1"},
    ),
}


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_a_printed_policy_is_what_the_node_has_in_each_configuration(configuration, toy, tmp_path, capsys):
    parameters, names = CONFIGURATIONS[configuration]
    namespace, name = names.get("namespace", ""), names.get("name", NODE)
    image_topic = names.get("image_topic", IMAGE_TOPIC)
    detections_topic = names.get("detections_topic", "detections")
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps({"/**": {"ros__parameters": parameters}}))
    arguments = ["--params-file", str(file), "--node-name", f"{namespace}/{name}"]
    assert main([*arguments, "--image-topic", image_topic, "--detections-topic", detections_topic]) == 0
    policy = ElementTree.fromstring(capsys.readouterr().out)
    (profile,) = policy.findall("enclaves/enclave/profiles/profile")

    remaps = [] if "cameras" in parameters else [f"image:={image_topic}", f"detections:={detections_topic}"]
    # Humble's nodes have no such service.
    described = {f"{namespace}/{name}/get_type_description"}
    expected = {
        "publish": allowed(profile, "topics", "publish"),
        "subscribe": allowed(profile, "topics", "subscribe"),
        "reply": allowed(profile, "services", "reply"),
    }
    found: dict[str, set[str]] = {}
    context = rclpy.Context()
    context.init(domain_id=98)
    node = DetectorNode(
        context=context,
        namespace=namespace,
        cli_args=["--ros-args", "-r", f"__node:={name}", *(word for r in remaps for word in ("-r", r))],
        parameter_overrides=[
            Parameter(key, value=value) for key, value in {**parameters, "model": str(toy)}.items()
        ],
    )
    try:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        # It reads raw images until compressed ones are published.
        compressed = {
            choose_source(camera.topic, "compressed", "auto", lambda _: []).topic for camera in node._cameras
        }

        def names(look: str) -> set[str]:
            return {name for name, _ in getattr(node, look)(node.get_name(), node.get_namespace())}

        def agree() -> bool:
            # The graph comes to know a node's own topics, too, bit by bit.
            found["publish"] = names("get_publisher_names_and_types_by_node")
            found["subscribe"] = names("get_subscriber_names_and_types_by_node") | compressed
            found["reply"] = names("get_service_names_and_types_by_node") | described
            return found == expected

        wait_until(agree, 10.0)
    finally:
        node.stop()
        node.destroy_node()
        context.try_shutdown()
    assert found == expected
    assert not allowed(profile, "services", "request")
    assert (profile.get("ns"), profile.get("node")) == (namespace or "/", name)


def test_the_shipped_policy_is_the_printed_one_of_the_default_names(profile):
    printed = permissions(f"/{NODE}", Settings.read({}), sim_time=True)
    assert printed == {
        "subscribe": allowed(profile, "topics", "subscribe"),
        "publish": allowed(profile, "topics", "publish"),
        "reply": allowed(profile, "services", "reply"),
    }
