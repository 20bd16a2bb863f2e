"""An hour of simulated flight leaves the node's memory, files and threads as they were."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.mark.timeout(600)
def test_an_hour_of_flight_leaves_the_node_as_it_was():
    run = subprocess.run(
        [sys.executable, str(SCRIPT), "--minutes", "60", "--camera", "160x120", "--domain", "73"],
        capture_output=True,
        text=True,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "36000 images in" in run.stdout
    assert re.search(r"growth of memory from the second fifth to the last: [+-]\d+\.\d MB", run.stdout)
