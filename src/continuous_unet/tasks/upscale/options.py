"""What upscaling can be asked for. Imports no torch."""

from dataclasses import dataclass
from typing import Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.tasks.options import ModeOptions

RESIDUAL_SCALE = 4.0
"""Brings what is missing in an enlarged photograph, in [-1, 1] mostly 0.05 to 0.3, to the size of the noise."""


@dataclass
class UpscaleTraining:
    """Options of training a model that enlarges images."""

    scale: int = option(2, "upscaling factor: 2, 3 or 4")
    regression_share: float = option(0.5, "fraction of each batch that is trained to answer in one evaluation, 0 to 1")
    loss: Literal["squared", "absolute"] = option("absolute", "error between the prediction and its target")

    def validate(self) -> "UpscaleTraining":
        """Checks the values.

        Raises:
            InputError: naming the first one that is out of range.
        """
        if self.scale not in (2, 3, 4):
            raise InputError(f"scale={self.scale} must be 2, 3 or 4")
        if not 0 <= self.regression_share <= 1:
            raise InputError(f"regression_share={self.regression_share} must lie in [0, 1]: it is a fraction")
        return self


@dataclass
class UpscaleOptions(ModeOptions):
    """Options of `cunet upscale`."""

    # pixels of the small image, so that the large one's tiles are as large as those of the other verbs
    tile: int = option(256, "side of the tiles that large images are cut into, in pixels of the input")
    overlap: int = option(32, "number of pixels of the input that neighbouring tiles share")
    scale: int | None = option(None, "upscaling factor: 2, 3 or 4 (default: the model's own, or 2)", choices=(2, 3, 4))
