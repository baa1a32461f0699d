"""The short version of the fault campaign (benchmarks/faults): real processes, a part of each kind of fault.

`make faults` does all of it, and writes the rows that docs/reliability.md shows.
"""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

CAMPAIGN = Path(__file__).parents[1] / "benchmarks" / "faults"
PARTS = {"kills", "disk", "flips", "signals", "processes", "images", "batches", "models", "arguments"}


def test_nothing_is_lost_and_nothing_silently_wrong(tmp_path):
    pytest.importorskip("hypothesis")
    rows = tmp_path / "faults.csv"
    command = [sys.executable, str(CAMPAIGN), "--short", "--only", *sorted(PARTS), "--output", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    with rows.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert {row["part"] for row in found} == PARTS
    assert {row["bad"] for row in found} == {"0"}
