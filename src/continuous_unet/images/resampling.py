"""Bicubic resampling as the super-resolution literature does it: MATLAB's `imresize`, antialiased, a = -0.5.

torch's antialiased bicubic interpolation is the same. It gives the published figures of bicubic enlargement (Set5:
33.66 dB at x2 and 28.42 dB at x4 on Y), see `tests/images/test_resampling.py`.
"""

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.images.grids import to_pil


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Resizes images `(B, C, H, W)` by antialiased bicubic interpolation; values may leave their range."""
    return torch.nn.functional.interpolate(images, size=(height, width), mode="bicubic", antialias=True)


def cover(images: Tensor, height: int, width: int) -> Tensor:
    """Scales images `(B, C, H, W)` until they just cover a size, and cuts out their middle, as `fit_image` crops."""
    scale = max(height / images.shape[2], width / images.shape[3])
    tall, wide = max(height, round(images.shape[2] * scale)), max(width, round(images.shape[3] * scale))
    if (tall, wide) != images.shape[2:]:
        images = resize(images, tall, wide)
    top, left = round((tall - height) * 0.5), round((wide - width) * 0.5)
    return images[:, :, top : top + height, left : left + width]


def to_8_bit(images: Tensor) -> Tensor:
    """Returns values in [0, 1] as an 8-bit file would hold them: rounded to multiples of 1/255, and clipped."""
    return (images * 255).round().clamp(0, 255) / 255


def enlarge(images: Tensor, scale: int) -> Tensor:
    """Returns images `(B, C, H, W)` enlarged to `(B, C, scale H, scale W)`."""
    return resize(images, images.shape[2] * scale, images.shape[3] * scale)


def compressed(image: Tensor, quality: int) -> Tensor:
    """Returns an image `(C, H, W)` in [0, 1] as it is read back from a JPEG file of that quality, 1 to 95."""
    buffer = io.BytesIO()
    to_pil(image[None])[0].save(buffer, format="JPEG", quality=quality)
    pixels = np.asarray(Image.open(buffer), dtype=np.float32) / 255
    return torch.from_numpy(pixels).reshape(*image.shape[1:], image.shape[0]).permute(2, 0, 1)


def degraded(images: Tensor, scale: int, qualities: Sequence[int | None] | None = None) -> tuple[Tensor, Tensor]:
    """Returns what super-resolution starts from: images made small and rounded to 8 bits, and those enlarged again.

    Args:
        images: `(B, C, H, W)` in [0, 1]; H and W are multiples of the scale.
        scale: number of times that the small images are smaller.
        qualities: JPEG quality of each small image, 1 to 95; None for no compression, of one or of all.
    """
    small = to_8_bit(resize(images, images.shape[2] // scale, images.shape[3] // scale))
    if qualities is not None:
        parts = [one if q is None else compressed(one, q) for one, q in zip(small, qualities, strict=True)]
        small = torch.stack([part.to(images.device) for part in parts])
    return small, enlarge(small, scale)
