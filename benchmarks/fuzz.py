"""Are the files of strangers read or refused, and nothing else, however they are damaged?

Run ``python benchmarks/fuzz.py`` (``make fuzz``): 10,000 mutations of each kind of file, in a process of its
own with bounded memory, each read as the products read it. What ends in another error than the one meant,
takes more than 10 s of a core or ends the process is a find: it is printed with the number of its mutation,
which makes the same again, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# In this order: tests/ holds folders of the packages' names.
PATH = [str(ROOT), str(ROOT / "tests")]


def run(target: str, count: int, seed: int, patience_s: float) -> dict[str, Any]:
    """Read the mutations of one kind of file; return the outcome."""
    path = [*PATH, *(entry for entry in sys.path if entry)]
    try:
        done = subprocess.run(
            [sys.executable, "-m", "support.fuzz", target, str(count), str(seed)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
            capture_output=True,
            text=True,
            timeout=count * patience_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"finds": {"hangs for good": 1}, "examples": {}}
    try:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except (ValueError, IndexError):
        what = f"the process ended ({done.returncode})"
        return {"finds": {what: 1}, "examples": {what: done.stderr[-2000:]}}


def main() -> int:
    """Fuzz each target; print a table; return 1 where anything was found."""
    sys.path[:0] = PATH
    from support.fuzz import PATIENCE_S, TARGETS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=10_000, help="mutations of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TARGETS), choices=list(TARGETS), metavar="KIND")
    arguments = parser.parse_args()
    print(f"{arguments.count} mutations of each kind, seed {arguments.seed}")
    print(f"{'':18} {'refused':>8} {'read':>6} {'slowest s':>9} {'memory MB':>9} {'finds':>5}")
    found = 0
    for target in arguments.only:
        outcome = run(target, arguments.count, arguments.seed, PATIENCE_S)
        finds = sum(outcome["finds"].values())
        found += finds
        print(
            f"{target:18} {outcome.get('refused', 0):8} {outcome.get('read', 0):6} "
            f"{outcome.get('slowest_s', 0.0):9.2f} {outcome.get('growth_mb', 0.0):+9.0f} {finds:5}",
            flush=True,
        )
        for what, times in outcome["finds"].items():
            print(f"  {times} x {what}: {outcome['examples'].get(what, '')}")
    print(f"{found} finds")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
