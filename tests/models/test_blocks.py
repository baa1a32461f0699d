"""The blocks and their fields one by one, against naive twins; and the options of the dynamic block."""

import math

import pytest
import torch

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.evaluation import count_macs
from continuous_unet.models.blocks import BlockConfig, DynamicBlock, SolverConfig
from continuous_unet.models.conditioning import Conditioning
from continuous_unet.models.controls import BLOCKS, ResidualBlock, UpdateField
from continuous_unet.models.fields import FIELDS, FieldConfig, InitialVelocity

CHANNELS, EMB = 8, 16


def field_config(**changes):
    return FieldConfig(**{"channels": CHANNELS, "emb_channels": EMB, "horizon": 2.0, "norm_num_groups": 4, **changes})


def make_block(block_type, method="kick_drift", gradient="backprop", num_steps=2, horizon=2.0, **changes):
    config = BlockConfig(field_config(horizon=horizon), SolverConfig(num_steps, horizon, method, gradient), **changes)
    block = BLOCKS[block_type](config)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return block


def inputs():
    return torch.randn(2, CHANNELS, 4, 4, requires_grad=True), Conditioning(torch.randn(2, EMB, requires_grad=True))


def gradients(block, x, emb):
    wanted = (x, emb.embedding, *block.parameters())
    return torch.autograd.grad(block(x, emb).square().sum(), wanted, allow_unused=True)


def test_the_control_adds_its_field_and_nothing_else():
    block, (x, emb) = make_block("residual", num_steps=3, horizon=3.0), inputs()
    expected = x
    for t in (0.0, 1.0, 2.0):
        expected = expected + block.field(t, expected, emb)
    torch.testing.assert_close(block(x, emb), expected)
    assert block.times() == (0.0, 1.0, 2.0)


def test_the_control_with_other_numbers_of_steps_is_eulers_method():
    block, (x, emb) = make_block("residual"), inputs()
    expected = x
    for t in (0.0, 0.5, 1.0, 1.5):
        expected = expected + 0.5 * block.field(t, expected, emb)
    torch.testing.assert_close(block(x, emb, num_steps=4), expected)


def test_the_control_checkpoints():
    block, (x, emb) = make_block("residual"), inputs()
    plain = gradients(block, x, emb)
    block.solver = block.solver.with_changes(gradient="checkpoint")
    for one, other in zip(plain, gradients(block, x, emb), strict=True):
        torch.testing.assert_close(one, other)


def test_relaxation_at_a_high_rate_is_the_control():
    """`rate -> infinity` at unit steps: the velocity is the target, and the ODE the plain residual network."""
    relaxation = DynamicBlock(BlockConfig(field_config(max_rate=200.0), SolverConfig(2, 2.0, "kick_drift", "backprop")))
    control = ResidualBlock(BlockConfig(field_config(), SolverConfig(2, 2.0, "kick_drift", "backprop")))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    relaxation.field.trunk.load_state_dict(control.field.trunk.state_dict())
    relaxation.field.target.load_state_dict(control.field.out.state_dict())
    x, emb = inputs()
    # at its own rate, log 2, it is something else
    assert not torch.allclose(relaxation(x, emb), control(x, emb), atol=1e-2)
    torch.nn.init.constant_(relaxation.field.rate.bias, 20.0)
    torch.testing.assert_close(relaxation(x, emb), control(x, emb), atol=1e-5, rtol=1e-5)


def test_first_order_form_is_the_midpoint_rule_on_the_doubled_state():
    block, (x, emb) = make_block("first_order", "midpoint", num_steps=1, horizon=1.0), inputs()
    z = torch.cat([x, block.initial_velocity(x, emb)], dim=1)
    end = z + block.field(0.5, z + 0.5 * block.field(0.0, z, emb), emb)
    torch.testing.assert_close(block(x, emb), end[:, :CHANNELS])
    assert len(block.times()) == 2


def test_first_order_form_gives_the_embedding_its_gradient_by_the_adjoint():
    block, (x, emb) = make_block("first_order", "rk4", num_steps=8, horizon=1.0), inputs()
    exact = gradients(block, x, emb)
    block.solver = block.solver.with_changes(gradient="adjoint")
    for one, other in zip(exact, gradients(block, x, emb), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))


@pytest.mark.parametrize("field_type", ["relaxation", "separable", "gradient"])
def test_half_of_the_velocity_is_left_after_unit_time(field_type):
    field = FIELDS[field_type](field_config())
    x, v = torch.randn(2, CHANNELS, 4, 4), torch.randn(2, CHANNELS, 4, 4)
    # a new field's target is zero: after unit time only the velocity's rest is there
    torch.testing.assert_close(field.terms(0.0, x, Conditioning(torch.randn(2, EMB))).kick(v, 1.0), 0.5 * v)


@pytest.mark.parametrize(("dim", "factorised"), [(1, False), (2, False), (3, False), (3, True)])
def test_the_force_of_a_gradient_field_is_the_slope_of_its_energy(dim, factorised):
    field = FIELDS["gradient"](field_config(dim=dim, factorised=factorised, act_fn="relu")).double()
    for parameter in field.trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.nn.init.ones_(field.gain)
    x = torch.randn(2, CHANNELS, *(3, 4, 5)[:dim], dtype=torch.float64, requires_grad=True)
    emb, everywhere = torch.randn(2, EMB, dtype=torch.float64), (..., *(None,) * dim)
    scale, shift = (part[everywhere] for part in field.trunk.clocks.scale_shift(0.5, emb))
    energy = ((1 + scale) * field.trunk.conv1(x) + shift).relu().square().sum() / 2
    (slope,) = torch.autograd.grad(energy, x)
    torch.testing.assert_close(field.terms(0.5, x, Conditioning(emb)).force, -slope)


def test_initial_velocity_knows_the_timestep_if_asked():
    x, emb = torch.randn(2, CHANNELS, 4, 4), torch.randn(2, EMB)
    plain, timestep = InitialVelocity(field_config()), InitialVelocity(field_config(), knows_timestep=True)
    for module in (plain, timestep):
        assert torch.equal(module(x, Conditioning(emb)), torch.zeros_like(x))  # before training
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    assert torch.equal(plain(x, Conditioning(emb)), plain(x, Conditioning(emb + 1)))
    assert not torch.allclose(timestep(x, Conditioning(emb)), timestep(x, Conditioning(emb + 1)))


def model(**changes):
    arguments = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    result = ContinuousUNet2DModel(**{**arguments, "norm_num_groups": 4, "gradient": "backprop", **changes})
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return result


@pytest.mark.parametrize(
    "changes",
    [
        {"block_type": "residual"},
        {"block_type": "first_order", "method": "rk4"},
        {"field_type": "separable"},
        {"field_type": "gradient"},
        {"initial_velocity": "timestep"},
        {"gradient": "reversible", "layers_per_block": 2},
    ],
    ids=str,
)
def test_every_kind_of_model_trains_all_its_parameters_and_is_saved(changes, tmp_path):
    unet = model(**changes)
    x = torch.randn(2, 1, 8, 8)
    unet(x, torch.tensor([3, 800])).sample.square().mean().backward()
    idle = {name for name, p in unet.named_parameters() if p.grad is None or not p.grad.any()}
    assert idle == set()
    unet.save_pretrained(tmp_path)
    loaded = ContinuousUNet2DModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(x, 5).sample, unet(x, 5).sample, atol=1e-5, rtol=1e-5)


def test_separable_fields_cost_less_than_half():
    x, emb = torch.randn(1, 32, 8, 8), Conditioning(torch.randn(1, EMB))
    full, separable = (FIELDS[name](field_config(channels=32)) for name in ("relaxation", "separable"))
    assert count_macs(separable, 0.0, x, x, emb).macs < 0.5 * count_macs(full, 0.0, x, x, emb).macs


def test_gradient_fields_have_about_half_the_parameters():
    num = {
        name: sum(p.numel() for p in FIELDS[name](field_config(channels=64)).parameters())
        for name in ("relaxation", "gradient")
    }
    assert 0.4 < num["gradient"] / num["relaxation"] < 0.55


def test_the_control_is_the_relaxation_field_without_its_rate():
    control, full = UpdateField(field_config()), FIELDS["relaxation"](field_config())
    num = {name: sum(p.numel() for p in module.parameters()) for name, module in (("c", control), ("f", full))}
    assert num["f"] - num["c"] == sum(p.numel() for p in full.rate.parameters())
    assert math.isclose(full.max_rate, 1.2)
