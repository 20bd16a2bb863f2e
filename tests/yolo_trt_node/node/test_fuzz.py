"""Whatever a camera sends, the node lives, its memory is bounded, and the next good image is answered."""

import itertools
import json
import os
import subprocess
import sys
import time

import cv2
import psutil
import pytest
from sensor_msgs.msg import CompressedImage, Image
from support.malformed import Malformed
from support.ros import detector_node, wait_until
from support.toy_detector import scene

ONE = ((1, 3, "green"),)

COUNT = 100_000
# Decoders keep buffers of the largest image so far; at most 64 million pixels are decoded at all.
MAX_GROWTH_MB = 100


@pytest.mark.timeout(600)
def test_a_hundred_thousand_malformed_images(environment, toy, tmp_path):
    command = [sys.executable, "-m", "support.malformed", str(toy), str(COUNT), str(os.getpid())]
    # The decoders' libraries complain into stderr by themselves.
    with (tmp_path / "log").open("w") as log:
        run = subprocess.run(
            command,
            env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

    words = (tmp_path / "log").read_text()
    assert run.returncode == 0, f"seed {os.getpid()}: exit code {run.returncode}\n{words[-3000:]}"
    result = json.loads(run.stdout)
    assert result["processed"] == COUNT
    assert result["answered"] == result["good"] == COUNT // 1000
    early, late = result["rss_mb"][len(result["rss_mb"]) // 5], result["rss_mb"][-1]
    assert late - early < MAX_GROWTH_MB, result["rss_mb"]
    # Each is foreseen: the traceback is for what is not.
    assert "Traceback" not in words, words[words.index("Traceback") :][:3000]


@pytest.mark.parametrize("kind", [Image, CompressedImage])
def test_malformed_images_over_dds(environment, peer, toy, kind):
    transport = "compressed" if kind is CompressedImage else "raw"
    messages = itertools.islice((m for m in Malformed(5) if isinstance(m, kind)), 300)
    publisher = peer.images if kind is Image else peer.node.create_publisher(kind, "image/compressed", 10)

    def answered() -> bool:
        """Publish the good image until it is answered."""
        peer.detections.clear()
        for _ in range(20):
            if kind is Image:
                peer.publish(scene(360, cells=ONE), stamp=(77, 0))
            else:
                message = CompressedImage(format="png")
                message.header.stamp.sec = 77
                message.data = cv2.imencode(".png", scene(360, cells=ONE))[1].tobytes()
                publisher.publish(message)
            if wait_until(lambda: any(m.header.stamp.sec == 77 for m in peer.detections), 1.0):
                return True
        return False

    parameters = {"model": toy, "image_transport": transport, "image_reliability": "reliable"}
    with detector_node(environment, parameters) as node:
        node.wait_for_log("active: listening")
        assert answered(), node.log
        before = psutil.Process(node.pid).memory_info().rss
        for message in messages:
            publisher.publish(message)
            time.sleep(0.002)
        assert node.alive, node.log
        assert answered(), node.log
        assert (psutil.Process(node.pid).memory_info().rss - before) / 1e6 < MAX_GROWTH_MB
        assert node.stop() == 0, node.log
