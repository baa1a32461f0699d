"""The model of sequences: its condition, its gradients, and that it is saved, loaded and sampled as the 2-D model."""

import pytest
import torch
from diffusers.models.unets.unet_1d import UNet1DOutput

from continuous_unet import ContinuousUNet1DModel

COMMON = {
    "sample_size": 16,
    "in_channels": 2,
    "out_channels": 3,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "num_solver_steps": 2,
}


def make(**changes):
    torch.manual_seed(0)
    model = ContinuousUNet1DModel(**{**COMMON, "global_cond_dim": 5, **changes})
    for parameter in model.parameters():  # last layers start at zero, where many differences would not show
        torch.nn.init.normal_(parameter, std=0.05)
    return model.eval()


def given(batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 2, 16, generator=generator), torch.randn(batch, 5, generator=generator)


@torch.no_grad()
def test_sequences_and_their_condition():
    model, (x, condition) = make(), given()
    output = model(x, 10, condition)
    assert isinstance(output, UNet1DOutput)
    assert output.sample.shape == (3, 3, 16)
    assert torch.equal(model(x, 10, global_cond=condition, return_dict=False)[0], output.sample)
    assert not torch.allclose(model(x, 10, condition + 1).sample, output.sample)
    assert not torch.allclose(model(x, 500, condition).sample, output.sample)
    # each sequence has its own condition, and other lengths work
    alone = model(x[1:2], 10, condition[1:2]).sample
    torch.testing.assert_close(alone, output.sample[1:2])
    assert model(x[..., :8], torch.tensor([1.0, 2, 3]), condition).sample.shape == (3, 3, 8)
    assert make(global_cond_dim=None)(x, 10).sample.shape == (3, 3, 16)


def test_what_does_not_fit_is_named():
    model, (x, condition) = make(), given()
    for call, line in (
        (lambda: model(x, 1), r"pass global_cond \(B, 5\)"),
        (lambda: model(x, 1, condition[:, :4]), r"shape \(3, 4\); expected \(3, 5\)"),
        (lambda: make(global_cond_dim=None)(x, 1, condition), "without it"),
        (lambda: model(x[:, :1], 1, condition), r"expected \(B, 2, W\)"),
        (lambda: model(x[..., :7], 1, condition), "multiples of 2"),
        (lambda: make(global_cond_dim=0), "global_cond_dim=0"),
        (lambda: make(num_class_embeds=3), "give one of them"),
    ):
        with pytest.raises(ValueError, match=line):
            call()
    with pytest.raises(TypeError, match="'wrong'"):
        ContinuousUNet1DModel(wrong=1)


def test_gradient_modes_agree():
    x, condition = given()
    found = {}
    for mode in ("backprop", "checkpoint", "reversible"):
        model = make(gradient=mode)
        model(x, 10, condition).sample.square().mean().backward()
        found[mode] = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    assert found["backprop"].abs().max() > 0
    assert model.global_embedding.linear_1.weight.grad.abs().max() > 0
    for mode in ("checkpoint", "reversible"):
        torch.testing.assert_close(found[mode], found["backprop"], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_saving_and_loading(tmp_path):
    model, (x, condition) = make(), given()
    model.save_pretrained(tmp_path)
    again = ContinuousUNet1DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(again(x, 10, condition).sample, model(x, 10, condition).sample)
    assert again.config.global_cond_dim == 5
    again.set_solver(num_steps=1)
    expected = model(x, 10, condition, num_solver_steps=1).sample
    assert not torch.equal(expected, model(x, 10, condition).sample)
    # the length of the integration stays, as that of the 2-D model does
    torch.testing.assert_close(again(x, 10, condition).sample, expected)
