"""Transitions that take long, fail, come at the wrong time, or come often."""

import os
import signal
import statistics
import time

import psutil
import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import GetState
from rcl_interfaces.srv import GetParameters
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.parameter import Parameter
from support.ros import detector_node, wait_until
from support.toy_detector import scene, write_toy_detector
from yolo_trt_node.detector import Detector
from yolo_trt_node.node.detector_node import DetectorNode

ONE = ((1, 3, "green"),)

ANSWER_S = 0.05
CYCLES = 50


def answer_times_s(peer, count=30):
    """How long the life-cycle and the parameter service take to answer."""
    times = []
    peer.state()
    peer.get_parameter("max_det")
    for _ in range(count):
        for kind, service, request in (
            (GetState, "/yolo_detector/get_state", GetState.Request()),
            (GetParameters, "/yolo_detector/get_parameters", GetParameters.Request(names=["max_det"])),
        ):
            started = time.monotonic()
            peer.call(kind, service, request)
            times.append(time.monotonic() - started)
    return times


class TestResponsive:
    def test_services_answer_while_inference_runs(self, environment, peer, tmp_path):
        slow = write_toy_detector(tmp_path / "slow.onnx", work=100)
        with detector_node(environment, {"model": slow, "threads": 1}):
            peer.detect(scene(cells=ONE))
            for index in range(20):
                peer.publish(scene(cells=ONE), (100 + index, 0))
            before = len(peer.detections)
            times = answer_times_s(peer)
            # wait_until looks every 20 ms, which is in each of them.
            assert statistics.median(times) < ANSWER_S
            assert wait_until(lambda: len(peer.detections) > before), "inference did not run meanwhile"

    def test_services_answer_while_an_engine_is_built(self, tensorrt, peer, toy):
        slow = {**tensorrt, "FAKE_TENSORRT_BUILD": "slow 60"}
        with detector_node(slow, {"model": toy, "backend": "tensorrt"}) as node:
            node.wait_for_log("building the engine")
            assert peer.state() == "configuring"
            assert statistics.median(answer_times_s(peer)) < ANSWER_S
            assert not peer.change_state(Transition.TRANSITION_CONFIGURE)
            node.wait_for_log("another transition is running")
            # What is live may be set, the rest may not.
            assert peer.set_parameter("max_det", 7) == (True, "")
            successful, reason = peer.set_parameter("backend", "auto")
            assert not successful
            assert "takes effect when the node is configured" in reason

    def test_what_is_set_while_the_model_loads_is_in_force_afterwards(self, tensorrt, peer, toy):
        slow = {**tensorrt, "FAKE_TENSORRT_BUILD": "slow 3"}
        with detector_node(slow, {"model": toy, "backend": "tensorrt"}) as node:
            node.wait_for_log("building the engine")
            assert peer.state() == "configuring"
            assert peer.set_parameter("classes", ["red"]) == (True, "")
            assert peer.state() == "configuring", "the build was over too soon to show anything"
            assert peer.detect(scene(cells=ONE)).detections == []

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_ends_a_build_cleanly(self, tensorrt, peer, toy, number, tmp_path):
        slow = {**tensorrt, "FAKE_TENSORRT_BUILD": "slow 60"}
        with detector_node(slow, {"model": toy, "backend": "tensorrt"}) as node:
            process = psutil.Process(node.pid)
            node.wait_for_log("building the engine")
            assert wait_until(process.children)
            builders = process.children()
            assert node.stop(number) == 0, node.log
            assert "Traceback" not in node.log
            assert all(not builder.is_running() for builder in builders)
        leftovers = {path.suffix for path in (tmp_path / "cache/yolo_trt_node/engines").iterdir()}
        assert leftovers <= {".lock", ".timing"}

    def test_a_signal_ends_what_cannot_be_interrupted(self, environment, peer, tmp_path):
        endless = write_toy_detector(tmp_path / "endless.onnx", work=10_000)
        with detector_node(environment, {"model": endless}) as node:
            assert wait_until(lambda: peer.state() == "configuring")
            assert node.stop(signal.SIGTERM, 15.0) == 0, node.log
            assert "loaded" not in node.log, "it was over too soon to show anything"
            assert "Traceback" not in node.log


class TestTransitions:
    def test_the_answer_comes_when_the_transition_is_done(self, environment, peer, toy):
        with detector_node(environment, {"model": toy, "autostart": False}):
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)
            assert peer.state() == "inactive"

    @pytest.mark.parametrize(
        ("way", "shutdown"),
        [
            ([], Transition.TRANSITION_UNCONFIGURED_SHUTDOWN),
            ([Transition.TRANSITION_CONFIGURE], Transition.TRANSITION_INACTIVE_SHUTDOWN),
            (
                [Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE],
                Transition.TRANSITION_ACTIVE_SHUTDOWN,
            ),
        ],
    )
    def test_shutdown_from_every_state(self, environment, peer, toy, way, shutdown):
        with detector_node(environment, {"model": toy, "autostart": False}) as node:
            for transition in way:
                assert peer.change_state(transition)
            assert peer.change_state(shutdown)
            assert peer.state() == "finalized"
            assert node.stop() == 0, node.log

    @pytest.mark.parametrize("transition", [Transition.TRANSITION_ON_CONFIGURE_SUCCESS, 99, 0])
    def test_inner_transitions_are_not_for_others(self, environment, peer, toy, transition):
        with detector_node(environment, {"model": toy, "autostart": False}):
            assert not peer.change_state(transition)
            assert peer.state() == "unconfigured"
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)

    def test_memory_threads_and_files_stay_flat_over_many_cycles(self, environment, peer, toy):
        def used(process):
            with process.oneshot():
                return process.memory_info().rss, process.num_threads(), process.num_fds()

        cycle = (
            Transition.TRANSITION_CONFIGURE,
            Transition.TRANSITION_ACTIVATE,
            Transition.TRANSITION_DEACTIVATE,
            Transition.TRANSITION_CLEANUP,
        )
        with detector_node(environment, {"model": toy, "autostart": False}) as node:
            process = psutil.Process(node.pid)
            for index in range(CYCLES):
                assert all(peer.change_state(transition) for transition in cycle), node.log
                if index == CYCLES // 5:
                    rss, threads, files = used(process)
            rss_after, threads_after, files_after = used(process)
            assert rss_after - rss < 10e6
            assert threads_after <= threads
            assert files_after <= files
            assert peer.change_state(Transition.TRANSITION_CONFIGURE)
            assert peer.change_state(Transition.TRANSITION_ACTIVATE)
            assert len(peer.detect(scene(cells=ONE)).detections) == 1


class TestUnforeseen:
    """What nobody thought of leads back to unconfigured, with a traceback in the log."""

    @pytest.fixture
    def node(self, toy, domain):
        context = rclpy.Context()
        context.init(domain_id=domain)
        node = DetectorNode(
            context=context,
            parameter_overrides=[Parameter("model", value=str(toy)), Parameter("autostart", value=False)],
        )
        yield node
        node.stop()
        node.destroy_node()
        context.try_shutdown()

    @staticmethod
    def state(node):
        return node._state_machine.current_state[1]

    def test_in_configure(self, node, monkeypatch):
        def fail(*_):
            raise RuntimeError("out of the blue")

        with monkeypatch.context() as patched:
            patched.setattr(Detector, "load", fail)
            assert node.trigger_configure() == TransitionCallbackReturn.ERROR
        assert self.state(node) == "unconfigured"
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def test_in_activate(self, node, monkeypatch):
        from yolo_trt_node.node.camera import CameraChannel

        def fail(*_):
            raise RuntimeError("out of the blue")

        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        threads = len(psutil.Process(os.getpid()).threads())
        with monkeypatch.context() as patched:
            patched.setattr(CameraChannel, "open", fail)
            assert node.trigger_activate() == TransitionCallbackReturn.ERROR
        assert self.state(node) == "unconfigured"
        assert len(psutil.Process(os.getpid()).threads()) <= threads
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS

    def test_a_model_that_is_a_folder_is_named(self, node, tmp_path):
        node.set_parameters([Parameter("model", value=str(tmp_path))])
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert self.state(node) == "unconfigured"


def test_respawned_it_works_again(environment, peer, toy):
    for _ in range(2):
        with detector_node(environment, {"model": toy}) as node:
            peer.detect(scene(cells=ONE))
            process = psutil.Process(node.pid)
            assert node.stop(signal.SIGTERM) == 0
            assert not process.is_running()
