"""The contract of a codec: images become latents, which a diffusion model learns and makes, and latents become images.

A new kind is one file here with a class that fulfils `Codec`, and an entry in `tests/codecs/test_codecs.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError


@dataclass(frozen=True)
class Scale:
    """The mean and standard deviation of the latents of the training images, for each channel.

    Latents that are shifted and divided by them have the variance that a noise process expects: about 1.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, latents: Tensor) -> Tensor:
        """Returns latents `(B, c, h, w)` with mean 0 and variance 1."""
        return (latents - self._channels(self.mean, latents)) / self._channels(self.std, latents)

    def undo(self, latents: Tensor) -> Tensor:
        """Returns the latents that `apply` was given."""
        return latents * self._channels(self.std, latents) + self._channels(self.mean, latents)

    @staticmethod
    def _channels(values: Sequence[float], latents: Tensor) -> Tensor:
        return torch.tensor(values, dtype=latents.dtype, device=latents.device)[:, None, None]


class Codec(Protocol):
    """Makes latents of images and images of latents; all of it is fixed, and nothing is drawn at random."""

    @property
    def channels(self) -> int:
        """Number of channels of the images."""

    @property
    def latent_channels(self) -> int:
        """Number of channels of the latents."""

    @property
    def factor(self) -> int:
        """How many times smaller the sides of the latents are than those of the images."""

    def to(self, device: torch.device | str) -> None:
        """Moves the weights to a device."""

    def encode(self, images: Tensor) -> Tensor:
        """Returns the latents `(B, c, H / factor, W / factor)` of images `(B, C, H, W)` in [-1, 1]; float32."""

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the images `(B, C, H, W)`, about in [-1, 1], of latents; float32."""


def latent_size(codec: Codec, height: int, width: int) -> tuple[int, int]:
    """Returns height and width of the latents of images of a size in pixels.

    Raises:
        InputError: if a side is not a multiple of the factor.
    """
    factor = codec.factor
    if height % factor or width % factor:
        raise InputError(
            f"images of {height}x{width} pixels do not fit the codec, whose latents are {factor} times smaller; choose "
            f"an --image-size that is a multiple of {factor}"
        )
    return height // factor, width // factor


def check_channels(codec: Codec, channels: int, what: str) -> None:
    """Raises InputError unless a codec takes images of a number of channels, those of `what`."""
    if codec.channels != channels:
        remedy = f" (--channels {codec.channels})" if codec.channels in (1, 3, 4) else ""
        raise InputError(
            f"the codec takes images of {codec.channels} channels, and {what} have {channels}; give a codec for such "
            f"images, or convert them{remedy}"
        )
