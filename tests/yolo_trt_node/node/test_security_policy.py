"""The SROS 2 policy allows what the running node has, and nothing else."""

import importlib.util
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from rclpy.node import NodeNameNonExistentError
from support.ros import detector_node, wait_until
from yolo_trt_node.node.camera import choose_source

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
