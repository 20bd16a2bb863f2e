import os
from pathlib import Path

import pytest
from support.fake_gpu import FOLDER as FAKES


@pytest.fixture
def tensorrt(environment, tmp_path):
    """The environment of a node that finds the fake TensorRT and a cache of its own."""
    path = os.pathsep.join((str(FAKES), str(Path(__file__).parents[2]), environment.get("PYTHONPATH", "")))
    return {
        **environment,
        "PYTHONPATH": path,
        "FAKE_TENSORRT": "10.3.0",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
