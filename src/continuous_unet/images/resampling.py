"""Bicubic resampling as the super-resolution literature does it: MATLAB's `imresize`, antialiased, a = -0.5.

torch's antialiased bicubic is that: it gives the published figures of bicubic enlargement (Set5: 33.66 dB at x2 and
28.42 dB at x4 on Y), see `tests/tasks/test_resampling.py`.
"""

import torch
from torch import Tensor


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Images `(B, C, H, W)` to another size by antialiased bicubic interpolation; values may leave their range."""
    return torch.nn.functional.interpolate(images, size=(height, width), mode="bicubic", antialias=True)


def to_8_bit(images: Tensor) -> Tensor:
    """Values in [0, 1] as an 8-bit file would hold them: rounded to multiples of 1/255, and clipped."""
    return (images * 255).round().clamp(0, 255) / 255


def enlarge(images: Tensor, scale: int) -> Tensor:
    """`(B, C, H, W)` to `(B, C, scale H, scale W)`."""
    return resize(images, images.shape[2] * scale, images.shape[3] * scale)


def degraded(images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
    """What super-resolution starts from: images made small, rounded to 8 bits, and those enlarged again.

    Args:
        images: `(B, C, H, W)` in [0, 1]; H and W are multiples of the scale.
        scale: how many times smaller.
    """
    small = to_8_bit(resize(images, images.shape[2] // scale, images.shape[3] // scale))
    return small, enlarge(small, scale)
