"""Two processes compute what one does, and agree on what happens."""

import json
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from continuous_unet.training import train, trainer
from tests.training.runs import records, run_two_processes


@pytest.mark.parametrize(("accumulation", "task", "solver_steps"), [(1, "generate", "1,2"), (2, "denoise", None)])
def test_two_processes_compute_what_one_does(accumulation, task, solver_steps, tiny, tmp_path):
    """The same global batch: data, noise, timesteps and depths belong to positions in the data, not to processes."""
    model = {"block_out_channels": [8, 8], "norm_num_groups": 4}
    options = {"steps": 4, "model_options": model, "num_samples": 1, "gradient_accumulation_steps": accumulation}
    options |= {"task": task, "solver_steps": solver_steps}
    train(tiny(**options, output=str(tmp_path / "one"), batch_size=4))
    config = tiny(**options, output=str(tmp_path / "two"), batch_size=2)
    config.save(tmp_path / "config.yaml")
    run_two_processes("-m", "continuous_unet", "train", "--config", tmp_path / "config.yaml")
    for name in ("loss", "validation_loss"):
        values = [[r[name] for r in records(tmp_path / output) if name in r] for output in ("one", "two")]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
    one, two = (load_file(tmp_path / n / "checkpoints" / "step-00000004" / "model.safetensors") for n in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)


def test_two_processes_agree(tiny, tmp_path, monkeypatch):
    """Process 1 alone meets a bad loss at step 2 and a signal at step 3; what it does, process 0 does too."""
    options = {"batch_size": 2, "log_every": 2, "checkpoint_every": 100, "validate_every": 100, "sample_every": 100}
    tiny(**options).save(tmp_path / "config.yaml")
    run_two_processes(Path(__file__).with_name("two_processes.py"), tmp_path / "config.yaml", tmp_path)
    zero, one = (json.loads((tmp_path / f"process-{rank}.json").read_text()) for rank in (0, 1))
    assert zero["weights"] == one["weights"]
    assert (zero["steps"], zero["stopped_by"]) == (one["steps"], one["stopped_by"]) == (3, signal.SIGTERM)
    assert zero["loss"] == one["loss"]
    (left_out,) = (r for r in records(tmp_path / "run") if "non_finite" in r)
    assert left_out["step"] == 2
    assert len(left_out["images"]) == 1  # the one of process 1, in the records of process 0

    # one process takes over where the two were in the data
    real, seen = trainer.normal, []
    monkeypatch.setattr(trainer, "normal", lambda *args: real(*args[:2], seen.append(args[2]) or args[2], *args[3:]))
    result = train(tiny(**options, steps=4), resume=True)
    assert seen == [range(12, 14)]
    assert result.images_seen == 14
