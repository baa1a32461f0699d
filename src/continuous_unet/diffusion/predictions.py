"""From what a diffusion model predicts (noise, `v` or the image) to the image and the noise."""

from typing import Any

from torch import Tensor


def clean_image(scheduler: Any, prediction: Tensor, sample: Tensor, timestep: int) -> Tensor:
    """The image that a prediction implies.

    Args:
        scheduler: any that has `alphas_cumprod`; its `prediction_type` tells what was predicted.
        prediction: the model's output `(B, C, H, W)`.
        sample: its input, of that shape: `sqrt(alpha_bar) image + sqrt(1 - alpha_bar) noise`.
        timestep: of the input.
    """
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return prediction
    alpha, sigma = _coefficients(scheduler, timestep)
    if kind == "v_prediction":
        return alpha * sample - sigma * prediction
    return (sample - sigma * prediction) / alpha


def noise(scheduler: Any, prediction: Tensor, sample: Tensor, timestep: int) -> Tensor:
    """The noise that a prediction implies; arguments as of `clean_image`."""
    if scheduler.config.prediction_type == "epsilon":
        return prediction
    alpha, sigma = _coefficients(scheduler, timestep)
    return (sample - alpha * clean_image(scheduler, prediction, sample, timestep)) / sigma


def _coefficients(scheduler: Any, timestep: int) -> tuple[float, float]:
    """`sqrt(alpha_bar)` and `sqrt(1 - alpha_bar)`."""
    alpha_bar = float(scheduler.alphas_cumprod[timestep])
    return alpha_bar**0.5, (1 - alpha_bar) ** 0.5
