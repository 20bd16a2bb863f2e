"""The node never goes silent: real publishers in every wrong state, and what the node says of them."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rosgraph_msgs.msg import Clock
from support import cameras
from support.jetson import write_jetson
from support.ros import NodeProcess, Peer, Transition, dds_environment, detector_node, wait_until
from support.toy_detector import write_toy_detector
from yolo_trt_node.health.diagnosis import Cause
from yolo_trt_node.node import parameters
from yolo_trt_node.node.health import Health

OK, WARN, ERROR, STALE = (
    DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR, DiagnosticStatus.STALE,
)  # fmt: skip
QUICK = {"diagnostic_updater.period": 0.2, "infer_without_listeners": True}
IMAGE = np.zeros((64, 64, 3), np.uint8)


class Diagnostics:
    """Listens to ``/diagnostics``."""

    def __init__(self, peer: Peer) -> None:
        self.messages: list[DiagnosticArray] = []
        peer.node.create_subscription(DiagnosticArray, "/diagnostics", self.messages.append, 100)

    def latest(self, task: str, node: str = "yolo_detector") -> DiagnosticStatus | None:
        for message in reversed(self.messages):
            for status in message.status:
                if status.name == f"{node}: {task}":
                    return status
        return None

    def wait(self, task: str, level: bytes, *words: str, node: str = "yolo_detector") -> DiagnosticStatus:
        def there() -> bool:
            status = self.latest(task, node)
            return status is not None and status.level == level and all(w in status.message for w in words)

        assert wait_until(there), (
            f"wanted {task} at {level} with {words}, but it is {self.latest(task, node)}"
        )
        return self.latest(task, node)


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {entry.key: entry.value for entry in status.values}


@pytest.fixture
def diagnostics(peer) -> Diagnostics:
    return Diagnostics(peer)


# --- Every fault at once: many cameras on one node ----------------------------------------------------------

FAULTS = {
    "/front/image_raw": (Cause.NO_PUBLISHER, "Images are on /front/image_rect (Image), "),
    "/typed": (Cause.WRONG_TYPE, "/faulty/driver publishes std_msgs/msg/String there"),
    "/best_effort": (
        Cause.INCOMPATIBLE_QOS,
        "/faulty/driver offers best effort, volatile, this node asks for reliable, volatile; reliability "
        "keeps them apart: set image_reliability to auto (and "
        "qos_overrides./best_effort.subscription.reliability",
    ),
    "/large": (Cause.LARGE_FRAMES, "config/dds/fastdds_large_frames.xml"),
    "/silent": (Cause.SILENT, "/faulty/driver is matched and has sent nothing"),
    "/unreadable": (Cause.UNREADABLE, "encoding"),
    "/frozen": (Cause.FROZEN_STAMPS, "with the stamp 5.000 s"),
    "/future": (Cause.FUTURE_STAMPS, " s ahead of this node's clock"),
    "/past": (Cause.PAST_STAMPS, "play it with --clock and set use_sim_time"),
}


@pytest.fixture(scope="module")
def faulty(domain, tmp_path_factory) -> Iterator[SimpleNamespace]:
    """A node with a camera for each fault, and the process that publishes them (with no DDS profile)."""
    environment = dds_environment(domain % 100 + 1)
    without_profile = {k: v for k, v in environment.items() if "PROFILES_FILE" not in k}
    patch = pytest.MonkeyPatch()
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        patch.setenv(name, environment[name])
    publishers = NodeProcess([sys.executable, cameras.__file__], without_profile)
    peer = Peer(int(environment["ROS_DOMAIN_ID"]))
    given = {
        **QUICK,
        "model": write_toy_detector(tmp_path_factory.mktemp("faulty") / "toy.onnx"),
        "cameras": f"[{', '.join([*FAULTS, '/healthy'])}]",
        "qos_overrides./best_effort.subscription.reliability": "reliable",
    }
    try:
        with detector_node(environment, given) as node:
            yield SimpleNamespace(node=node, diagnostics=Diagnostics(peer), peer=peer)
    finally:
        publishers.close()
        peer.close()
        patch.undo()


@pytest.mark.parametrize("topic", FAULTS)
def test_the_watchdog_says_the_one_most_likely_reason(faulty, topic):
    cause, words = FAULTS[topic]

    status = faulty.diagnostics.wait(
        f"{topic.strip('/')} input", ERROR if cause.blocks else WARN, cause.value, words
    )
    faulty.node.wait_for_log(f"{topic}: {cause.value}. ")

    assert values(status)["Topic"] == topic
    assert values(status)["Cause"] == cause.value
    # Said once, although /diagnostics has repeated it.
    assert faulty.node.log.count(f"{topic}: {cause.value}. ") == 1


def test_a_camera_beside_faulty_ones_is_well(faulty):
    status = faulty.diagnostics.wait("healthy input", OK, "images arrive")
    shown = {key: float(value) for key, value in values(status).items() if key != "Topic"}
    assert 0 < shown["Events in window"] <= shown["Events since startup"]
    assert shown["Actual frequency (Hz)"] == pytest.approx(
        shown["Events in window"] / shown["Duration of window (s)"], rel=0.01
    )
    status = faulty.diagnostics.wait("healthy detections", OK, "images are answered")
    assert 0 < float(values(status)["Frame age p50 (s)"]) <= float(values(status)["Frame age p95 (s)"])
    assert {"Stage preprocess p50 (s)", "Stage inference p50 (s)", "Stage postprocess p95 (s)"} <= set(
        values(status)
    )


def test_thresholds_are_parameters_that_take_effect_at_once(faulty):
    faulty.diagnostics.wait("healthy input", OK)
    for name, value, task, level, words in (
        ("diagnostics.min_rate_hz", 50.0, "input", WARN, "too few images arrive"),
        ("diagnostics.error_rate_hz", 40.0, "input", ERROR, "40 Hz are expected"),
        ("diagnostics.max_frame_age_s", 0.0, "detections", WARN, "detections come late"),
        ("diagnostics.error_frame_age_s", 0.0, "detections", ERROR, "detections come late"),
    ):
        assert faulty.peer.set_parameter(name, value) == (True, "")
        faulty.diagnostics.wait(f"healthy {task}", level, words)


# --- One at a time ------------------------------------------------------------------------------------------


def test_alone_in_a_domain_it_names_the_domain_where_the_others_are(environment, peer, toy, domain):
    elsewhere = {**environment, "ROS_DOMAIN_ID": str((domain + 50) % 100 + 1)}
    with detector_node(elsewhere, {"model": toy, **QUICK}) as node:
        node.wait_for_log(Cause.ALONE.value)
        (line,) = (line for line in node.lines if Cause.ALONE.value in line)
        assert f"ROS_DOMAIN_ID {elsewhere['ROS_DOMAIN_ID']}" in line
        # The machine may have other domains in use than this test's.
        named = line.split("nodes in the ROS domain ")[1].split(":")[0].split(" and ")
        assert str(domain) in named


def test_without_a_clock_simulated_time_is_named(environment, peer, diagnostics, toy):
    with detector_node(environment, {"model": toy, "use_sim_time": True, **QUICK}) as node:
        assert wait_until(lambda: peer.images.get_subscription_count() > 0)

        def fly(condition) -> bool:
            def step() -> bool:
                peer.publish(IMAGE, stamp=(int(time.time()), 0))
                time.sleep(0.05)
                return condition()

            return wait_until(step)

        assert fly(lambda: Cause.NO_CLOCK.value in node.log)
        diagnostics.wait("input", WARN, Cause.NO_CLOCK.value)
        clock = peer.node.create_publisher(Clock, "/clock", 1)

        def tick_and_ask() -> bool:
            message = Clock()
            message.clock.sec = int(time.time())
            clock.publish(message)
            return "input is back after" in node.log

        assert fly(tick_and_ask), node.log


def test_stale_when_the_input_stops_and_a_word_when_it_is_back(environment, peer, diagnostics, toy):
    def fly(condition) -> bool:
        def step() -> bool:
            now = peer.node.get_clock().now().to_msg()
            peer.publish(IMAGE, stamp=(now.sec, now.nanosec))
            time.sleep(0.02)
            return condition()

        return wait_until(step)

    def level(task: str) -> bytes | None:
        status = diagnostics.latest(task)
        return status.level if status else None

    with detector_node(environment, {"model": toy, "diagnostics.input_timeout_s": 1.0, **QUICK}) as node:
        assert fly(lambda: level("input") == OK and level("detections") == OK)
        status = diagnostics.wait("input", STALE, "the input has stopped", Cause.SILENT.value)
        assert float(values(status)["Time since last image (s)"]) > 1.0
        diagnostics.wait("detections", STALE)
        node.wait_for_log(Cause.SILENT.value)
        assert fly(lambda: "input is back after" in node.log)
        assert fly(lambda: level("input") == OK)
        (line,) = (line for line in node.lines if "input is back after" in line)
        assert 1.0 < float(line.split("input is back after ")[1].split(" s")[0]) < 30.0


def test_nobody_who_listens_is_no_fault(environment, peer, diagnostics, toy):
    with detector_node(environment, {"model": toy, "diagnostic_updater.period": 0.2}):
        peer.detect(IMAGE)
        for subscription in list(peer.node.subscriptions):
            if subscription.topic_name == "/detections":
                peer.node.destroy_subscription(subscription)

        def unheard() -> bool:
            peer.publish(IMAGE)
            time.sleep(0.02)
            status = diagnostics.latest("detections")
            return status is not None and "no image is looked at: nobody listens" in status.message

        assert wait_until(unheard)
        assert diagnostics.latest("detections").level == OK


class TestLifeCycle:
    """It speaks in every state."""

    def test_from_unconfigured_to_active_and_back(self, environment, peer, diagnostics, toy):
        with detector_node(environment, {"model": toy, "autostart": False, **QUICK}):
            diagnostics.wait("life cycle", WARN, "waiting to be configured")
            diagnostics.wait("model", WARN, "no model is loaded")
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)
            diagnostics.wait("life cycle", WARN, "configured, waiting to be activated")
            status = diagnostics.wait("model", OK, "toy.onnx on onnxruntime, fp32")
            assert values(status)["Model"] == str(toy)
            assert "auto took onnxruntime" in values(status)["Backend chosen because"]
            assert diagnostics.latest("input") is None
            assert peer.change_state(Transition.TRANSITION_ACTIVATE)
            diagnostics.wait("life cycle", OK, "active")
            diagnostics.wait("input", WARN, "waiting for the first image")
            assert peer.change_state(Transition.TRANSITION_DEACTIVATE)
            assert peer.change_state(Transition.TRANSITION_CLEANUP)
            diagnostics.wait("model", WARN, "no model is loaded")
            assert peer.change_state(Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
            diagnostics.wait("life cycle", WARN, "shut down")

    def test_a_failed_configure_says_why(self, environment, peer, diagnostics, tmp_path):
        with detector_node(environment, {"model": tmp_path / "none.onnx", **QUICK}):
            diagnostics.wait("life cycle", ERROR, "failed: configure: no model file at")
            diagnostics.wait("model", ERROR, "no model is loaded")

    def test_while_an_engine_is_built_it_tells_how_long_and_which_engine_came_of_it(
        self, environment, peer, diagnostics, toy, tmp_path
    ):
        tests = Path(cameras.__file__).parents[1]
        fakes = {
            **environment,
            "FAKE_TENSORRT": "10.3.0",
            "FAKE_TENSORRT_BUILD": "slow",
            "XDG_CACHE_HOME": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(
                [str(tests / "support" / "fakes"), str(tests), environment.get("PYTHONPATH", "")]
            ),
        }
        given = {"model": toy, "backend": "tensorrt", "autostart": False, **QUICK}
        with detector_node(fakes, given):
            diagnostics.wait("life cycle", WARN, "waiting to be configured")
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)
            told = [message.status[0].message for message in diagnostics.messages]
            assert any(re.match(r"busy: configure, for \d+ s: building ", text) for text in told), told
            status = diagnostics.wait("model", OK, "toy.onnx on tensorrt, fp16")
            assert "fp16 (250 of 250 layers)" in values(status)["Precision"]
            assert values(status)["Engine"].endswith("10.3.0, Fake GPU")
            assert "sha256 " in values(status)["Engine"]


def test_conventions_of_diagnostic_updater(environment, peer, diagnostics, toy):
    with detector_node(
        environment,
        {"model": toy, "diagnostic_updater.use_fqn": True, **QUICK},
        ["-r", "__ns:=/uav1", "-r", "__node:=eyes"],
    ):
        status = diagnostics.wait("life cycle", OK, node="/uav1/eyes")
        assert status.hardware_id
        stamps = [message.header.stamp for message in diagnostics.messages]
        assert all(stamp.sec > 0 for stamp in stamps)
        names = [status.name for status in diagnostics.messages[-1].status]
        assert names == [f"/uav1/eyes: {task}" for task in ("life cycle", "model", "input", "detections")]
        before = len(diagnostics.messages)
        time.sleep(2.0)
        assert 5 <= len(diagnostics.messages) - before <= 12


def test_a_jetson_tells_its_temperatures(peer, diagnostics, domain, tmp_path):
    write_jetson(tmp_path)
    context = rclpy.Context()
    context.init(domain_id=domain)
    node = rclpy.create_node("flying", context=context)
    parameters.declare(node)
    health = Health(node, tmp_path)
    try:
        status = diagnostics.wait("board", OK, "neither hot nor throttled", node="flying")
        assert values(status)["Temperature cpu-thermal (C)"] == "61.5"
        assert values(status)["Power mode"] == "15W (2)"
        (tmp_path / "sys/class/thermal/thermal_zone0/temp").write_text("97000\n")
        (tmp_path / "sys/class/thermal/cooling_device1/cur_state").write_text("1\n")
        diagnostics.wait(
            "board", ERROR, "the board is hot: cpu-thermal 97.0 C", "gpu-throttle-alert 1/1", node="flying"
        )
    finally:
        health.close()
        node.destroy_node()
        context.try_shutdown()
