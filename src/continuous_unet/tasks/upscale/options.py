"""The options of upscaling. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.diffusion.options import VariancePreservingOptions
from continuous_unet.tasks.options import ModeOptions
from continuous_unet.tasks.training_options import RestorationTraining, number_range

if TYPE_CHECKING:
    from typing_extensions import Self

RESIDUAL_SCALE = 4.0
"""Brings what is missing in an enlarged photograph, in [-1, 1] mostly 0.05 to 0.3, to the size of the noise."""


@dataclass
class UpscaleTraining(RestorationTraining):
    """Options of training a model that enlarges images."""

    name = "upscale"

    scale: int = option(2, "upscaling factor: 2, 3 or 4", choices=(2, 3, 4))
    regression_share: float = option(
        0.5, "fraction of each batch that is trained to answer in one evaluation", between=(0, 1)
    )
    jpeg_quality: str | None = option(
        None, "JPEG quality of the small images, LOW:HIGH, each drawn at random, 1 to 95 (default: no compression)"
    )
    jpeg_share: float = option(
        1.0, "fraction of the small images that --jpeg-quality compresses; the others stay clean", between=(0, 1)
    )

    def validate(self) -> "Self":
        super().validate()
        if self.qualities() is None and self.jpeg_share != 1:
            raise InputError("--jpeg-share is a share of images with --jpeg-quality; give both, or leave it out")
        return self

    def qualities(self) -> tuple[float, float] | None:
        """Returns the bounds of `jpeg_quality`, None for no compression; raises InputError if it is no range."""
        text = self.jpeg_quality
        return None if text is None else number_range("jpeg_quality", text, 1, 95, "30:95")

    def check_variance_preserving(self, process: VariancePreservingOptions) -> None:
        """Refuses to predict noise: upscaling starts from pure noise, where this would be trivial."""
        super().check_variance_preserving(process)
        if process.objective == "epsilon":
            raise InputError(
                "--objective epsilon cannot be learned where the input is pure noise, which upscaling starts from; "
                "use v_prediction or sample"
            )


@dataclass
class UpscaleOptions(ModeOptions):
    """Options of `cunet upscale`."""

    # pixels of the small image, so that the large one's tiles are as large as those of the other verbs
    tile: int = option(256, "side of the tiles that large images are cut into, in pixels of the input")
    overlap: int = option(64, "number of pixels of the input that neighbouring tiles share")
    scale: int | None = option(None, "upscaling factor: 2, 3 or 4 (default: the model's own, or 2)", choices=(2, 3, 4))
