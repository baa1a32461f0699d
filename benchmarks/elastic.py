"""Trains models at one number of solver steps each, and elastic ones at all of them, and compares their losses.

    python benchmarks/elastic.py --threads 1                      # digits; rows to benchmarks/results/elastic.csv
    python benchmarks/elastic.py --config examples/mnist.yaml --data PATH/TO/mnist --name mnist
    python benchmarks/elastic.py --steps 4 --output /tmp/elastic  # to see that it runs

Every model of one kind has the same integration time, data, and number of training steps. A model that was trained
alone is measured at its own number of solver steps, and an elastic one at each. The losses are those of the averaged
weights on held-out images; all models see the same images with the same noise. A run that exists is not trained again,
so the script can be stopped and started.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from rows import write

from continuous_unet.base.processes import Processes
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import TrainConfig, train
from continuous_unet.training.depths import losses_by_depth
from continuous_unet.training.run import make_task, open_data

KINDS: dict[str, dict[str, Any]] = {
    "second order": {},
    "weight-tied control": {"block_type": "residual", "gradient": "backprop"},
}
DEPTHS = (1, 2, 4)
BANDS, MEASUREMENTS = 4, 2048
HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default=str(HERE.parent / "examples" / "digits.yaml"))
    parser.add_argument("--data", help="images, if the configuration names none")
    parser.add_argument("--name", default="digits", help="name of the data in the rows")
    parser.add_argument("--steps", type=int, help="training steps of each model, if not those of the configuration")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--validation", type=int, default=300, help="number of images held out")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--output", default="runs/elastic", help="folder of the runs")
    parser.add_argument("--rows", help="file of the rows (default: elastic-NAME.csv in results)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    target = Path(options.rows or HERE / "results" / f"elastic-{options.name}.csv")
    rows: list[dict[str, Any]] = []
    for seed in options.seeds:
        for kind in options.kinds:
            for depths in (*map(str, DEPTHS), ",".join(map(str, DEPTHS))):
                rows += measure(options, kind, depths, seed)
                write(target, rows)


def measure(options: argparse.Namespace, kind: str, depths: str, seed: int) -> list[dict[str, Any]]:
    """Trains a model, unless it exists, and returns its rows: one for each number of solver steps that it is for."""
    folder = Path(options.output) / f"{options.name}-{kind.split()[0]}-{depths.replace(',', '')}-seed{seed}"
    changes: dict[str, Any] = {"output": str(folder), "solver_steps": depths, "seed": seed, "device": "cpu"}
    changes |= {"num_validation": options.validation, "model_options": KINDS[kind], "sample_every": 10**9}
    if options.data:
        changes["data"] = options.data
    if options.steps:
        changes["steps"] = options.steps
    config = TrainConfig.load(options.config).replaced(**changes)
    config = config.replaced(validate_every=config.steps, checkpoint_every=config.steps, num_samples=4)
    started = time.perf_counter()
    if not (folder / "report.md").is_file():
        train(config, resume=(folder / "config.yaml").is_file())
        if not (folder / "report.md").is_file():
            raise SystemExit(f"{folder} was stopped; the same command continues it")
    seconds = time.perf_counter() - started
    task = make_task(config)
    _, held_out = open_data(config, task, Processes())
    assert held_out is not None
    unet = load_pipeline(folder).unet
    losses = losses_by_depth(task, unet, held_out, config.depths, seed=0, bands=BANDS, measurements=MEASUREMENTS)
    about = {
        "data": options.name,
        "kind": kind,
        "trained": "elastic" if len(config.depths) > 1 else "alone",
        "seed": seed,
        "training_steps": config.steps,
        "integration_time": unet.config.integration_time,
        "parameters": sum(p.numel() for p in unet.parameters()),
        "train_seconds": round(seconds, 1),
    }
    return [
        {
            **about,
            "solver_steps": depth,
            "loss": sum(bands) / len(bands),
            **{f"loss_quarter_{k + 1}": loss for k, loss in enumerate(bands)},
        }
        for depth, bands in losses.items()
    ]


if __name__ == "__main__":
    main()
