import json

import pytest
import torch
from diffusers import UNet2DModel

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.base.errors import InputError
from continuous_unet.evaluation import count_macs, profile_model
from continuous_unet.models import presets


def continuous(**changes):
    return ContinuousUNet2DModel(**presets.tiny(sample_size=8, block_out_channels=(8, 16), **changes))


def discrete(**changes):
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "norm_num_groups": 8}
    sizes = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    return UNet2DModel(**blocks, **sizes, **changes)


@pytest.mark.parametrize("make", [continuous, discrete])
def test_both_u_nets_have_a_profile(make):
    model = make(num_class_embeds=3).train()
    profile = profile_model(model, batch_size=2, repeats=2)
    assert profile.sample_shape == (2, 1, 8, 8)
    assert profile.num_parameters == sum(p.numel() for p in model.parameters())
    assert profile.unknown_operations == {}
    labels = torch.tensor([0, 1])
    assert profile.macs == count_macs(model, torch.randn(2, 1, 8, 8), 5, class_labels=labels).macs
    assert 0 < profile.peak_memory_bytes < profile.peak_memory_training_bytes
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert json.loads(json.dumps(profile.to_dict()))["flops"] == 2 * profile.macs
    assert "FLOPs (2 per MAC)" in profile.to_text()


def test_evaluations_and_memory_by_gradient_mode():
    few, many = continuous(gradient="reversible"), continuous(gradient="reversible", num_solver_steps=8)
    a, b = profile_model(few, repeats=1), profile_model(many, repeats=1)
    assert set(a.evaluations_per_block.values()) == {2}
    assert set(b.evaluations_per_block.values()) == {8}
    assert b.saved_for_backward_bytes == a.saved_for_backward_bytes
    c = profile_model(many.set_solver(gradient="backprop"), repeats=1)
    assert c.saved_for_backward_bytes > 2 * b.saved_for_backward_bytes


def test_a_size_that_cannot_be():
    with pytest.raises(InputError, match="multiples of 2"):
        profile_model(continuous(), sample_size=7)
    with pytest.raises(InputError, match="no sample_size"):
        profile_model(ContinuousUNet2DModel(block_out_channels=(8,)))
