"""Mutations of each kind of file that strangers may send are read or refused, and nothing else."""

import subprocess
import sys
from pathlib import Path

from support.fuzz import TARGETS

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


def test_mutations_of_strangers_files_are_read_or_refused():
    run = subprocess.run([sys.executable, str(SCRIPT), "--count", "100"], capture_output=True, text=True)

    assert run.returncode == 0, run.stdout + run.stderr
    rows = run.stdout.splitlines()[2:-1]
    assert [row[:18].strip() for row in rows] == list(TARGETS)
    for row in rows:
        refused, read = map(int, row[18:].split()[:2])
        assert refused + read == 100
        assert refused > 10
    assert run.stdout.endswith("0 finds\n")
