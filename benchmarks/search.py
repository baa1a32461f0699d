"""Searches for the best block: variants of the continuous U-Net and its controls, trained alike on small images.

    python benchmarks/search.py --data PATH/TO/mnist --jobs 2      # digits; rows to benchmarks/results/search.csv
    python benchmarks/search.py --data PATH/TO/scenes64-train.zip --image-size 32 --objective v_prediction --steps 250 \
        --only "on scenes" --output benchmarks/results/search-scenes.csv    # photographs in colour

Each variant is a set of constructor arguments, trained by the library's own training loop with the same data, order,
noise and optimiser, at each of a few learning rates and seeds. Existing rows are not made again, so the same command
continues a search that was stopped. `--only TEXT` selects the variants whose name contains TEXT; those whose names
begin with "large" or "on scenes" run only if TEXT says so.
"""

import argparse
import concurrent.futures
import contextlib
import csv
import io
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

from rows import read, records

RESULTS = Path(__file__).parent / "results" / "search.csv"
WIDTHS = [24, 32, 32]
CONTROL = {"block_type": "residual"}
ALL_LEVELS = {"down_block_types": ["AttnDownBlock2D"] * len(WIDTHS)}
BASE: dict[str, Any] = {"block_out_channels": WIDTHS}
VARIANTS: dict[str, dict[str, Any]] = {
    "control: weight-tied residual": CONTROL,
    "relaxation, kick-drift": {},
    "velocity from the timestep": {"initial_velocity": "timestep"},
    "drift-kick-drift, time 3": {"method": "drift_kick_drift", "integration_time": 3.0},
    "general field, leapfrog": {"field_type": "general", "method": "reversible_leapfrog"},
    "time 1 in 2 steps": {"integration_time": 1.0},
    "time 3 in 2 steps": {"integration_time": 3.0},
    "1 step": {"num_solver_steps": 1},
    "control, 1 step": {**CONTROL, "num_solver_steps": 1},
    "3 steps": {"num_solver_steps": 3},
    "control, 3 steps": {**CONTROL, "num_solver_steps": 3},
    "4 steps": {"num_solver_steps": 4},
    "control, 4 steps": {**CONTROL, "num_solver_steps": 4},
    "1 step, wider (32, 48, 48)": {"num_solver_steps": 1, "block_out_channels": [32, 48, 48]},
    "control, 1 step, wider (32, 48, 48)": {
        **CONTROL, "num_solver_steps": 1, "block_out_channels": [32, 48, 48],
    },
    "1 step, wider, velocity from the timestep": {
        "num_solver_steps": 1, "block_out_channels": [32, 48, 48], "initial_velocity": "timestep",
    },
    "separable, wider (40, 56, 56)": {"field_type": "separable", "block_out_channels": [40, 56, 56]},
    "separable, wider, 4 steps": {
        "field_type": "separable", "block_out_channels": [40, 56, 56], "num_solver_steps": 4,
    },
    "no attention": {"add_attention": False},
    "control, no attention": {**CONTROL, "add_attention": False},
    "2x2 stem (48, 64)": {"patch_size": 2, "block_out_channels": [48, 64]},
    "large: (32, 48, 64)": {"block_out_channels": [32, 48, 64]},
    "large: 1 step (48, 64, 64)": {"num_solver_steps": 1, "block_out_channels": [48, 64, 64]},
    "large: 1 step (40, 64, 64), velocity from the timestep": {
        "num_solver_steps": 1, "block_out_channels": [40, 64, 64], "initial_velocity": "timestep",
    },
    "large: 2x2 stem (64, 80)": {"patch_size": 2, "block_out_channels": [64, 80]},
    "large: 2x2 stem, 1 step (72, 88)": {"patch_size": 2, "num_solver_steps": 1, "block_out_channels": [72, 88]},
    "large: UNet2DModel (32, 64, 128)": {"preset": "ddpm_small", "block_out_channels": [32, 64, 128]},
    "on scenes: attention in the middle": {},
    "on scenes: waves in the middle": {"attention_type": "waves"},
    "on scenes: heat in the middle": {"attention_type": "heat"},
    "on scenes: no attention": {"add_attention": False},
    "on scenes: waves on all levels": {"attention_type": "waves", **ALL_LEVELS},
    "on scenes: heat on all levels": {"attention_type": "heat", **ALL_LEVELS},
    "on scenes: control": CONTROL,
    "on scenes: 1 step, wider (32, 48, 48)": {"num_solver_steps": 1, "block_out_channels": [32, 48, 48]},
    "on scenes: 1 step, wider, velocity from the timestep": {
        "num_solver_steps": 1, "block_out_channels": [32, 48, 48], "initial_velocity": "timestep",
    },
    "on scenes: 1 step (32, 40, 48)": {"num_solver_steps": 1, "block_out_channels": [32, 40, 48]},
    "on scenes: 1 step, waves on all levels (24, 48, 48)": {
        "num_solver_steps": 1, "block_out_channels": [24, 48, 48], "attention_type": "waves", **ALL_LEVELS,
    },
    "on scenes: velocity from the timestep": {"initial_velocity": "timestep"},
    "on scenes: control, 1 step, wider (32, 48, 48)": {
        **CONTROL, "num_solver_steps": 1, "block_out_channels": [32, 48, 48],
    },
}  # fmt: skip
"""Name to what differs from the preset `tiny` with backpropagation. Those of the `GROUPS` are for `--image-size 32`.

Rows of `results/search.csv` with other names are of options that measured worse or level, and are gone: velocities
carried over or zero, a read-out of the velocity, other initial decays.
"""

GROUPS = ("large", "on scenes")


def run(task: tuple[str, float, int, argparse.Namespace]) -> dict[str, Any]:
    """Trains one variant and returns its row."""
    import torch

    from continuous_unet.evaluation import count_macs
    from continuous_unet.tasks.loading import load_pipeline
    from continuous_unet.training import TrainConfig, train

    name, learning_rate, seed, arguments = task
    options = {**BASE, **VARIANTS[name]}
    preset = options.pop("preset", "tiny")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        settings = {
            "data": arguments.data, "output": f"{folder}/run", "preset": preset, "image_size": arguments.image_size,
            "fit": "pad", "model_options": options, "steps": arguments.steps, "batch_size": arguments.batch_size,
            "num_validation": 1000, "seed": seed, "learning_rate": learning_rate, "lr_warmup_steps": 50,
            "ema_decay": 0.995, "lr_schedule": "cosine", "objective": arguments.objective, "device": "cpu",
            "num_samples": 1, "sampling_steps": 1,
            "validate_every": arguments.steps, "sample_every": arguments.steps, "checkpoint_every": arguments.steps,
        }  # fmt: skip
        config = TrainConfig.from_dict(settings)
        started = time.perf_counter()
        result = train(config)
        unet = load_pipeline(f"{folder}/run").unet
        quarters = [record for record in records(Path(folder, "run")) if "validation_loss" in record][-1]
    sample = torch.zeros(1, unet.config.in_channels, arguments.image_size, arguments.image_size)
    with torch.no_grad():
        macs = count_macs(unet, sample, 500).macs
    row = {
        "variant": name, "learning_rate": learning_rate, "seed": seed, "steps": arguments.steps,
        "batch_size": arguments.batch_size, "image_size": arguments.image_size, "parameters": result.num_parameters,
        "macs": macs, "validation_loss": round(result.validation_loss or float("nan"), 6),
    }  # fmt: skip
    row |= {f"quarter_{q}": round(quarters[f"validation_loss_quarter_{q}"], 6) for q in range(1, 5)}
    return {**row, "seconds": round(time.perf_counter() - started, 1), "torch": torch.__version__}


def key(row: dict[str, Any]) -> tuple[str, ...]:
    names = ("variant", "learning_rate", "seed", "steps", "batch_size", "image_size")
    return tuple(str(row[name]) for name in names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with MNIST's IDX files, or any data for `cunet train`")
    parser.add_argument("--output", type=Path, default=RESULTS, help="file of the rows")
    parser.add_argument("--only", nargs="+", default=[""], help="run only variants whose name contains one of these")
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[4e-3], help="peak learning rates (cosine)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of everything random")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--image-size", type=int, default=16)
    parser.add_argument("--objective", default="epsilon", help="what the models predict")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each")
    arguments = parser.parse_args()

    done = {key(row) for row in read(arguments.output)}
    tasks = []
    for seed in arguments.seeds:
        for rate in arguments.learning_rates:
            for name in VARIANTS:
                about = {"variant": name, "learning_rate": rate, "seed": seed, **vars(arguments)}
                group = next((group for group in GROUPS if name.startswith(group)), "")
                if any(group in text and text in name for text in arguments.only) and key(about) not in done:
                    tasks.append((name, rate, seed, arguments))
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs, mp_context=context) as pool:
        for future in concurrent.futures.as_completed([pool.submit(run, task) for task in tasks]):
            row = future.result()
            new = not arguments.output.exists()
            with arguments.output.open("a", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, list(row))
                if new:
                    writer.writeheader()
                writer.writerow(row)
            print(f"{row['variant']} lr {row['learning_rate']} seed {row['seed']}: {row['validation_loss']:.4f}")


if __name__ == "__main__":
    main()
