"""For all tests."""

import os
import signal
import sys
from pathlib import Path

import pytest

# Fast DDS reads its profile when a process creates its first participant, and never again: whichever test
# comes first, those that publish large images later need it. Processes that tests start inherit it, or are
# given another.
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(
    Path(__file__).parents[1] / "config" / "dds" / "fastdds_large_frames.xml"
)

# A shell that starts the tests in the background lets them ignore Ctrl-C, and every process that they start
# would inherit that. With a handler of our own here, the children get the default.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _no_test_ends_the_process_for_the_next_one():
    """A node that ends in the tests' own process tells all that waits for a child to give up, for good."""
    yield
    child = sys.modules.get("yolo_trt_node.detector.child")
    if child is not None:
        child.CANCELED.clear()
