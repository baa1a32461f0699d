"""The continuous U-Net: layers, conditioning, fields, blocks, the U-Net of any dimension, diffusers' contract, presets.

Nothing is imported here: `continuous_unet.models.presets` is read by the command line, which must not wait for torch.
"""

from typing import Any


def size_multiple(unet: Any) -> int:
    """Returns what height and width of a U-Net's input must be multiples of, for ours and diffusers' `UNet2DModel`."""
    own = getattr(unet, "size_multiple", None)
    return 2 ** (len(unet.config.block_out_channels) - 1) if own is None else own
