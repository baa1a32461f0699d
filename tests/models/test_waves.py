"""Waves and heat in the place of attention."""

import math

import pytest
import torch

from continuous_unet import ContinuousUNet1DModel, ContinuousUNet2DModel, ContinuousUNet3DModel
from continuous_unet.base.errors import InputError
from continuous_unet.deploy.pruning.channels import prunable
from continuous_unet.models.waves import MIXINGS, cosine_transform, cosines, propagators, squared_frequencies

SMALL = {"in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8), "norm_num_groups": 2}
MODELS = {1: ContinuousUNet1DModel, 2: ContinuousUNet2DModel, 3: ContinuousUNet3DModel}


def awake(model):
    """The model with weights in all layers that start at zero, without which attention has no effect."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_the_transform_is_that_into_cosines():
    x = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    spectrum = cosine_transform(x.float())
    rows, columns = torch.arange(6) + 0.5, torch.arange(8) + 0.5
    wave = torch.cos(rows * 2 * math.pi / 6)[:, None] * torch.cos(columns * 3 * math.pi / 8)
    # the number of a wave is the map's share of it, over its length
    assert torch.allclose(spectrum[..., 2, 3], (x.float() * wave / wave.norm()).sum((-2, -1)), atol=1e-5)
    assert torch.allclose(cosine_transform(spectrum, inverse=True), x.float(), atol=1e-5)
    assert squared_frequencies(x)[2, 3].item() == pytest.approx((2 * math.pi / 6) ** 2 + (3 * math.pi / 8) ** 2)
    assert torch.allclose(cosines(5, x) @ cosines(5, x).T, torch.eye(5), atol=1e-6)


@pytest.mark.parametrize("damping", [0.02, 1.0, 5.0, 50.0])
def test_waves_move_as_the_equation_says(damping):
    """Beside the exponential of the equation's matrix, also where a root or `cosh` would give no finite number."""
    squares = torch.cat([torch.zeros(1), torch.logspace(-8, 3.5, 200)]).double()  # c^2 |k|^2
    near = damping**2 * (1 + torch.linspace(-1e-3, 1e-3, 21).double())  # where the wave begins to swing
    squares = torch.cat([squares, near]).requires_grad_()
    rates = torch.tensor(damping, dtype=torch.float64).expand_as(squares)
    swing, push = propagators(squares - rates.square(), rates)
    zero, one = torch.zeros_like(squares), torch.ones_like(squares)
    matrix = torch.stack([zero, one, -squares.detach(), -2 * rates], dim=-1).unflatten(-1, (2, 2))
    moved = torch.linalg.matrix_exp(matrix)[:, 0]  # position after one unit of time, from position and velocity
    assert torch.allclose((swing + damping * push).detach(), moved[:, 0], atol=1e-8)
    assert torch.allclose(push.detach(), moved[:, 1], atol=1e-8)
    (swing.sum() + push.sum()).backward()
    assert squares.grad.isfinite().all()


@pytest.mark.parametrize("kind", MIXINGS)
@pytest.mark.parametrize("dim", MODELS)
def test_a_new_model_computes_what_one_without_attention_does(kind, dim):
    model = MODELS[dim](**SMALL, attention_type=kind).eval()
    plain = MODELS[dim](**SMALL, add_attention=False).eval()
    missing = plain.load_state_dict(model.state_dict(), strict=False)
    assert not missing.missing_keys
    plain.conv_out.weight.data.normal_()
    model.conv_out.load_state_dict(plain.conv_out.state_dict())
    x = torch.randn(2, 1, *(8,) * dim)
    with torch.no_grad():
        assert torch.allclose(model(x, 3).sample, plain(x, 3).sample, atol=1e-6)
        assert (awake(model)(x, 3).sample - plain(x, 3).sample).abs().max() > 1e-3


@pytest.mark.parametrize("kind", MIXINGS)
def test_every_position_reaches_every_other_one(kind):
    model = awake(ContinuousUNet2DModel(**SMALL, attention_type=kind, norm_type="none"))
    x = torch.randn(1, 1, 64, 64, requires_grad=True)
    for far, reaches in ((model, True), (ContinuousUNet2DModel(**SMALL, add_attention=False, norm_type="none"), False)):
        (grad,) = torch.autograd.grad(awake(far)(x, 3).sample[0, 0, 0, 0], x)
        assert (grad[0, 0, -1, -1] != 0) == reaches


@pytest.mark.parametrize("kind", MIXINGS)
def test_it_is_saved_trained_in_half_precision_and_compiled(kind, tmp_path):
    levels = ("AttnDownBlock2D", "DownBlock2D")
    model = awake(ContinuousUNet2DModel(**SMALL, attention_type=kind, down_block_types=levels, num_class_embeds=2))
    model.save_pretrained(tmp_path)
    x, labels = torch.randn(2, 1, 8, 8), torch.tensor([0, 1])
    expected = model(x, 3, labels).sample
    assert torch.allclose(ContinuousUNet2DModel.from_pretrained(tmp_path)(x, 3, labels).sample, expected, atol=1e-5)
    known = model.precompute_embeddings([3], class_labels=labels)
    with torch.no_grad():
        assert torch.allclose(model(x, 3, embeddings=known).sample, expected, atol=1e-6)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        assert torch.allclose(compiled(x, 3, labels).sample, expected, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(x, 3, labels).sample.square().mean()
    loss.backward()
    assert (loss - expected.square().mean()).abs() < 0.05 * loss
    attention = model.down_blocks[0].attentions[0]
    start = torch.randn(1, 8, 16, 16)
    rates = [torch.zeros(1, 8, 1, 1)] * attention.num_rates
    moved = attention._move([start] * len(attention.sources(start)), *rates)
    with torch.autocast("cpu", torch.bfloat16):  # the motion stays in float32
        assert torch.equal(attention._move([start] * len(attention.sources(start)), *rates), moved)
    missing = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert not missing
    # the timestep changes how it moves
    assert attention.rates.weight.grad.any()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="attention_type='wave' is unknown; expected one of attention, waves, heat"):
        ContinuousUNet2DModel(attention_type="wave")
    with pytest.raises(ValueError, match="takes the place of attention, and this model has none"):
        ContinuousUNet2DModel(attention_type="waves", add_attention=False)
    ContinuousUNet2DModel(attention_type="waves", attention_head_dim=7)  # it has no heads
    with pytest.raises(InputError, match="attention_type='waves' cannot be pruned"):
        prunable(ContinuousUNet2DModel(**SMALL, attention_type="waves"))
