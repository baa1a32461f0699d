"""Elastic depth: blocks that know how long their solver steps are."""

import pytest
import torch

from continuous_unet import ContinuousUNet2DModel
from continuous_unet.models.build import extended
from continuous_unet.models.conditioning import StepSizeEmbedding

SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
CONTROL = {"block_type": "residual", "gradient": "backprop"}


def make(**changes):
    unet = ContinuousUNet2DModel(**{**SMALL, **changes}).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return unet


@torch.no_grad()
@pytest.mark.parametrize("kind", [{}, CONTROL], ids=["second order", "control"])
def test_a_trained_model_that_becomes_elastic_computes_what_it_did(kind):
    unet, x = make(**kind).set_solver(num_steps=3), torch.randn(2, 1, 8, 8)
    elastic = extended(unet, elastic_depth=True)
    assert elastic.config.elastic_depth
    assert (elastic.config.num_solver_steps, elastic.config.integration_time) == (3, 2.0)
    assert not elastic.training
    for num_steps in (1, 2, 4):
        ours = elastic(x, 5, num_solver_steps=num_steps).sample
        assert torch.equal(ours, unet(x, 5, num_solver_steps=num_steps).sample)
    # each block's vector moves the result, at each depth on its own
    for block in elastic._blocks():
        torch.nn.init.normal_(block.step_size.out.weight)
    for num_steps in (1, 2, 4):
        assert not torch.allclose(elastic(x, 5, num_solver_steps=num_steps).sample, ours)


def test_settings_that_change_a_trained_part_are_refused():
    with pytest.raises(ValueError, match="cannot be given"):
        extended(make(), block_out_channels=(8, 32))


def test_the_vector_depends_on_the_length_of_the_steps_alone():
    """It is a smooth function of log h, which differs at every number of steps that one would take."""
    embedding = StepSizeEmbedding(6, horizon=3.0)
    torch.nn.init.normal_(embedding.out.weight)
    like = torch.zeros(2, 6, dtype=torch.float64)
    embedding.double()
    vectors = torch.stack([embedding(3.0 / n, like) for n in (1, 2, 3, 4, 6, 8, 16)])
    assert vectors.shape == (7, 6)
    assert vectors.dtype == torch.float64
    assert torch.pdist(vectors).min() > 0.05
    torch.testing.assert_close(embedding(torch.tensor(0.75, dtype=torch.float64), like), embedding(0.75, like))
    twice = StepSizeEmbedding(6, horizon=6.0).double()
    twice.load_state_dict(embedding.state_dict())
    assert torch.equal(twice(1.5, like), embedding(0.75, like))


def test_methods_that_choose_their_steps_are_refused():
    adaptive = {"method": "dopri5", "field_type": "general", "gradient": "backprop"}
    with pytest.raises(ValueError, match="elastic_depth=True"):
        make(**adaptive, elastic_depth=True)
    unet = make(field_type="general", method="rk4", gradient="backprop", elastic_depth=True)
    with pytest.raises(ValueError, match="elastic_depth=True"):
        unet.set_solver(method="dopri5")
    assert unet.config.method == "rk4"


def test_training_at_several_depths_compiles_once_for_each():
    from torch._dynamo.testing import CompileCounter

    torch.compiler.reset()
    small = {"mid_block_type": None, "block_out_channels": (8,), "gradient": "backprop"}
    unet, x = make(**small, elastic_depth=True).train(), torch.randn(8, 1, 8, 8)
    counter = CompileCounter()
    compiled = torch.compile(unet, backend=counter)
    for _ in range(2):
        deep = compiled(x, torch.arange(8), num_solver_steps=2).sample
        shallow = compiled(x[:2], torch.arange(2), num_solver_steps=1).sample
        (deep.sum() + shallow.sum()).backward()
    assert counter.frame_count == 2
