"""Builds a U-Net from a preset, ours or diffusers' own."""

from typing import Any

from diffusers import UNet2DModel

from continuous_unet.models.presets import PRESETS
from continuous_unet.models.unet_2d import ContinuousUNet2DModel

UNETS = {"ContinuousUNet2DModel": ContinuousUNet2DModel, "UNet2DModel": UNet2DModel}
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
