"""Counters and learning objects: into a checkpoint and back."""

import pytest
import torch

from continuous_unet.base.errors import InputError
from continuous_unet.training import checkpoints, train
from continuous_unet.training.trainer import DRAWS


def test_checkpoints_that_are_not_this_runs(tiny, tmp_path):
    """Their hashes are right: someone made them so. A tensor of one value would be spread over a parameter, unseen."""
    train(tiny(steps=3))
    (path,) = (tmp_path / "run" / "checkpoints").iterdir()
    tensors, state = checkpoints.load_checkpoint(path)
    name = next(n for n, value in tensors["model"].items() if value.ndim == 1)
    short = {**tensors["model"], name: tensors["model"][name][:1]}
    for spoilt, numbers, message in (
        ({**tensors, "model": short}, state, "model.safetensors does not fit"),
        ({k: v for k, v in tensors.items() if k != "ema"}, state, "ema.safetensors does not fit"),
        ({**tensors, "optimizer": {"x/exp_avg": torch.ones(1)}}, state, "optimizer.safetensors does not fit"),
        (tensors, {"draws": DRAWS}, "not of a run of this version"),
    ):
        checkpoints.save_checkpoint(path.parent, 3, spoilt, numbers)
        with pytest.raises(InputError, match=message):
            train(tiny(steps=4), resume=True)
