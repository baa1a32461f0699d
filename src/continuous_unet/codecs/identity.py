"""The codec of models that work on pixels: it changes nothing."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """Leaves images as they are.

    Args:
        channels: number of channels of the images.
    """

    channels: int
    factor: int = 1

    @property
    def latent_channels(self) -> int:
        """Number of channels of the images."""
        return self.channels

    def to(self, device: torch.device | str) -> None:
        """Does nothing: there are no weights."""

    def encode(self, images: Tensor) -> Tensor:
        """Returns the images."""
        return images

    def decode(self, latents: Tensor) -> Tensor:
        """Returns the images."""
        return latents
