"""Trains for 2,000 steps: the memory and the tensors of the process do not grow."""

import gc
import json
import os
from pathlib import Path

import torch
from lab import Lab, fresh, run, tiny, train_arguments

from continuous_unet.training.trainer import Trainer

MODES = {
    "backprop": {"gradient": "backprop"},
    "reversible": {"gradient": "reversible"},
    "checkpoint": {"gradient": "checkpoint"},
    "reversible_leapfrog, reversible": {
        "gradient": "reversible",
        "method": "reversible_leapfrog",
        "field_type": "general",
    },
}
MOST_GROWTH = 4 * 2**20


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(lab: Lab) -> None:
    fresh(lab.folder)
    steps = lab.number(2000, 200)
    for name, options in list(MODES.items())[: lab.number(len(MODES), 1)]:
        log = lab.folder / "memory.jsonl"
        log.unlink(missing_ok=True)

        def watch(log: Path = log) -> None:
            real = Trainer.take_step

            def step(self, batches):
                if self.state.step % 100 == 0:
                    gc.collect()
                    tensors = sum(torch.is_tensor(thing) for thing in gc.get_objects())
                    with log.open("a") as file:
                        file.write(json.dumps([self.state.step, resident_bytes(), tensors]) + "\n")
                return real(self, batches)

            Trainer.take_step = step

        output = fresh(lab.folder / "run")
        model = {"block_out_channels": [8, 8], "norm_num_groups": 4, "add_attention": False, **options}
        rare = {"checkpoint_every": 500, "validate_every": 500, "sample_every": 500, "log_every": 50, "batch_size": 2}
        config = tiny(output, steps=steps, model_options=model, **rare)
        child = run(train_arguments(config, lab.folder), lab.folder, patience=1800, before=watch)
        rows = [json.loads(line) for line in log.read_text().splitlines()]
        early = [row for row in rows if steps * 0.25 <= row[0] < steps * 0.5]
        late = [row for row in rows if row[0] >= steps * 0.75]
        growth = max(row[1] for row in late) - max(row[1] for row in early)
        more = max(row[2] for row in late) - max(row[2] for row in early)
        bad = [] if child.code == 0 else [child.errors[-800:]]
        if growth > MOST_GROWTH:
            bad.append(f"memory grew by {growth / 2**20:.1f} MiB: {rows}")
        if more > 0:
            bad.append(f"{more} tensors more: {rows}")
        figures = f"resident memory {growth / 2**20:+.1f} MiB, tensors {more:+d}, from the second quarter to the last"
        lab.row("long", f"{steps:,} steps, {name}", 1, bad, figures)
