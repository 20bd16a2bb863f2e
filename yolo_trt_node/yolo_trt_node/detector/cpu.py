"""How many cores there are for inference, and whether its threads may spin on them.

Threads that spin while they wait answer sooner where cores are free for them, and later where another process
needs them: measured, spinning inside a run won a seventh on idle cores and lost a fifth beside a busy one.
So the policy follows what the machine says: the affinity mask, the cgroup's quota, and the time that other
processes take.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

# Of a core, either side of half: a load that hovers there does not make the policy flip.
_BUSY, _FREE = 0.6, 0.4


@dataclass(frozen=True)
class CpuSample:
    """What was used up to now.

    Attributes:
        at_s: seconds of a steady clock.
        all_s: core seconds that all processes took on the cores that this one may use.
        own_s: core seconds that this process took.
    """

    at_s: float
    all_s: float
    own_s: float


def usable_cores(root: Path = Path("/")) -> float:
    """Return how many cores this process may use: its affinity mask, or its cgroup's quota where less."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = _quota(root)
    return cores if quota is None else max(0.1, min(cores, quota))


def threads_for(wanted: int, root: Path = Path("/")) -> int:
    """Return the threads for inference: those asked for, or (0) one for each core that may be used."""
    return wanted or max(1, int(usable_cores(root)))


def sample(root: Path = Path("/")) -> CpuSample | None:
    """Read the machine's and this process's use of cores; ``None`` where the system does not tell."""
    try:
        cores = os.sched_getaffinity(0)
        ticks = 0
        for line in (root / "proc/stat").read_text().splitlines():
            name, *numbers = line.split()
            if name[3:].isdecimal() and name.startswith("cpu") and int(name[3:]) in cores:
                user, nice, system, _idle, _wait, *others = map(int, numbers[:8])
                ticks += user + nice + system + sum(others)
    except (OSError, ValueError):
        return None
    own = os.times()
    return CpuSample(time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own.user + own.system)


def others_cores(before: CpuSample, after: CpuSample) -> float:
    """Return how many cores other processes kept busy between two samples."""
    elapsed = after.at_s - before.at_s
    if elapsed <= 0:
        return 0.0
    return max(0.0, (after.all_s - before.all_s - (after.own_s - before.own_s)) / elapsed)


def may_spin(threads: int, cores: float, others: float, spinning: bool = False) -> bool:
    """Whether threads of inference should spin inside a run.

    Args:
        threads: how many there are.
        cores: how many cores this process may use.
        others: how many of them other processes keep busy.
        spinning: whether they spin now, which is kept where it is a close call.
    """
    return threads <= cores and threads - (cores - others) < (_BUSY if spinning else _FREE)


def _quota(root: Path) -> float | None:
    """Return the cores that the cgroup's quota allows; ``None``: any."""
    try:
        group = next(
            line.split("::", 1)[1].strip("/ \n")
            for line in (root / "proc/self/cgroup").read_text().splitlines()
            if line.startswith("0::")
        )
    except (OSError, StopIteration):
        group = ""
    found = []
    base = root / "sys/fs/cgroup"
    # Any group above may be the one that limits; inside a container its own is the root.
    for folder in {base, *(base / part for part in (Path(group), *Path(group).parents))}:
        try:
            quota, period = (folder / "cpu.max").read_text().split()
            found.append(int(quota) / int(period))
        except (OSError, ValueError, ZeroDivisionError):
            continue
    try:  # cgroups of version 1
        quota_us = int((base / "cpu/cpu.cfs_quota_us").read_text())
        if quota_us > 0:
            found.append(quota_us / int((base / "cpu/cpu.cfs_period_us").read_text()))
    except (OSError, ValueError, ZeroDivisionError):
        pass
    return min(found) if found else None
