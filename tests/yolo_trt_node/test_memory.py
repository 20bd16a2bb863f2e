"""The memory of one image serves the next."""

import os
import platform
import subprocess
import sys

import pytest

# Each image is written whole, as a message's data are; a page has 4 KiB or more.
SCRIPT = """
import resource
from yolo_trt_node.memory import keep_freed_images
kept = {call}
for number in range(40):
    if number == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    image, other = b"x" * (6 << 20), b"y" * (9 << 20)
    del image, other
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 30)
"""


def faults(call: str, **variables: str) -> tuple[bool, float]:
    kept, count = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(call=call)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    ).stdout.split()
    return kept == "True", float(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large blocks back at once")
def test_images_are_not_faulted_in_anew():
    kept, count = faults("keep_freed_images()")
    assert kept
    assert count < 100
    assert faults("False", MALLOC_MMAP_THRESHOLD_="131072")[1] > 300


@pytest.mark.parametrize(
    "variables", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"}]
)
def test_what_the_user_tunes_holds(variables):
    assert not faults("keep_freed_images()", **variables)[0]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps what is freed")
def test_what_loading_freed_goes_back_to_the_system():
    script = """
from yolo_trt_node.memory import give_back_freed, keep_freed_images
import ctypes, resource
def pages():
    return int(open("/proc/self/statm").read().split()[1])
keep_freed_images()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [libc.malloc(1 << 20) for _ in range(40)]
for block in blocks:
    ctypes.memset(block, 1, 1 << 20)
for block in blocks[:-1]:
    libc.free(ctypes.c_void_p(block))
before = pages()
give_back_freed()
print((before - pages()) * resource.getpagesize() >> 20)
"""
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert int(run.stdout) > 30
