import os
import random

import pytest
from support.toy_detector import write_toy_detector

# support.ros is imported where it is used: the detector's tests run on machines without ROS (make test-old).


@pytest.fixture(scope="session")
def domain() -> int:
    # Another run of this suite on the same machine must not hear this one.
    return random.Random(os.getpid()).randrange(1, 100)


@pytest.fixture
def environment(domain):
    from support.ros import dds_environment

    return dds_environment(domain)


@pytest.fixture
def peer(environment, monkeypatch, domain):
    from support.ros import Peer

    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "FASTRTPS_DEFAULT_PROFILES_FILE"):
        monkeypatch.setenv(name, environment[name])
    peer = Peer(domain)
    yield peer
    peer.close()


@pytest.fixture
def toy(tmp_path):
    return write_toy_detector(tmp_path / "toy.onnx")
