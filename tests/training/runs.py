"""What tests read from the folder of a run."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file


def records(run):
    return [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]


def checkpoint_tensors(run, step=6):
    folder = Path(run) / "checkpoints" / f"step-{step:08d}"
    return {f"{f.stem}/{k}": v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


def final_state(run, step=6):
    state = json.loads((Path(run) / "checkpoints" / f"step-{step:08d}" / "state.json").read_text())
    assert state.pop("seconds") > 0
    timeless = [{k: v for k, v in r.items() if k not in ("images_per_second", "seconds")} for r in records(run)]
    return checkpoint_tensors(run, step), state, timeless


def assert_same_runs(one, other, step=6):
    (tensors_a, state_a, records_a), (tensors_b, state_b, records_b) = final_state(one, step), final_state(other, step)
    assert tensors_a.keys() == tensors_b.keys()
    assert [k for k in tensors_a if not torch.equal(tensors_a[k], tensors_b[k])] == []
    assert state_a == state_b
    assert records_a == records_b


def run_two_processes(*command):
    # torchrun: on CPUs, `accelerate launch` starts several processes through MPI only
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    run = subprocess.run([*launch, *map(str, command)], capture_output=True, text=True, timeout=500)
    assert run.returncode == 0, run.stderr[-3000:]
