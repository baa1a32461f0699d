"""A U-Net from the arguments that a preset gives, whichever class they are for."""

from typing import Any

from diffusers import UNet2DModel

from continuous_unet.models.presets import PRESETS
from continuous_unet.models.unet_2d import ContinuousUNet2DModel

UNETS = {"ContinuousUNet2DModel": ContinuousUNet2DModel, "UNet2DModel": UNet2DModel}
"""The classes that may be made and loaded, by the name that a configuration gives as `_class_name`."""


def build_unet(preset: str, **overrides: Any) -> Any:
    """A new U-Net.

    Args:
        preset: a key of `PRESETS`.
        overrides: constructor arguments that go before the preset's. Lists, as YAML has them, count as tuples.

    Raises:
        ValueError: for settings that do not fit together, by name.
        TypeError: for an argument that the class does not have.
    """
    overrides = {name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()}
    arguments = PRESETS[preset](**overrides)
    return UNETS[arguments.pop("_class_name", "ContinuousUNet2DModel")](**arguments)
