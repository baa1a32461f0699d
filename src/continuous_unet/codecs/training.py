"""New autoencoders, and an autoencoder as it is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from torch import Tensor, nn

from continuous_unet.codecs.autoencoder import downscaling_factor, latents_of


@dataclass(frozen=True)
class Reconstruction:
    """The output of an autoencoder that is trained."""

    sample: Tensor
    """The images again, `(B, C, H, W)`."""
    divergence: Tensor
    """KL divergence of an image's latents from the standard normal, in nats per latent value, `(B,)`, up to a constant
    where the network does not predict the noise."""


class TrainedAutoencoder(nn.Module):
    """An autoencoder of diffusers as the trainer sees it: called with images, it returns them.

    Noise in the latents keeps them smooth, and the divergence keeps them small. An `AutoencoderKL` predicts the
    strength of the noise for each latent; for the others it is a constant, and the divergence has the same form (Kingma
    and Welling 2013, arXiv 1312.6114).

    Args:
        network: of a class in `codecs.autoencoder.AUTOENCODERS`.
        latent_noise: standard deviation of the noise in the latents of a network that does not predict it.
    """

    network: Any

    def __init__(self, network: Any, latent_noise: float = 0.0) -> None:
        super().__init__()
        self.network = network
        self.latent_noise = latent_noise

    @property
    def config(self) -> Any:
        """The configuration of the autoencoder."""
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def factor(self) -> int:
        """How many times smaller the sides of the latents are than those of the images."""
        return downscaling_factor(self.network)

    def forward(self, sample: Tensor, timestep: object = None, noise: Tensor | None = None) -> Reconstruction:
        """Encodes and decodes images.

        Args:
            sample: `(B, C, H, W)` in [-1, 1].
            timestep: ignored; every model of a training is called with one.
            noise: unit noise `(B, c, h, w)` for the latents; none is added if None.
        """
        output = self.network.encode(sample)
        if isinstance(output, AutoencoderKLOutput):
            distribution = output.latent_dist
            mean, std = distribution.mean, distribution.std
            divergence = mean**2 + distribution.var - 1 - distribution.logvar
        else:
            mean = latents_of(output)
            std = torch.tensor(self.latent_noise, device=mean.device)
            divergence = mean**2  # but for a constant
        latents = mean if noise is None else mean + std * noise
        return Reconstruction(self.network.decode(latents).sample, 0.5 * divergence.float().flatten(1).mean(dim=1))


def new_autoencoder(
    kind: str,
    channels: int,
    *,
    factor: int,
    latent_channels: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    sample_size: int,
    options: dict[str, Any],
) -> Any:
    """Returns a new autoencoder of diffusers.

    Args:
        kind: `"tiny"` or `"kl"`.
        channels: number of channels of the images.
        factor: how many times smaller the sides of the latents are, a power of 2.
        latent_channels: number of channels of the latents.
        widths: number of channels of each level, the full resolution first, or one number for all of them.
        blocks: number of residual blocks of each level, likewise.
        sample_size: side of the images; a note in the configuration.
        options: further constructor arguments, which take precedence.

    Raises:
        ValueError, TypeError: for settings that do not fit together.
    """
    levels = factor.bit_length()
    widths, blocks = (list(values) * (levels if len(values) == 1 else 1) for values in (widths, blocks))
    for name, values in (("widths", widths), ("blocks", blocks)):
        if len(values) != levels:
            raise ValueError(
                f"--{name} has {len(values)} numbers; a factor of {factor} takes one, or one for each of "
                f"the {levels} levels"
            )
    common: dict[str, Any] = {"in_channels": channels, "out_channels": channels, "latent_channels": latent_channels}
    if kind == "tiny":
        if len(set(widths)) > 1:
            raise ValueError("--autoencoder tiny has one width for all levels; give one number to --widths")
        common |= {
            "encoder_block_out_channels": tuple(widths),
            "decoder_block_out_channels": tuple(widths),
            "num_encoder_blocks": tuple(blocks),
            "num_decoder_blocks": tuple(reversed(blocks)),
        }
        return AutoencoderTiny(**{**common, **options})
    if len(set(blocks)) > 1:
        raise ValueError("--autoencoder kl has the same number of blocks in all levels; give one number to --blocks")
    common |= {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": tuple(widths),
        "layers_per_block": max(1, blocks[0]),
        "norm_num_groups": 8,
        "sample_size": sample_size,
        "scaling_factor": 1.0,
        "force_upcast": False,
        "mid_block_add_attention": False,
    }
    return AutoencoderKL(**{**common, **options})
