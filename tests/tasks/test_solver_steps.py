"""Solver steps by noise level: sampling with those that are saved with a model, and what they cost."""

import dataclasses
import json
import math

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DModel

from continuous_unet import ContinuousUNet2DModel, DiffusionSamplingPipeline
from continuous_unet.base.errors import InputError
from continuous_unet.deploy.depth_options import DepthsOptions
from continuous_unet.deploy.depths import find_depths
from continuous_unet.models.blocks import count_evaluations
from continuous_unet.tasks.facts import ConditionFacts, Facts, SolverStepFacts
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.run import sample_images
from continuous_unet.tasks.loading import load_pipeline

SMALL = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 16), "norm_num_groups": 4}
TABLE = SolverStepFacts((1, 3, 2), 1000, (1, 2, 3), ((1.0, 1.0, 1.0), (0.9, 0.8, 0.5), (1.0, 0.5, 0.5)))


def ddim():
    return DDIMScheduler(clip_sample=False, timestep_spacing="trailing")


def pipeline(facts=None, **options):
    unet = ContinuousUNet2DModel(**{**SMALL, "elastic_depth": True, **options}).eval()
    torch.manual_seed(0)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made = DiffusionSamplingPipeline(unet, ddim(), Facts(solver_steps=TABLE) if facts is None else facts)
    made.set_progress_bar_config(disable=True)
    return made


def noise(seed=0):
    return torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_the_bands_of_a_table():
    assert [TABLE.at(t) for t in (0, 333, 334, 666.6, 667, 999, 1000, -1)] == [1, 1, 3, 3, 2, 2, 2, 1]


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_each_evaluation_takes_the_solver_steps_of_its_noise_level(guided):
    """By a loop of our own over the timesteps: 12 of them, so many that some embeddings are precomputed."""
    asked, options = {}, {}
    facts = Facts(solver_steps=TABLE, conditions=ConditionFacts(null_class=3))
    if guided:
        asked, options = {"class_labels": 1, "guidance_scale": 2.0}, {"num_class_embeds": 4}
    made = pipeline(facts if guided else None, **options)
    unet, scheduler = made.unet, ddim()
    scheduler.set_timesteps(12)
    x = noise()
    depths = [TABLE.at(int(t)) for t in scheduler.timesteps]
    assert [depths.count(n) for n in (1, 2, 3)] == [4, 4, 4]
    for t, depth in zip(scheduler.timesteps, depths, strict=True):
        labels = [torch.full((2,), k) for k in (1, 3)] if guided else [None]
        parts = [unet(x, t, class_labels=k, num_solver_steps=depth).sample for k in labels]
        prediction = parts[1] + 2 * (parts[0] - parts[1]) if guided else parts[0]
        x = scheduler.step(prediction, t, x).prev_sample
    how = {"num_inference_steps": 12, "output_type": "pt", **asked}
    ours = made(2, torch.Generator().manual_seed(0), num_solver_steps="auto", **how).images
    torch.testing.assert_close(ours, (x / 2 + 0.5).clamp(0, 1), atol=1e-5, rtol=1e-4)
    one = made(2, torch.Generator().manual_seed(0), num_solver_steps=3, **how).images
    assert not torch.allclose(ours, one, atol=1e-4)


def test_what_an_image_costs(tmp_path):
    made = pipeline()
    made.save_pretrained(tmp_path / "model")
    where = {"model": str(tmp_path / "model"), "output": str(tmp_path / "x.png"), "overwrite": True}
    sample = SampleOptions(**where, num=2, steps=6, device="cpu")
    for steps, each in (("auto", 2 * (1 + 2 + 3)), (3, 6 * 3), (None, 6 * 2)):
        result = sample_images(dataclasses.replace(sample, solver_steps=steps))
        with count_evaluations(made.unet) as counts:
            made(2, num_inference_steps=6, num_solver_steps=steps)
        assert set(counts.values()) == {each}
        assert result.to_dict()["field_evaluations_per_image"] == counts.total()


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"'auto' need a table .* this model has none; measure it with `cunet depths"):
        pipeline(Facts())(num_solver_steps="auto")
    for value in ("four", 0, True, 1.5):
        with pytest.raises(InputError, match="must be 1 to 1000, or 'auto'"):
            pipeline()(num_solver_steps=value)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    discrete = UNet2DModel(**{**SMALL, **blocks})
    with pytest.raises(InputError, match=r"solver_steps.steps is for continuous U-Nets"):
        DiffusionSamplingPipeline(discrete, DDIMScheduler(), Facts(solver_steps=TABLE))
    with pytest.raises(InputError, match="solver steps are for continuous U-Nets"):
        DiffusionSamplingPipeline(discrete, DDIMScheduler())(num_solver_steps="auto")


def test_a_model_that_is_trained_already_gets_a_table(tmp_path):
    folder = tmp_path / "model"
    pipeline(Facts(), num_solver_steps=4).save_pretrained(folder)
    result = find_depths(DepthsOptions(model=str(folder), data="digits", num=40, device="cpu"))
    facts = load_pipeline(folder).facts
    assert facts == Facts(solver_steps=result.facts)
    assert result.facts.depths == (1, 2, 4)
    assert all(math.isfinite(loss) for row in result.facts.losses for loss in row)
    assert len(result.to_text().splitlines()) == 5
    assert json.loads(json.dumps(result.to_dict()))["steps"] == list(result.facts.steps)
    options = DepthsOptions(model=str(folder), data="digits", num=40, device="cpu", tolerance=0, budget=2)
    few = find_depths(dataclasses.replace(options, solver_steps="2,3"))
    assert (few.facts.depths, few.facts.steps) == ((2, 3), (2,) * 8)
    with pytest.raises(InputError, match="--solver-steps 3: there is nothing to choose"):
        find_depths(dataclasses.replace(options, solver_steps=3))
