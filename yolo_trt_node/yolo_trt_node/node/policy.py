"""``ros2 run yolo_trt_node sros2_policy``: what the node must be allowed on a secured system.

Prints a policy for `ros2 security create_permission`: exactly the topics and services that the node has with
the cameras, names and options given. config/sros2/policy.xml is that of one camera under the default names.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from yolo_trt_node.node.ground import camera_info_topic
from yolo_trt_node.node_options import NODE_OPTIONS, Settings
from yolo_trt_node.options import add_arguments
from yolo_trt_node.params_file import add_params_file, option_values

SERVICES = (
    "change_state",
    "get_available_states",
    "get_available_transitions",
    "get_state",
    "get_transition_graph",
    "describe_parameters",
    "get_parameter_types",
    "get_parameters",
    "list_parameters",
    "set_parameters",
    "set_parameters_atomically",
    "get_type_description",
)
"""What the node answers, under its own name; the last from Jazzy on."""

_COMPRESSED = "/compressed"
POLICY_OPTIONS = tuple(option for option in NODE_OPTIONS if option.name in ("cameras", "ground_frame"))


def permissions(
    node: str,
    settings: Settings,
    *,
    image_topic: str = "/camera/image_raw",
    detections_topic: str = "detections",
    sim_time: bool = False,
) -> dict[str, set[str]]:
    """Return the full names that the node needs, by what it does with them.

    Args:
        node: its full name.
        settings: its options.
        image_topic: of the only camera; a relative name lies in the node's namespace.
        detections_topic: likewise, where its detections go.
        sim_time: whether it follows ``/clock``.

    Returns:
        ``subscribe`` and ``publish`` topics, ``reply`` services.
    """
    namespace = node.rpartition("/")[0]

    def full(name: str) -> str:
        return name if name.startswith("/") else f"{namespace}/{name}"

    images, outputs = [full(image_topic)], {full(detections_topic), full("annotated")}
    third = {full("detections_3d")}
    if settings.node.cameras:
        cameras = settings.node.cameras
        images = [full(name if "/" in name else f"{name}/image") for name in cameras]
        outputs = {full(f"{name}/{kind}") for name in cameras for kind in ("detections", "annotated")}
        third = {full(f"{name}/detections_3d") for name in cameras}
    subscribe = {topic for image in images for topic in _twins(image)}
    if sim_time:
        subscribe.add("/clock")
    if settings.ground is not None:
        subscribe |= {"/tf", "/tf_static", *map(camera_info_topic, images)}
        outputs |= third
    standard = {"/diagnostics", "/rosout", "/parameter_events", f"{node}/transition_event"}
    return {
        "subscribe": subscribe,
        "publish": outputs | standard | {full("label_info"), full("vision_info")},
        "reply": {f"{node}/{service}" for service in SERVICES},
    }


def _twins(image: str) -> Iterator[str]:
    """Yield a camera's topic, and the one that image_transport puts its compressed images on."""
    yield image
    if not image.endswith(_COMPRESSED):
        yield image + _COMPRESSED


def policy(node: str, allowed: dict[str, set[str]], enclave: str) -> str:
    """Write the policy of a node (full name) in an enclave."""
    namespace, _, name = node.rpartition("/")
    lines = []
    for permission, names in allowed.items():
        kind = "service" if permission == "reply" else "topic"
        lines += [f'          <{kind}s {permission}="ALLOW">']
        lines += [f"            <{kind}>{escape(entry)}</{kind}>" for entry in sorted(names)]
        lines += [f"          </{kind}s>"]
    return "\n".join(
        [
            '<?xml version="1.0" encoding="UTF-8"?>',
            '<policy version="0.2.0">',
            "  <enclaves>",
            f"    <enclave path={quoteattr(enclave)}>",
            "      <profiles>",
            f"        <profile ns={quoteattr(namespace or '/')} node={quoteattr(name)}>",
            *lines,
            "        </profile>",
            "      </profiles>",
            "    </enclave>",
            "  </enclaves>",
            "</policy>",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the policy; return the exit status."""
    parser = argparse.ArgumentParser(prog="sros2_policy", description=__doc__)
    parser.add_argument("--image-topic", default="/camera/image_raw", help="default: %(default)s")
    parser.add_argument("--detections-topic", default="detections", help="default: %(default)s")
    parser.add_argument("--enclave", default="/yolo_detector", help="default: %(default)s")
    parser.add_argument("--use-sim-time", action="store_true", help="allow /clock, too")
    add_params_file(parser)
    add_arguments(parser, POLICY_OPTIONS)
    given = parser.parse_args(arguments)
    try:
        settings = Settings.read(option_values(given, POLICY_OPTIONS))
    except ValueError as error:
        print(f"sros2_policy: {error}", file=sys.stderr)
        return 1
    node = "/" + given.node_name.strip("/")
    allowed = permissions(
        node,
        settings,
        image_topic=given.image_topic,
        detections_topic=given.detections_topic,
        sim_time=given.use_sim_time,
    )
    print(policy(node, allowed, given.enclave))
    return 0


if __name__ == "__main__":
    sys.exit(main())
