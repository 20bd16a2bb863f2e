"""What glibc keeps of freed memory; no ROS, and nothing heavy: it is imported before anything else."""

from __future__ import annotations

import contextlib
import ctypes
import os

# glibc's names for what mallopt sets (malloc.h).
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

# The most that glibc takes; images beyond it (a 4K frame has 25 MB) come from the system as before.
LARGEST_KEPT_BYTES = 32 << 20
# Freed memory at the heap's end that is kept: some images, whatever else lies above them.
TRIM_ABOVE_BYTES = 128 << 20


def keep_freed_images() -> bool:
    """Let glibc keep the memory of freed images for the next ones; call it before the first image.

    By default it takes large blocks from the system and gives them back: each page of each image is then
    zeroed and faulted in anew. For a 1920x1080 bgr8 image that is some 4,600 faults, and 9 of the 14 ms of
    CPU that rclpy takes for it.

    Returns:
        Whether it was set. It is not where another C library is in use, or where the user tunes malloc by the
        environment (``MALLOC_..._`` or ``GLIBC_TUNABLES``), which then holds.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(
        mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES) and mallopt(_M_TRIM_THRESHOLD, TRIM_ABOVE_BYTES)
    )


def give_back_freed() -> None:
    """Return freed memory to the system; call it when a model has been loaded, or replaced by another.

    Loading takes some 20 MB more than is needed afterwards, which the thresholds above would keep for ever.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
