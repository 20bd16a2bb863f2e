"""SIGKILL at the worst moments: the next start is clean."""

import signal
from contextlib import contextmanager
from pathlib import Path

import psutil
from support.ros import detector_node, wait_until
from support.toy_detector import scene

ONE = ((1, 3, "green"),)


@contextmanager
def swept_shared_memory():
    """Fast DDS cannot tidy up behind a killed process."""
    before = set(Path("/dev/shm").iterdir())
    yield
    for path in set(Path("/dev/shm").iterdir()) - before:
        if path.name.startswith("fastrtps") or path.name.startswith("sem.fastrtps"):
            path.unlink(missing_ok=True)


def test_in_a_build_the_builder_ends_and_the_next_start_builds_anew(tensorrt, peer, toy, tmp_path):
    cache = tmp_path / "cache/yolo_trt_node/engines"
    slow = {**tensorrt, "FAKE_TENSORRT_BUILD": "slow 60"}
    with swept_shared_memory(), detector_node(slow, {"model": toy, "backend": "tensorrt"}) as node:
        process = psutil.Process(node.pid)
        assert wait_until(lambda: any("engine_builder" in " ".join(c.cmdline()) for c in process.children()))
        (builder,) = process.children()
        assert not list(cache.glob("*.engine"))
        node.stop(signal.SIGKILL)

    assert wait_until(lambda: not builder.is_running() or builder.status() == psutil.STATUS_ZOMBIE), (
        "the builder outlived the node"
    )
    with detector_node(tensorrt, {"model": toy, "backend": "tensorrt"}) as node:
        assert len(peer.detect(scene(360, cells=ONE)).detections) == 1
        assert "on tensorrt" in node.log
        assert node.stop() == 0, node.log
    leftovers = {path.suffix for path in cache.iterdir()} - {".engine", ".json", ".lock", ".timing"}
    assert len(list(cache.glob("*.engine"))) == 1
    assert not leftovers, list(cache.iterdir())


def test_in_a_frame_the_next_start_answers(environment, peer, toy):
    with swept_shared_memory(), detector_node(environment, {"model": toy}) as node:
        peer.detect(scene(360, cells=ONE))
        for index in range(5):
            peer.publish(scene(360, cells=ONE), stamp=(50 + index, 0))
        node.stop(signal.SIGKILL)

    with detector_node(environment, {"model": toy}) as node:
        assert len(peer.detect(scene(360, cells=ONE), stamp=(99, 0)).detections) == 1
        assert peer.detections[-1].header.stamp.sec == 99
        assert node.stop() == 0, node.log
