"""A tiny codec of every kind, with random weights: the list that the contract test goes through."""

import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny

from continuous_unet.codecs.autoencoder import Autoencoder
from continuous_unet.codecs.base import Scale
from continuous_unet.codecs.identity import Pixels


def tiny(channels=3, latent_channels=2, levels=2):
    torch.manual_seed(0)
    return AutoencoderTiny(
        in_channels=channels,
        out_channels=channels,
        latent_channels=latent_channels,
        encoder_block_out_channels=(4,) * levels,
        decoder_block_out_channels=(4,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=(1,) * levels,
    ).eval()


def kl(channels=3):
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=3,
        sample_size=8,
    ).eval()


def dc():
    torch.manual_seed(0)
    blocks = {"block_out_channels": (4, 8), "block_types": ("ResBlock", "ResBlock"), "layers_per_block": (1, 1)}
    return AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=4,
        encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
        **{f"encoder_{name}": value for name, value in blocks.items()},
        **{f"decoder_{name}": value for name, value in blocks.items()},
    ).eval()


NETWORKS = {"tiny": tiny, "kl": kl, "dc": dc}


def codecs():
    """Returns every kind, by name; autoencoders with a scale."""
    found = {"pixels": Pixels(3)}
    for name, make in NETWORKS.items():
        network = make()
        number = network.config.latent_channels
        scale = Scale(tuple(0.1 * i for i in range(number)), tuple(0.5 + i for i in range(number)))
        found[name] = Autoencoder(network, scale)
    return found
