"""Quantisation-aware training rounds as int8 does, and changes nothing else about a run."""

import copy

import pytest
import torch

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.base.errors import InputError
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training import train
from continuous_unet.training.quantization_aware import (
    RoundedConv2d,
    round_activation,
    round_convolutions,
    round_weight,
)
from tests.training.conftest import unet
from tests.training.runs import assert_same_runs


def continuous(**options):
    torch.manual_seed(0)
    return ContinuousUNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8, 8), norm_num_groups=4, add_attention=False,
        **options,
    ).eval()  # fmt: skip


def test_weights_have_255_levels_a_channel():
    weight = torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    weight[2] *= 100
    rounded = round_weight(weight)
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 127
    levels = rounded / scale
    assert torch.allclose(levels, levels.round(), atol=1e-3)
    assert levels.abs().max().item() == pytest.approx(127)
    assert ((rounded - weight).abs() <= scale / 2 * 1.001).all()


@pytest.mark.parametrize("offset", [0.0, 5.0, -5.0], ids=["both signs", "positive", "negative"])
def test_activations_have_256_levels_and_zero_is_one(offset):
    x = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0)) + offset
    rounded = round_activation(x)
    low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    scale = (high - low) / 255
    assert 60 < len(rounded.unique()) <= 256
    assert (rounded / scale - (rounded / scale).round()).abs().max() < 1e-2  # multiples: zero is a level
    assert (rounded - x).abs().max() <= scale * 1.001


def test_tensors_of_zeros_stay_zeros():
    assert not round_weight(torch.zeros(2, 3, 3, 3)).any()
    assert not round_activation(torch.zeros(2, 3, 3, 3)).any()


def test_gradients_pass_the_rounding():
    values = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for rounded in (round_weight(values), round_activation(values)):
        (gradient,) = torch.autograd.grad(rounded.sum(), values)
        assert torch.equal(gradient, torch.ones_like(gradient))


@pytest.mark.parametrize("make", [continuous, unet], ids=["continuous", "discrete"])
def test_all_convolutions_but_the_first_and_the_last_round(make):
    model = make()
    plain = copy.deepcopy(model)
    round_convolutions(model)
    kinds = {name: type(m) for name, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert {name for name, kind in kinds.items() if kind is torch.nn.Conv2d} == {"conv_in", "conv_out"}
    assert list(kinds.values()).count(RoundedConv2d) == len(kinds) - 2
    # names, order and values of what is trained and saved are as before
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
    for module in (model, plain):
        for i, p in enumerate(module.parameters()):
            p.data += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        error = (model(x, 500).sample - plain(x, 500).sample).abs().max()
    assert 0 < error < 0.5


@pytest.mark.parametrize(
    ("method", "mode", "after"),
    [
        ("kick_drift", "backprop", "backprop"),
        ("kick_drift", "checkpoint", "checkpoint"),
        ("kick_drift", "reversible", "checkpoint"),
        ("midpoint", "adjoint", "checkpoint"),
    ],
)
def test_gradients_are_taken_through_the_numbers_of_the_forward_pass(method, mode, after):
    if mode == "adjoint":
        pytest.importorskip("torchdiffeq", reason="the adaptive extra is not installed")
    model = continuous(method=method, gradient=mode)
    round_convolutions(model)
    assert model.config.gradient == after
    assert {stats["gradient"] for stats in model.solver_stats().values()} == {after}


def test_a_solver_that_cannot_be_exported_is_refused():
    pytest.importorskip("torchdiffeq", reason="the adaptive extra is not installed")
    with pytest.raises(InputError, match="dopri5"):
        round_convolutions(continuous(method="dopri5", gradient="backprop"))


def test_a_run_is_resumed_exactly_and_leaves_a_plain_model(tiny, tmp_path):
    whole = tiny(output=str(tmp_path / "whole"), quantization_aware=True)
    plain = tiny(output=str(tmp_path / "plain"))
    half = tiny(output=str(tmp_path / "half"), quantization_aware=True, steps=3, lr_schedule="constant")
    in_float, result = train(plain), train(whole)
    assert "rounded as in int8" in (tmp_path / "whole" / "report.md").read_text()
    assert "rounded as in int8" not in (tmp_path / "plain" / "report.md").read_text()
    assert result.validation_loss != in_float.validation_loss
    saved = load_pipeline(tmp_path / "whole").unet
    assert {type(m) for m in saved.modules() if isinstance(m, torch.nn.Conv2d)} == {torch.nn.Conv2d}
    train(whole.replaced(output=str(tmp_path / "once"), lr_schedule="constant"))
    train(half)
    train(half.replaced(steps=6), resume=True)
    assert_same_runs(tmp_path / "once", tmp_path / "half")


def test_the_rounding_does_not_break_a_compiled_graph():
    convolution = RoundedConv2d(2, 2, 3)
    x = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(convolution, fullgraph=True)
    assert (compiled(x) - convolution(x)).abs().max() < 0.05  # what is between two levels may go to either
