import os
import random

import pytest
from support.ros import Peer, dds_environment
from support.toy_detector import write_toy_detector


@pytest.fixture(scope="session")
def domain() -> int:
    # Another run of this suite on the same machine must not hear this one.
    return random.Random(os.getpid()).randrange(1, 100)


@pytest.fixture
def environment(domain):
    return dds_environment(domain)


@pytest.fixture
def peer(environment, monkeypatch, domain):
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, environment[name])
    peer = Peer(domain)
    yield peer
    peer.close()


@pytest.fixture
def toy(tmp_path):
    return write_toy_detector(tmp_path / "toy.onnx")
