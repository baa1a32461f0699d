"""Estimates how strong the noise of an image is, from the image alone."""

import torch
from torch import Tensor

PATCH = 7
MOST_PATCHES = 40_000


def estimate_sigma(image: Tensor) -> float:
    """Returns the standard deviation of white Gaussian noise, in the image's own unit.

    The method is that of "An Efficient Statistical Method for Image Noise Level Estimation" (Chen, Zhu and Heng, ICCV
    2015). Patches of an image lie near a subspace, so the smallest eigenvalues of their covariance are those of the
    noise. The largest set of them whose mean equals its median counts. Noise that was clipped, compressed or smoothed
    is estimated too low.

    Args:
        image: `(C, H, W)`, at least 8x8 pixels for a useful answer; the estimates of its channels are averaged.

    Returns:
        The estimate; 0.0 for an image smaller than 7x7.
    """
    if min(image.shape[1:]) < PATCH:
        return 0.0
    # for a photograph, patches further apart are enough
    height, width = image.shape[1:]
    stride = max(1, int((height * width / MOST_PATCHES) ** 0.5))
    return sum(_of_channel(channel, stride) for channel in image) / len(image)


def _of_channel(channel: Tensor, stride: int) -> float:
    patches = channel.double().unfold(0, PATCH, stride).unfold(1, PATCH, stride).reshape(-1, PATCH * PATCH)
    patches = patches - patches.mean(dim=0)
    values = torch.linalg.eigvalsh(patches.T @ patches / len(patches)).flip(0)  # largest first
    for first in range(len(values)):
        rest = values[first:]
        mean = rest.mean()
        if rest.median() >= mean or len(rest) == 1:
            return float(mean.clamp(min=0).sqrt())
    return 0.0
