import json

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DModel

from continuous_unet import (
    ContinuousUNet1DModel,
    ContinuousUNet2DModel,
    ContinuousUNet3DModel,
    DiffusionSamplingPipeline,
)
from continuous_unet.base.errors import InputError
from continuous_unet.evaluation import count_macs, profile_model
from continuous_unet.evaluation.costs import run as costs
from continuous_unet.evaluation.costs.run import profile
from continuous_unet.evaluation.options import ProfileOptions
from continuous_unet.models import presets
from continuous_unet.tasks.facts import Facts, SamplerFacts, SolverStepFacts


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


SMALL = {"in_channels": 2, "out_channels": 2, "block_out_channels": (8,), "norm_num_groups": 4}


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (ContinuousUNet1DModel(sample_size=12, global_cond_dim=3, **SMALL), (12,)),
        (ContinuousUNet3DModel(sample_size=(3, 4, 6), **SMALL), (3, 4, 6)),
    ],
    ids=["sequences", "clips"],
)
def test_models_of_other_dimensions_have_one(model, shape):
    assert profile_model(model, repeats=1, batch_size=2).sample_shape == (2, 2, *shape)
    smaller = {1: 4, 3: (2, 4, 4)}[model.dim]
    condition = {"global_cond": torch.zeros(1, 3)} if model.dim == 1 else {}
    x = torch.randn(1, 2, *((4,) if model.dim == 1 else smaller))
    assert profile_model(model, sample_size=smaller, repeats=1).macs == count_macs(model, x, 5, **condition).macs
    with pytest.raises(InputError, match="of at least 1"):
        profile_model(model, sample_size=(4, 4, 4, 4))


def test_presets_of_every_dimension_are_profiled():
    found = profile(ProfileOptions("planner", repeats=1, sample_size=8, device="cpu"))
    assert (found.model, found.sample_shape) == ("ContinuousUNet1DModel", (1, 2, 8))
    assert profile(ProfileOptions("clips", repeats=1, sample_size=8, device="cpu")).sample_shape == (1, 1, 8, 8, 8)


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


def test_a_whole_image_costs_its_evaluations_in_the_fastest_runtime(tmp_path, monkeypatch):
    monkeypatch.setattr(costs, "exported_latency", lambda unet, formats, repeats: dict.fromkeys(formats, 0.5))
    model = continuous()
    table = SolverStepFacts((1, 2), 1000, (1, 2), ((1.0, 1.0), (1.0, 0.5)))
    few = Facts(sampler=SamplerFacts(((999.0, 300.0),), distilled=True), solver_steps=table)
    DiffusionSamplingPipeline(model, DDPMScheduler(), few).save_pretrained(tmp_path / "few")
    found = profile(ProfileOptions(str(tmp_path / "few"), repeats=2, guidance=3.0, runtimes=["onnx"], device="cpu"))
    image = found.whole_image
    # the steps that it was distilled for; guidance takes two evaluations each
    assert (image.sampling_steps, image.evaluations) == (2, 4)
    assert image.macs == 4 * found.macs
    assert set(image.evaluation_ms) == {"eager", "onnx"}
    assert image.seconds == pytest.approx(4 * image.evaluation_ms["onnx"] / 1000)
    assert image.seconds < 4 * image.evaluation_ms["eager"] / 1000
    assert "a whole image" in found.to_text()
    assert "1 2 from least noise up (1.50 in the mean)" in found.to_text()
    batch = profile(ProfileOptions(str(tmp_path / "few"), repeats=1, batch_size=3, sampling_steps=5, device="cpu"))
    assert batch.whole_image.macs == pytest.approx(5 * found.macs, rel=0.01)
