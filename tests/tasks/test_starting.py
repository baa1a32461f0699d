"""Image to image: what sampling starts from, for every scheduler, and the pictures that are given."""

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, HeunDiscreteScheduler
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import SCHEDULERS, make_scheduler
from continuous_unet.diffusion.table import TableSampler
from continuous_unet.images.decode import fit_image
from continuous_unet.tasks.generate.starting import as_pictures, start, steps_to_take


def schedulers():
    config = DDPMScheduler(beta_schedule="squaredcos_cap_v2").config
    yield from ((name, lambda name=name: make_scheduler(name, config)) for name in SCHEDULERS)
    yield "heun", lambda: HeunDiscreteScheduler.from_config(config)
    yield "flow", FlowMatchEulerDiscreteScheduler
    yield "table", lambda: TableSampler(process_of(DDPMScheduler(beta_schedule="squaredcos_cap_v2")))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in schedulers()])
@pytest.mark.parametrize("strength", [0.1, 0.5])
def test_a_model_that_knows_the_picture_gets_it_back(make, strength):
    """A wrong timestep or a wrong amount of noise would leave a rest that the model cannot know."""
    scheduler, pictures = make(), torch.rand(2, 1, 4, 4) * 1.6 - 0.8
    scheduler.set_timesteps(20)
    noise, evaluations = torch.randn(2, 1, 4, 4), 0
    alphas = DDPMScheduler(beta_schedule="squaredcos_cap_v2").alphas_cumprod
    state, timesteps = start(scheduler, noise, 20, pictures, strength)
    scaled = getattr(scheduler, "scale_model_input", lambda sample, timestep: sample)
    for timestep in timesteps:
        seen, evaluations = scaled(state, timestep), evaluations + 1
        if not isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
            place = np.interp(float(timestep), range(1000), alphas)
            prediction = (seen - place**0.5 * pictures) / (1 - place) ** 0.5
        else:
            prediction = (state - pictures) / (timestep / 1000)
        state = scheduler.step(prediction, timestep, state).prev_sample
    assert (state - pictures).abs().max() < 0.02
    order = getattr(scheduler, "order", 1)
    assert evaluations == int(20 * strength) * order - (order - 1)


@pytest.mark.parametrize("strength", [None, 1.0])
def test_the_full_strength_starts_from_noise_alone(strength):
    scheduler, noise = make_scheduler("euler", DDPMScheduler().config), torch.randn(1, 1, 4, 4)
    scheduler.set_timesteps(10)
    pictures = () if strength is None else (torch.ones(1, 1, 4, 4), strength)
    state, timesteps = start(scheduler, noise, 10, *pictures)
    assert torch.equal(state, noise * scheduler.init_noise_sigma)
    assert torch.equal(timesteps, scheduler.timesteps)


def test_steps_that_are_left():
    assert [steps_to_take(100, s) for s in (0.01, 0.29, 0.999, 1.0)] == [1, 29, 99, 100]
    with pytest.raises(InputError, match="less than one step; take a higher strength, or at least 20 steps"):
        steps_to_take(10, 0.05)
    for wrong in (0.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="must be above 0 and at most 1"):
            steps_to_take(10, wrong)


def test_pictures_of_every_kind_become_those_of_the_model():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 3), dtype=np.uint8)
    picture, cpu = Image.fromarray(pixels), torch.device("cpu")
    from_pil = as_pictures(picture, (2, 3, 8, 8), cpu)
    assert from_pil.shape == (2, 3, 8, 8)
    array = pixels.astype(np.float32) / 255
    tensor = torch.from_numpy(array).movedim(-1, 0)
    for same in (pixels, array, tensor, [picture, tensor], np.stack([array, array])):
        assert (as_pictures(same, (2, 3, 8, 8), cpu) - from_pil).abs().max() < 1e-6
    cropped = np.asarray(fit_image(picture, 8, "crop"), np.float32) / 127.5 - 1
    assert np.abs(from_pil[0].movedim(0, -1).numpy() - cropped).max() < 0.02
    grey = as_pictures(picture, (1, 1, 20, 12), cpu)[0, 0].numpy()
    assert np.abs(grey - (np.asarray(picture.convert("L"), np.float32) / 127.5 - 1)).max() < 0.01
    for wrong, count, channels, message in (
        ([picture] * 3, 2, 3, "3 images were given to start from, for 2 results"),
        (np.zeros((2, 2, 2, 2, 2)), 1, 1, "expected"),
        (picture, 1, 4, "starts from an image of grey or RGB only"),
        ("picture.png", 1, 1, "image is str"),
    ):
        with pytest.raises(InputError, match=message):
            as_pictures(wrong, (count, channels, 8, 8), cpu)
