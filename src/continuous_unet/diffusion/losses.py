"""What the network is trained to predict, and how timesteps are weighted."""

from typing import Any

import torch
from diffusers.training_utils import compute_snr
from torch import Tensor


def prediction_target(scheduler: Any, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The target of the scheduler's prediction type, of the shape of `clean` `(B, C, H, W)`.

    `epsilon`: the noise (Ho et al. 2020, eq. 14); `v_prediction`: `alpha noise - sigma clean` (Salimans and Ho 2022,
    sec. 4); `sample`: the clean image.
    """
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    return clean


def snr_weights(scheduler: Any, timesteps: Tensor, gamma: float) -> Tensor:
    """Min-SNR-gamma weights `(B,)` (Hang et al. 2023, arXiv 2303.09556, eq. 8): `min(SNR, gamma)` on the loss of the
    clean image, written for the loss of what is predicted.
    """
    snr = compute_snr(scheduler, timesteps)
    capped = snr.clamp(max=gamma)
    kind = scheduler.config.prediction_type
    if kind == "epsilon":
        return capped / snr.clamp(min=1e-12)
    if kind == "v_prediction":
        return capped / (snr + 1)
    return capped


def diffusion_loss(
    model: Any,
    scheduler: Any,
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    class_labels: Tensor | None = None,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """The squared error of the prediction per image, `(B,)`, float32.

    Args:
        model: a U-Net of diffusers' contract.
        scheduler: the training scheduler; its `prediction_type` is the objective.
        clean: images `(B, C, H, W)` in [-1, 1].
        noise: standard normal, of that shape.
        timesteps: `(B,)`, 0 to `num_train_timesteps - 1`.
        class_labels: `(B,)` for class-conditional models.
        min_snr_gamma: cap of the signal-to-noise weight; unweighted if None.
    """
    noisy = scheduler.add_noise(clean, noise, timesteps)
    prediction = model(noisy, timesteps, class_labels=class_labels).sample
    target = prediction_target(scheduler, clean, noise, timesteps)
    loss = torch.nn.functional.mse_loss(prediction.float(), target.float(), reduction="none").mean(dim=(1, 2, 3))
    if min_snr_gamma is not None:
        loss = loss * snr_weights(scheduler, timesteps, min_snr_gamma)
    return loss
