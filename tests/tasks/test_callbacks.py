"""`callback_on_step_end` of every pipeline that takes several steps, as diffusers' pipelines have it."""

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from continuous_unet import DiffusionSamplingPipeline, SuperResolutionPipeline
from continuous_unet.base.errors import InputError
from tests.tasks import test_denoising, test_generation, test_inpainting, test_super_resolution

STEPS = 4


def upscaler():
    scheduler = test_super_resolution.schedule()
    return SuperResolutionPipeline(test_super_resolution.Knowing(scheduler), scheduler)


def sampler():
    model = test_generation.GaussianDenoiser(DDPMScheduler())
    return DiffusionSamplingPipeline(model, DDIMScheduler(timestep_spacing="trailing"))


IMAGE, MASK = torch.full((1, 1, 16, 16), 0.7), torch.ones(1, 16, 16)
PIPELINES = {
    "generate": (sampler, {}, 0.5),
    "denoise": (test_denoising.gaussian, {"image": IMAGE, "sigma": 25.0, "mode": "sample"}, 0.5),
    "upscale": (upscaler, {"image": IMAGE, "mode": "sample"}, 0.7),  # a state of zero is a residual of zero
    "inpaint": (test_inpainting.pipeline, {"image": IMAGE, "mask": MASK, "jump_length": 1, "jump_n_sample": 1}, 0.5),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_callback_sees_every_step_and_may_change_the_state(name):
    make, arguments, expected = PIPELINES[name]
    pipeline, seen = make(), []
    pipeline.set_progress_bar_config(disable=True)
    arguments = {**arguments, "num_inference_steps": STEPS, "output_type": "pt"}

    def erase_at_the_end(given, step, timestep, tensors):
        assert given is pipeline
        assert list(tensors) == ["latents"]
        seen.append((step, int(timestep)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == STEPS - 1 else tensors

    images = pipeline(**arguments, callback_on_step_end=erase_at_the_end).images
    assert [step for step, _ in seen] == list(range(STEPS))
    assert [time for _, time in seen] == sorted((time for _, time in seen), reverse=True)
    assert images.mean() == pytest.approx(expected, abs=1e-5)

    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    plain = pipeline(**arguments, generator=generators[0]).images
    looking = pipeline(**arguments, generator=generators[1], callback_on_step_end=lambda *given: given[-1]).images
    assert torch.equal(plain, looking)
    for callback, names, message in (
        (lambda *given: {"latents": torch.zeros(1)}, ["latents"], r"latents of shape \(1,\)"),
        (lambda *given: {}, ["prompt_embeds"], "has 'prompt_embeds'; expected names of latents"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline(**arguments, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
