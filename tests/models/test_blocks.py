"""The blocks and their fields one by one, against naive twins; and the options of the dynamic block."""

import math

import pytest
import torch

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.evaluation import count_macs, peak_memory
from continuous_unet.models.blocks import BLOCKS, BlockConfig, DynamicBlock, ResidualBlock, SolverConfig
from continuous_unet.models.fields import FIELDS, FieldConfig, InitialVelocity, ResidualField

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
    return torch.randn(2, CHANNELS, 4, 4, requires_grad=True), torch.randn(2, EMB, requires_grad=True)


def gradients(block, x, emb):
    return torch.autograd.grad(block(x, emb)[0].square().sum(), (x, emb, *block.parameters()), allow_unused=True)


def test_the_control_adds_its_field_and_nothing_else():
    block, (x, emb) = make_block("residual", num_steps=3, horizon=3.0), inputs()
    expected = x
    for t in (0.0, 1.0, 2.0):
        expected = expected + block.field(t, expected, emb)
    torch.testing.assert_close(block(x, emb)[0], expected)
    assert block(x, emb)[1] is None
    assert block.last_nfe == 3


def test_the_control_with_other_numbers_of_steps_is_eulers_method():
    block, (x, emb) = make_block("residual"), inputs()
    block.solver = block.solver.with_changes(num_steps=4)
    expected = x
    for t in (0.0, 0.5, 1.0, 1.5):
        expected = expected + 0.5 * block.field(t, expected, emb)
    torch.testing.assert_close(block(x, emb)[0], expected)


def test_the_control_checkpoints():
    block, (x, emb) = make_block("residual"), inputs()
    plain = gradients(block, x, emb)
    block.solver = block.solver.with_changes(gradient="checkpoint")
    for one, other in zip(plain, gradients(block, x, emb), strict=True):
        torch.testing.assert_close(one, other)


def test_relaxation_at_a_high_rate_is_the_control():
    """`rate -> infinity` at unit steps: the velocity is the target, and the ODE the plain residual network."""
    relaxation = DynamicBlock(
        BlockConfig(field_config(max_rate=200.0, initial_decay=0.5), SolverConfig(2, 2.0, "kick_drift", "backprop"))
    )
    control = ResidualBlock(BlockConfig(field_config(), SolverConfig(2, 2.0, "kick_drift", "backprop")))
    for parameter in control.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    relaxation.field.trunk.load_state_dict(control.field.trunk.state_dict())
    relaxation.field.target.load_state_dict(control.field.out.state_dict())
    x, emb = inputs()
    # at its own rate, log 2, it is something else
    assert not torch.allclose(relaxation(x, emb)[0], control(x, emb)[0], atol=1e-2)
    torch.nn.init.constant_(relaxation.field.rate.bias, 20.0)
    torch.testing.assert_close(relaxation(x, emb)[0], control(x, emb)[0], atol=1e-5, rtol=1e-5)


def test_first_order_form_is_the_midpoint_rule_on_the_doubled_state():
    block, (x, emb) = make_block("first_order", "midpoint", num_steps=1, horizon=1.0), inputs()
    z = torch.cat([x, block.initial_velocity(x, emb)], dim=1)
    end = z + block.field(0.5, z + 0.5 * block.field(0.0, z, emb), emb)
    torch.testing.assert_close(block(x, emb)[0], end[:, :CHANNELS])
    assert block.last_nfe == 2


def test_first_order_form_gives_the_embedding_its_gradient_by_the_adjoint():
    block, (x, emb) = make_block("first_order", "rk4", num_steps=8, horizon=1.0), inputs()
    exact = gradients(block, x, emb)
    block.solver = block.solver.with_changes(gradient="adjoint")
    for one, other in zip(exact, gradients(block, x, emb), strict=True):
        torch.testing.assert_close(one, other, rtol=0.02, atol=0.02 * float(one.abs().max()))


@pytest.mark.parametrize("field_type", ["relaxation", "separable"])
@pytest.mark.parametrize("decay", [0.35, 0.5, 0.9])
def test_initial_decay_is_what_is_left_of_the_velocity(field_type, decay):
    field = FIELDS[field_type](field_config(initial_decay=decay))
    x, v, emb = torch.randn(2, CHANNELS, 4, 4), torch.randn(2, CHANNELS, 4, 4), torch.randn(2, EMB)
    # a new field's target is zero: after unit time only the velocity's rest is there
    torch.testing.assert_close(field.terms(0.0, x, emb).kick(v, 1.0), decay * v)


def test_initial_velocity_knows_what_it_is_told():
    x, emb = torch.randn(2, CHANNELS, 4, 4), torch.randn(2, EMB)
    plain, timestep, carried = (
        InitialVelocity(field_config()),
        InitialVelocity(field_config(), knows_timestep=True),
        InitialVelocity(field_config(), carried_channels=4),
    )
    for module in (plain, timestep, carried):
        assert torch.equal(module(x, emb), torch.zeros_like(x))  # before training
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    assert torch.equal(plain(x, emb), plain(x, emb + 1))
    assert not torch.allclose(timestep(x, emb), timestep(x, emb + 1))
    velocity = torch.randn(2, 4, 4, 4)
    difference = carried(x, emb, velocity) - carried(x, emb)
    torch.testing.assert_close(difference, carried.carry(velocity), atol=1e-5, rtol=1e-5)


def test_read_out_adds_the_last_velocity():
    block, (x, emb) = make_block("second_order", read_velocity=True), inputs()
    with_velocity, v = block(x, emb)
    read_out, block.read_out = block.read_out, None
    torch.testing.assert_close(with_velocity, block(x, emb)[0] + read_out(v))


def model(**changes):
    arguments = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16)}
    result = ContinuousUNet2DModel(**{**arguments, "norm_num_groups": 4, "gradient": "backprop", **changes})
    for parameter in result.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return result


@pytest.mark.parametrize("initial_velocity", ["features", "carried", "skips"])
def test_carried_velocities_reach_the_next_block(initial_velocity):
    """Cutting a block's own last velocity changes later blocks only where it is carried over."""
    unet = model(initial_velocity=initial_velocity)
    x = torch.randn(2, 1, 8, 8)
    reached = {}
    for name, stage in (("down 1", unet.down_blocks[1]), ("middle", unet.mid_block), ("up 1", unet.up_blocks[1])):
        stage.register_forward_hook(lambda m, inputs, output, name=name: reached.__setitem__(name, inputs[2]))
    before = unet(x, 5).sample
    unet.down_blocks[0].register_forward_hook(lambda module, inputs, output: (output[0], torch.zeros_like(output[0])))
    assert torch.equal(unet(x, 5).sample, before) == (initial_velocity == "features")
    told = {name for name, velocity in reached.items() if velocity is not None}
    assert told == {"features": set(), "carried": {"down 1", "middle", "up 1"}, "skips": {"up 1"}}[initial_velocity]
    if initial_velocity == "skips":
        assert not reached["up 1"].any()  # the cut one, of the same level on the way down


@pytest.mark.parametrize(
    "changes",
    [
        {"block_type": "residual"},
        {"block_type": "first_order", "method": "rk4"},
        {"field_type": "separable"},
        {"initial_velocity": "timestep"},
        {"initial_velocity": "carried"},
        {"initial_velocity": "zero"},
        {"read_velocity": True},
        {"initial_velocity": "carried", "gradient": "reversible"},
        {"initial_velocity": "skips", "layers_per_block": 2},
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


def test_only_velocities_that_are_wanted_are_kept_on_the_way_up():
    """What a velocity of the skips adds to the memory of an evaluation, no other kind pays for."""
    x = torch.randn(1, 1, 32, 32)

    def peak(initial_velocity):
        unet = model(sample_size=32, block_out_channels=(16, 16), initial_velocity=initial_velocity).eval()
        with torch.no_grad():
            return peak_memory(lambda: unet(x, 5).sample, device=torch.device("cpu"))[0]

    assert peak("skips") - peak("features") >= 4 * 16 * 32 * 32  # one map of the first level, float32


def test_separable_fields_cost_less_than_half():
    x, emb = torch.randn(1, 32, 8, 8), torch.randn(1, EMB)
    full, separable = (FIELDS[name](field_config(channels=32)) for name in ("relaxation", "separable"))
    assert count_macs(separable, 0.0, x, x, emb).macs < 0.5 * count_macs(full, 0.0, x, x, emb).macs


def test_the_control_is_the_relaxation_field_without_its_rate():
    control, full = ResidualField(field_config()), FIELDS["relaxation"](field_config())
    num = {name: sum(p.numel() for p in module.parameters()) for name, module in (("c", control), ("f", full))}
    assert num["f"] - num["c"] == sum(p.numel() for p in full.rate.parameters())
    assert math.isclose(full.max_rate, 1.2)
