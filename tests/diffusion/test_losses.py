"""Objectives and weights against their formulas."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from continuous_unet.diffusion.losses import diffusion_loss, prediction_target, snr_weights

KINDS = ("epsilon", "v_prediction", "sample")
TIMESTEPS = torch.tensor([0, 100, 500, 999])


def parts():
    torch.manual_seed(0)
    return torch.randn(4, 1, 8, 8), torch.randn(4, 1, 8, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_targets(kind):
    clean, noise = parts()
    scheduler = DDPMScheduler(prediction_type=kind)
    alpha = scheduler.alphas_cumprod[TIMESTEPS][:, None, None, None]
    expected = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": alpha.sqrt() * noise - (1 - alpha).sqrt() * clean,
    }[kind]
    torch.testing.assert_close(prediction_target(scheduler, clean, noise, TIMESTEPS), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weights_make_all_objectives_the_same_loss(kind):
    """The paper's point: with its weights, each is the clean image's loss with weight min(SNR, gamma)."""
    clean, noise = parts()
    scheduler = DDPMScheduler(prediction_type=kind)
    alpha = scheduler.alphas_cumprod[TIMESTEPS][:, None, None, None]
    guess = clean + 0.1 * torch.randn(4, 1, 8, 8)  # somebody's guess of the clean image
    noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    guessed_noise = (noisy - alpha.sqrt() * guess) / (1 - alpha).sqrt()
    prediction = prediction_target(scheduler, guess, guessed_noise, TIMESTEPS)
    model = lambda x, t, class_labels: SimpleNamespace(sample=prediction)  # noqa: E731
    snr = (alpha / (1 - alpha)).flatten()
    expected = snr.clamp(max=5) * (guess - clean).square().mean((1, 2, 3))
    loss = diffusion_loss(model, scheduler, clean, noise, TIMESTEPS, min_snr_gamma=5.0)
    torch.testing.assert_close(loss, expected, rtol=1e-3, atol=1e-7)
    assert snr_weights(scheduler, TIMESTEPS, 5.0).shape == (4,)


def test_loss_is_per_image_in_float32():
    clean, noise = parts()
    model = lambda x, t, class_labels: SimpleNamespace(sample=noise.bfloat16() + 1)  # noqa: E731
    loss = diffusion_loss(model, DDPMScheduler(), clean, noise, TIMESTEPS)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, torch.ones(4), atol=0.02, rtol=0)
