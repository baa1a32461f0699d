"""Counters and learning objects: into a checkpoint and back."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_model
from continuous_unet.training import TrainConfig, checkpoints, train
from continuous_unet.training.outputs import DRAWS
from continuous_unet.training.run import EMA_WARMUP
from continuous_unet.training.state import Learner, TrainState


def test_checkpoints_that_are_not_this_runs(tiny, tmp_path):
    """Their hashes are right: someone made them so. A tensor of one value would be spread over a parameter, unseen."""
    train(tiny(steps=3))
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors, state = checkpoints.load_checkpoint(path)
    name = next(n for n, value in tensors["model"].items() if value.ndim == 1)
    short = {**tensors["model"], name: tensors["model"][name][:1]}
    for damaged, numbers, message in (
        ({**tensors, "model": short}, state, "model.safetensors does not fit"),
        ({k: v for k, v in tensors.items() if k != "ema"}, state, "ema.safetensors does not fit"),
        ({**tensors, "optimizer": {"x/exp_avg": torch.ones(1)}}, state, "optimizer.safetensors does not fit"),
        (tensors, {"draws": DRAWS}, "not of a run of this version"),
    ):
        checkpoints.save_checkpoint(path.parent, 3, damaged, numbers)
        with pytest.raises(InputError, match=message):
            train(tiny(steps=4), resume=True)


def make_learner(steps=0):
    """A learner that took some steps, of a model of two layers, one of which gets no gradient."""
    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(3, 3), torch.nn.Linear(2, 2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    lr_scheduler = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=9)
    prepared = Accelerator(cpu=True).prepare(optimizer)
    learner = Learner(model, model, prepared, lr_scheduler, EMAModel(model.parameters(), decay=0.9, **EMA_WARMUP), None)
    take_steps(learner, steps)
    return learner


def take_steps(learner, steps):
    for _ in range(steps):
        learner.model[0](torch.ones(1, 3)).square().sum().backward()
        learner.optimizer.step()
        learner.lr_scheduler.step()
        learner.ema.step(learner.model.parameters())
        learner.optimizer.zero_grad()


def test_a_learner_comes_back_bit_for_bit():
    learner, other = make_learner(steps=4), make_learner()
    tensors, numbers = learner.state_dict()
    tensors = {file: {name: value.clone() for name, value in named.items()} for file, named in tensors.items()}
    entries = ("step", "exp_avg", "exp_avg_sq")
    assert set(tensors["optimizer"]) == {f"0.{name}/{entry}" for name in ("weight", "bias") for entry in entries}
    other.load_state_dict(tensors, json.loads(json.dumps(numbers)))
    assert other.optimizer.param_groups[0]["lr"] == learner.optimizer.param_groups[0]["lr"]
    for one in (learner, other):
        take_steps(one, 3)
    (tensors_a, numbers_a), (tensors_b, numbers_b) = learner.state_dict(), other.state_dict()
    assert json.dumps(numbers_a) == json.dumps(numbers_b)
    for file, named in tensors_a.items():
        assert named.keys() == tensors_b[file].keys()
        assert all(torch.equal(value, tensors_b[file][name]) for name, value in named.items())


def test_averages_lag_behind_and_weights_come_back_bit_for_bit():
    learner = make_learner(steps=4)
    weight, average = learner.model[0].weight, learner.ema.shadow_params[0]
    before = weight.clone()
    assert not torch.allclose(average, weight)
    with learner.averaged():
        assert torch.equal(weight, average)
        assert not learner.model.training
    assert torch.equal(weight, before)
    assert learner.model.training


def test_every_counter_comes_back():
    state = TrainState("draws", 2, 3, 4, 5.5, [torch.tensor(0.25)], 6, {9, 7})
    values = json.loads(json.dumps(state.to_dict()))
    assert set(values) == {f.name for f in fields(TrainState)}
    assert TrainState.from_dict(values, torch.device("cpu")) == state
    del values["non_finite"]
    with pytest.raises(KeyError, match="non_finite"):
        TrainState.from_dict(values, torch.device("cpu"))


@pytest.mark.parametrize("name", ["generation", "denoise"])
def test_runs_of_the_first_version_start_a_new_one(name, tmp_path):
    """Their random draws were others: they are not resumed, but their models are trained further."""
    old = tmp_path / "old"
    shutil.copytree(Path(__file__).parents[1] / "saved" / name, old)
    config = TrainConfig.load(old / "config.yaml").replaced(output=str(old))
    with pytest.raises(InputError, match=r"earlier version.* --start-from .*old and a new --output") as caught:
        train(config.replaced(steps=6), resume=True)
    assert len(str(caught.value).splitlines()) == 1
    new = config.replaced(output=str(tmp_path / "new"), start_from=str(old), steps=1, learning_rate=1e-9, ema=False)
    train(TrainConfig.from_dict({**new.flat(), "model_options": {}}))
    before, after = (load_model(path).unet.state_dict() for path in (old, tmp_path / "new"))
    assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)
