import torch
from diffusers import DDPMScheduler

from continuous_unet.training.validation import validation_loss

from .conftest import unet


def test_validation_loss_is_the_mean_of_its_quarters_and_repeats():
    """The golden ratio's multiples give 100 images 25 of each quarter, one more or less."""
    images = [{"image": torch.full((1, 8, 8), i / 50 - 1), "index": i} for i in range(100)]
    options = {"seed": 0, "with_labels": False, "device": torch.device("cpu")}
    model, with_gradient = unet(), []
    model.register_forward_hook(lambda *_: with_gradient.append(torch.is_grad_enabled()))
    one = validation_loss(model, DDPMScheduler(), images, **options)
    assert one == validation_loss(model, DDPMScheduler(), images, **options)
    quarters = [one[f"validation_loss_quarter_{k}"] for k in (1, 2, 3, 4)]
    assert abs(sum(quarters) / 4 - one["validation_loss"]) < 0.02 * one["validation_loss"]
    assert with_gradient
    assert not any(with_gradient)
    assert one != validation_loss(model, DDPMScheduler(), images, **{**options, "seed": 1})
