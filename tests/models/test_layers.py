"""Layers, and the whole U-Net, in one, two and three dimensions."""

import pytest
import torch
from torch import nn

from continuous_unet import ContinuousUNet3DModel
from continuous_unet.models import size_multiple
from continuous_unet.models.config import UNetConfig
from continuous_unet.models.layers import (
    Merge,
    PixelNorm,
    Upsample,
    channels_last_group_norm,
    conv,
    norm,
    pixel_shuffle,
    pixel_unshuffle,
)
from continuous_unet.models.unet import ContinuousUNet

SIZES = {1: (12,), 2: (4, 8), 3: (4, 8, 4)}
dims = pytest.mark.parametrize("dim", SIZES)


@dims
def test_convolutions_keep_the_size(dim):
    x = torch.randn(2, 4, *SIZES[dim])
    for kernel_size in (1, 3):
        assert conv(dim, 4, 6, kernel_size)(x).shape == (2, 6, *SIZES[dim])
    assert conv(dim, 4, 4, groups=4)(x).shape == x.shape
    assert conv(dim, 4, 4, stride=2)(x).shape == (2, 4, *(side // 2 for side in SIZES[dim]))


@dims
@pytest.mark.parametrize("norm_type", ["group", "pixel", "none"])
def test_norms_have_the_statistics_of_their_name(dim, norm_type):
    x = 3 * torch.randn(2, 8, *SIZES[dim]) + 1
    y = norm(norm_type, 8, 2, 1e-5)(x)
    assert y.shape == x.shape
    if norm_type == "none":
        assert torch.equal(x, y)
        return
    groups = y.reshape(2, 2, -1).flatten(0, 1) if norm_type == "group" else y.movedim(1, -1).reshape(-1, 8)
    torch.testing.assert_close(groups.mean(-1), torch.zeros(len(groups)), atol=1e-5, rtol=0)
    torch.testing.assert_close(groups.var(-1, unbiased=False), torch.ones(len(groups)), atol=1e-3, rtol=0)


def test_pixel_norm_knows_one_pixel_only():
    x = torch.randn(1, 8, 4, 4)
    changed = x.clone()
    changed[..., 0, 0] += 1
    difference = PixelNorm(8, 1e-5)(changed * torch.linspace(1, 2, 8)[:, None, None]) - PixelNorm(8, 1e-5)(
        x * torch.linspace(1, 2, 8)[:, None, None]
    )
    assert difference[..., 0, 0].any()
    assert not difference[..., 1:, :].any()


@dims
def test_pixel_shuffles_undo_each_other_and_move_whole_squares(dim):
    x = torch.arange(2 * 3 * 4**dim).float().reshape(2, 3, *[4] * dim)
    y = pixel_unshuffle(x, 2)
    assert y.shape == (2, 3 * 2**dim, *[2] * dim)
    assert torch.equal(pixel_shuffle(y, 2), x)
    corner = (slice(None), slice(None), *[0] * dim)
    square = (slice(None), slice(None), *[slice(0, 2)] * dim)
    assert torch.equal(y[corner], x[square].reshape(2, -1))
    assert pixel_unshuffle(x, 1) is x


def test_pixel_shuffles_order_channels_as_torch_does():
    """A map that is constant along an axis gives the same as the map without it."""
    flat = torch.randn(1, 3, 4, 6)
    deep = flat[:, :, None].expand(-1, -1, 2, -1, -1)
    theirs = nn.functional.pixel_unshuffle(flat, 2).reshape(1, 3, 4, 2, 3)
    ours = pixel_unshuffle(deep, 2).reshape(1, 3, 2, 4, 2, 3)
    assert torch.equal(ours[:, :, 0], theirs)
    assert torch.equal(ours[:, :, 1], theirs)


@dims
def test_merge_and_upsample(dim):
    x, skip = torch.randn(2, 1, 4, *SIZES[dim]).unbind(0)[0], torch.randn(1, 4, *SIZES[dim])
    assert Merge(dim, 4)(x, skip).shape == x.shape
    up = Upsample(dim, 4, 2)
    larger = up(x)
    assert larger.shape == (1, 2, *(2 * side for side in SIZES[dim]))
    assert torch.equal(larger[(..., *[slice(None, None, 2)] * dim)], up.conv(x))


@dims
@pytest.mark.parametrize("block_type", ["second_order", "residual"])
@pytest.mark.parametrize("text", [False, True])
def test_the_unet_of_any_dimension(dim, block_type, text):
    config = UNetConfig(
        in_channels=2,
        out_channels=3,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        patch_size=2,
        block_type=block_type,
        gradient="reversible" if block_type == "second_order" else "checkpoint",
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        cross_attention_dim=6 if text else None,
    )
    conditions = {"encoder_hidden_states": torch.randn(2, 3, 6)} if text else {}
    unet = ContinuousUNet(config, dim)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 2, *SIZES[dim])
    assert size_multiple(unet) == 4
    prediction = unet.predict(x, torch.tensor([3, 800]), **conditions)
    assert prediction.shape == (2, 3, *SIZES[dim])
    prediction.square().mean().backward()
    assert [n for n, p in unet.named_parameters() if p.grad is None or not p.grad.any()] == []
    with torch.no_grad():
        known = unet.precompute_embeddings([3.0], **conditions)
        torch.testing.assert_close(unet.predict(x, 3, embeddings=known), unet.predict(x, 3, **conditions))
    with pytest.raises(ValueError, match="sample has shape"):
        unet.predict(x[0], 3)
    with pytest.raises(ValueError, match="multiples of 4"):
        unet.predict(torch.randn(1, 2, *[6] * dim), 3)


CLIPS = {"in_channels": 2, "out_channels": 2, "block_out_channels": (8, 16), "norm_num_groups": 4, "patch_size": 2}


def model_of_clips(**changes):
    torch.manual_seed(0)
    model = ContinuousUNet3DModel(**{**CLIPS, **changes})
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("factorised", [True, False])
@pytest.mark.parametrize("field_type", ["relaxation", "separable", "gradient"])
def test_models_of_clips_keep_their_frames_and_have_one_gradient(factorised, field_type):
    """Any number of frames works, and all gradient modes compute the same."""
    model = model_of_clips(factorised=factorised, field_type=field_type)
    x, gradients = torch.randn(2, 2, 3, 8, 12), []
    for mode in ("backprop", "checkpoint", "reversible"):
        model.set_solver(gradient=mode).zero_grad()
        model(x, torch.tensor([3, 800])).sample.square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-5, rtol=1e-3)
    with pytest.raises(ValueError, match=r"sample is 3x10x12; this model needs multiples of 1 by 4 by 4"):
        model(x[..., :1, :].expand(-1, -1, -1, 10, -1), 3)


def test_halving_the_frames_is_a_choice():
    model = model_of_clips(downsample_frames=True, down_block_types=["DownBlock3D", "AttnDownBlock3D"])
    assert model(torch.randn(1, 2, 4, 8, 8), 3).sample.shape == (1, 2, 4, 8, 8)
    with pytest.raises(ValueError, match="multiples of 4 "):
        model(torch.randn(1, 2, 3, 8, 8), 3)


def test_a_factorised_convolution_starts_with_each_frame_by_itself():
    x = torch.randn(1, 4, 3, 6, 6)
    for groups in (1, 4):
        layer = conv(3, 4, 4, groups=groups, factorised=True)
        by_frame = [layer.space(x[:, :, i : i + 1]) for i in range(3)]
        torch.testing.assert_close(layer(x), torch.cat(by_frame, dim=2))
    nn.init.normal_(layer.time.weight)
    assert not torch.allclose(layer(x), torch.cat(by_frame, dim=2))


def test_group_normalisation_of_channels_last_maps_is_that_of_torch():
    x = torch.randn(2, 6, 3, 5).to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(6), torch.randn(6)
    expected = nn.functional.group_norm(x, 3, weight, bias, 1e-3)
    found = channels_last_group_norm(x, 3, weight, bias, 1e-3)
    torch.testing.assert_close(found, expected)
    assert found.is_contiguous(memory_format=torch.channels_last)
    gradients = [torch.autograd.grad(y.square().sum(), x)[0] for y in (found, expected)]
    torch.testing.assert_close(*gradients)
    half = channels_last_group_norm(x.bfloat16(), 3, weight, bias, 1e-3)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.02, atol=0.05)
