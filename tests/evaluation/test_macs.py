"""Counts against closed forms."""

import pytest
import torch
from torch import nn

from continuous_unet.evaluation import count_macs
from continuous_unet.models import presets
from continuous_unet.models.build import build_unet
from continuous_unet.models.layers import FactorisedConv
from continuous_unet.ode import State, integrate

X = torch.randn(2, 8, 12, 10)

CASES = {
    "conv 3x3": (nn.Conv2d(8, 16, 3, padding=1), X, 2 * 12 * 10 * 16 * 8 * 9),
    "strided": (nn.Conv2d(8, 16, 3, padding=1, stride=2), X, 2 * 6 * 5 * 16 * 8 * 9),
    "conv of a sequence": (nn.Conv1d(8, 16, 3, padding=1), X[:, :, 0], 2 * 10 * 16 * 8 * 3),
    "conv of a volume": (nn.Conv3d(8, 16, 3, padding=1), X[:, :, None], 2 * 12 * 10 * 16 * 8 * 27),
    "over space, then time": (FactorisedConv(8, 16, 3, 1, 1), X[:, :, None], 2 * 12 * 10 * 16 * (8 * 9 + 16 * 3)),
    "depthwise": (nn.Conv2d(8, 8, 3, padding=1, groups=8), X, 2 * 12 * 10 * 8 * 9),
    "1x1": (nn.Conv2d(8, 4, 1), X, 2 * 12 * 10 * 4 * 8),
    "linear": (nn.Linear(8, 5), torch.randn(7, 8), 7 * 8 * 5),
    "no macs": (nn.Sequential(nn.GroupNorm(2, 8), nn.SiLU(), nn.Upsample(scale_factor=2)), X, 0),
}


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_closed_forms(name, gradients):
    module, x, expected = CASES[name]
    with torch.set_grad_enabled(gradients):
        count = count_macs(module, x, strict=True)
    assert count.macs == expected
    assert count.flops == 2 * expected


@pytest.mark.parametrize("gradients", [False, True])
def test_attention_is_counted_on_a_cpu(gradients):
    query, key, value = (torch.randn(2, 4, n, 8, requires_grad=gradients) for n in (16, 20, 20))
    count = count_macs(torch.nn.functional.scaled_dot_product_attention, query, key, value, strict=True)
    assert count.macs == 2 * (2 * 4 * 16 * 20 * 8)  # q k^T, and the weights times v


def test_backward_of_a_convolution_is_twice_its_forward():
    conv, x = nn.Conv2d(8, 16, 3, padding=1), X.clone().requires_grad_()
    forward = count_macs(conv, x).macs
    assert count_macs(lambda: conv(x).sum().backward()).macs == 3 * forward


def test_backward_of_a_depthwise_convolution_too():
    """torch's own counter forgets the groups here."""
    conv, x = nn.Conv2d(8, 8, 3, padding=1, groups=8), X.clone().requires_grad_()
    forward = count_macs(conv, x).macs
    assert count_macs(lambda: conv(x).sum().backward()).macs == 3 * forward


@pytest.mark.parametrize("gradient", ["backprop", "reversible"])
def test_every_solver_stage_is_counted(gradient):
    class Field(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, t, x, v):
            return torch.tanh(self.conv(x) - v)

    field = Field()
    one = count_macs(field.conv, X).macs
    x = X.clone().requires_grad_()  # otherwise the first convolution has no gradient of its input to compute
    solve = lambda: integrate(field, State(x, x), num_steps=3, gradient=gradient).state.x  # noqa: E731
    assert count_macs(solve).macs == 3 * one
    # a reversible backward evaluates each stage once more and pulls back through it: 1 + 1 + 2
    step = count_macs(lambda: solve().sum().backward(), strict=True).macs
    assert step == (4 if gradient == "reversible" else 3) * 3 * one


def test_unknown_operations_are_reported_and_refused():
    matrix = torch.randn(3, 3)
    count = count_macs(torch.linalg.qr, matrix)
    assert count.unknown_operations == {"linalg_qr": 1}
    with pytest.raises(NotImplementedError, match="linalg_qr"):
        count_macs(torch.linalg.qr, matrix, strict=True)


@pytest.mark.parametrize("name", presets.PRESETS)
def test_the_presets_use_known_operations_only(name):
    model = build_unet(name, sample_size=16, in_channels=1, out_channels=1)
    x = torch.randn(1, 1, *{1: (16,), 2: (16, 16), 3: (2, 16, 16)}[getattr(model, "dim", 2)])
    with torch.no_grad():
        once = count_macs(model, x, 5, strict=True).macs
        if not hasattr(model, "set_solver"):
            return
        model.set_solver(num_steps=2 * model.config.num_solver_steps)
        twice = count_macs(model, x, 5, strict=True).macs
    assert once < twice < 2 * once  # the blocks double, what lies between them does not


def test_no_matrix_product_counts_as_free():
    """Whatever is left uncounted must not multiply: torch's own formulas name the products."""
    from torch.utils.flop_counter import flop_registry

    from continuous_unet.evaluation.costs.macs import _is_free

    aten = torch.ops.aten
    more = (
        aten.mv,
        aten.dot,
        aten.linalg_qr,
        aten._linalg_svd,
        aten._cdist_forward,
        aten._trilinear,
        aten.lstm,
        aten.ger,
    )
    more += (aten._flash_attention_forward_no_dropout_inplace, aten._embedding_bag, aten._fft_r2c, aten.linalg_lu)
    packets = [packet for packet in (*flop_registry, *more) if isinstance(packet, torch._ops.OpOverloadPacket)]
    assert len(packets) > 25
    free = [str(packet) for packet in packets if any(_is_free(getattr(packet, o)) for o in packet.overloads())]
    assert free == []
