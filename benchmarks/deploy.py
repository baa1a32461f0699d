"""Measures trained models in every exported form: latency, throughput, quality, parity and size.

    python benchmarks/deploy.py --ours RUN --discrete RUN --data DATA       # everything, in the order of PARTS
    python benchmarks/deploy.py --ours RUN --discrete RUN --data DATA --only latency

`--ours` is a run of a continuous U-Net, `--discrete` one of a `UNet2DModel` of the usual size on the same data.
Intermediate results (exports, pruned models, the classifier) stay in `--work` and are reused, so the parts can be run
one by one. The rows of a part replace its old ones in `benchmarks/results/deploy.csv`. Times of one table are measured
in turns in one process, with the spread of the ratios within a round. The parts are in `deployed/`.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deployed.bench import Bench, known_rows
from deployed.costs import exports, latency, operators
from deployed.images import end_to_end, sampling
from deployed.quality import float_layers, pruning, quality, quantization_aware, solver_steps
from rows import write

PARTS: dict[str, Callable[[Bench], Iterator[dict[str, Any]]]] = {
    "exports": exports, "latency": latency, "sampling": sampling, "end_to_end": end_to_end, "operators": operators,
    "quality": quality, "solver_steps": solver_steps, "quantization_aware": quantization_aware,
    "float_layers": float_layers, "pruning": pruning,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", required=True, help="run or model: a continuous U-Net")
    parser.add_argument("--discrete", required=True, help="run or model: a UNet2DModel of the usual size")
    parser.add_argument("--data", required=True, help="what both were trained on")
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/deploy-benchmark"),
        help="folder of exports, pruned models and the classifier",
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results", help="folder of the rows")
    parser.add_argument("--only", choices=list(PARTS), nargs="+", default=list(PARTS), help="parts to run")
    parser.add_argument("--repeats", type=int, default=50, help="timed rounds")
    parser.add_argument("--samples", type=int, default=1000, help="images of each FID")
    parser.add_argument("--batch-size", type=int, default=16, help="images at a time, end to end")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds, end to end")
    parser.add_argument(
        "--finetune-steps", type=int, default=1000, help="training steps after pruning, and with int8 rounding"
    )
    parser.add_argument("--extractor-steps", type=int, default=1500, help="training steps of the classifier")
    arguments = parser.parse_args()
    bench = Bench(arguments)
    for part in arguments.only:
        rows = []
        for row in PARTS[part](bench):
            rows.append({"part": part, **row})
            print(
                ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()),
                flush=True,
            )
        kept = [row for row in known_rows(arguments.output) if row["part"] != part]
        order = list(PARTS)
        write(arguments.output / "deploy.csv", sorted([*kept, *rows], key=lambda row: order.index(row["part"])))


if __name__ == "__main__":
    main()
