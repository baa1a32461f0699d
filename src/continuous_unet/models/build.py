"""Builds a U-Net from a preset, ours or diffusers' own."""

from typing import Any, cast

import torch
from diffusers import UNet2DModel

from continuous_unet.models.presets import PRESETS
from continuous_unet.models.unet_1d import ContinuousUNet1DModel
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.models.unet_3d import ContinuousUNet3DModel

UNETS = {
    "ContinuousUNet2DModel": ContinuousUNet2DModel,
    "ContinuousUNet1DModel": ContinuousUNet1DModel,
    "ContinuousUNet3DModel": ContinuousUNet3DModel,
    "UNet2DModel": UNet2DModel,
}
"""The classes that may be made and loaded, by the name that a configuration gives as `_class_name`."""


def build_unet(preset: str, **overrides: Any) -> Any:
    """Returns a new U-Net.

    Args:
        preset: a key of `PRESETS`.
        overrides: constructor arguments that take precedence over the preset's. Lists, as in YAML, become tuples.

    Raises:
        ValueError: for settings that do not fit together; it names them.
        TypeError: for an argument that the class does not have.
    """
    overrides = {name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()}
    arguments = PRESETS[preset](**overrides)
    return UNETS[arguments.pop("_class_name", "ContinuousUNet2DModel")](**arguments)


def extended(unet: ContinuousUNet2DModel, **settings: Any) -> ContinuousUNet2DModel:
    """Returns a copy of a model with further parts, which start at zero, so that it computes what it did.

    Args:
        unet: a continuous U-Net.
        settings: the constructor arguments that switch the parts on, such as `elastic_depth=True`.

    Raises:
        ValueError: for settings that change a part which the model has already, or that do not fit it.
    """
    # diffusers lists the settings that nobody gave, and would give them their defaults again
    config = {name: value for name, value in unet.config.items() if name != "_use_default_values"}
    with torch.random.fork_rng(devices=[]):  # the first values are overwritten, or zero
        copied = cast(ContinuousUNet2DModel, type(unet).from_config({**config, **settings}))
    copied.to(device=unet.device, dtype=unet.dtype).train(unet.training)
    new = set(copied.state_dict()) - set(unet.state_dict())
    try:
        copied.load_state_dict({**unet.state_dict(), **{name: copied.state_dict()[name] for name in new}})
    except RuntimeError as error:
        raise ValueError(f"a trained model cannot be given {settings}") from error
    return copied
