"""The continuous U-Net: layers, conditioning, fields, blocks, the U-Net of any dimension, diffusers' contract, presets.

Nothing is imported here: `continuous_unet.models.presets` is read by the command line, which must not wait for torch.
"""

from typing import Any


def size_multiple(unet: Any) -> int:
    """Returns the number that each side of a U-Net's input must be a multiple of, for our U-Nets and diffusers'."""
    own = getattr(unet, "size_multiple", None)
    return 2 ** (len(unet.config.block_out_channels) - 1) if own is None else own
