"""The fault campaign: tests what training and its tools promise, on real processes.

    python benchmarks/faults                    # everything; rows to benchmarks/results/faults.csv
    python benchmarks/faults --only kills disk  # these parts; the rows of the others stay
    python benchmarks/faults --short            # a little of each, in about a minute (a test runs it)

Exits with 1 if anything was lost or silently wrong.
"""

import argparse
import csv
import importlib
import os
import random
import sys
import tempfile
import time
from dataclasses import asdict, fields
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # sums are equal bit for bit only then; child processes inherit it
os.environ["HF_HUB_OFFLINE"] = "1"

PARTS = ("kills", "disk", "flips", "signals", "processes", "images", "batches", "models", "arguments", "long")
ROWS = Path(__file__).parents[1] / "results" / "faults.csv"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to run")
    parser.add_argument("--short", action="store_true", help="fewer trials")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants and places of the faults")
    parser.add_argument("--output", type=Path, default=ROWS, help="file of the rows")
    arguments = parser.parse_args()
    arguments.output = arguments.output.resolve()  # parts may change the working directory
    arguments.output.parent.mkdir(parents=True, exist_ok=True)

    from lab import Lab, Row

    kept: dict[str, list[Row]] = {}
    if arguments.output.exists():
        with arguments.output.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                kept.setdefault(row["part"], []).append(Row(**row))  # type: ignore[arg-type]
    bad = 0
    for part in arguments.only:
        print(part, flush=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="cunet-faults-") as folder:
            os.chmod(folder, 0o755)  # some parts act as another user
            lab = Lab(Path(folder) / part, random.Random(f"{arguments.seed} {part}"), arguments.short)
            importlib.import_module(part if part != "signals" else "stops").main(lab)
        kept[part] = lab.rows
        bad += sum(row.bad for row in lab.rows)
        print(f"  {time.monotonic() - started:.0f} s", flush=True)
        # after each part, so that an interrupted campaign keeps its rows
        with arguments.output.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
            writer.writeheader()
            writer.writerows(asdict(row) for name in PARTS for row in kept.get(name, []))
    print("nothing lost, nothing silently wrong" if not bad else f"{bad} WRONG, see above")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
