import math

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet.base.signals import Stopped, StopRequest
from continuous_unet.diffusion.process import process_of
from continuous_unet.tasks.denoise.options import DenoiseTraining
from continuous_unet.tasks.denoise.training import DenoiseTask
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.training.validation import validate

from .conftest import unet

IMAGES = [{"image": torch.full((1, 8, 8), i / 50 - 1), "index": i} for i in range(100)]


def task(kind=GenerateTask, options=None):
    return kind(options or GenerateTraining(), process_of(DDPMScheduler()))


def test_validation_loss_is_the_mean_of_its_quarters_and_repeats():
    """An even spread gives 100 images 25 of each quarter, one more or less."""
    model, with_gradient = unet(), []
    model.register_forward_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    one = validate(task(), model, IMAGES, seed=0)
    assert one == validate(task(), model, IMAGES, seed=0)
    quarters = [one[f"validation_loss_quarter_{k}"] for k in (1, 2, 3, 4)]
    assert abs(sum(quarters) / 4 - one["validation_loss"]) < 0.02 * one["validation_loss"]
    assert with_gradient
    assert not any(with_gradient)
    assert one != validate(task(), model, IMAGES, seed=1)


def test_the_task_says_what_is_recorded():
    """The PSNR is the mean over the images, not that of the mean error."""
    denoising = task(DenoiseTask, DenoiseTraining(sigma="25"))
    metrics = validate(denoising, unet(), IMAGES[:8], seed=0)
    assert {"validation_loss", "validation_psnr"} <= metrics.keys()
    assert denoising.metrics(torch.tensor([4.0, 0.04], dtype=torch.float64)) == pytest.approx(
        {"validation_loss": 2.02, "validation_psnr": 10.0}
    )
    assert math.isfinite(denoising.metrics(torch.zeros(2, dtype=torch.float64))["validation_psnr"])
    assert not {"validation_psnr", "degraded_psnr"} & validate(task(), unet(), IMAGES[:8], seed=0).keys()


def test_degraded_images_are_measured_beside_the_restored_ones():
    """Noise of sigma 25 gives a PSNR of 20.17 dB. A model that predicts zero noise returns its input unchanged."""
    denoising, untouched = task(DenoiseTask, DenoiseTraining(sigma="25")), unet()
    torch.nn.init.zeros_(untouched.conv_out.weight), torch.nn.init.zeros_(untouched.conv_out.bias)
    metrics = validate(denoising, untouched, IMAGES, seed=0)
    assert metrics["degraded_psnr"] == metrics["validation_psnr"] == pytest.approx(20.17, abs=0.1)
    assert validate(denoising, unet(), IMAGES, seed=0)["degraded_psnr"] == metrics["degraded_psnr"]


def test_a_request_to_stop_is_heard():
    stop = StopRequest()
    stop.signal = 15
    with pytest.raises(Stopped):
        validate(task(), unet(), IMAGES, seed=0, stop=stop)
