import pytest
import torch

from continuous_unet.images.noise_level import estimate_sigma


@pytest.mark.parametrize("sigma", [2.0, 15.0, 50.0])
def test_noise_on_a_smooth_image_is_found(sigma):
    ramp = torch.linspace(0, 200, 96)
    image = (ramp[:, None] + 30 * torch.sin(ramp / 7)[None])[None] + sigma * torch.randn(1, 96, 96)
    assert estimate_sigma(image) == pytest.approx(sigma, rel=0.08)


def test_colour_is_the_mean_of_the_channels():
    image = torch.randn(3, 64, 64) * torch.tensor([5.0, 10.0, 15.0])[:, None, None]
    assert estimate_sigma(image) == pytest.approx(10.0, rel=0.1)


def test_images_too_small_or_without_noise():
    assert estimate_sigma(torch.rand(1, 6, 20)) == 0.0
    assert estimate_sigma(torch.full((1, 32, 32), 0.5)) == pytest.approx(0.0, abs=1e-6)
