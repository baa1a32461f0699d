"""The options of denoising. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import option
from continuous_unet.diffusion.options import VariancePreservingOptions
from continuous_unet.tasks.options import ModeOptions
from continuous_unet.tasks.training_options import RestorationTraining, number_range

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class DenoiseTraining(RestorationTraining):
    """Options of training a model that removes white Gaussian noise."""

    name = "denoise"

    sigma: str = option("0:55", "standard deviation of the noise to remove, LOW:HIGH, on the 0–255 scale")
    sigma_conditioned: bool = option(False, "give the model the standard deviation of the noise")

    def validate(self) -> "Self":
        """Checks the values.

        Raises:
            InputError: for a `sigma` that is no range.
        """
        super().validate()
        self.sigmas()
        return self

    def sigmas(self) -> tuple[float, float]:
        """Returns the bounds of `sigma`; raises InputError if it is no range."""
        return number_range("sigma", self.sigma, 0, 255, "0:55")

    def check_variance_preserving(self, process: VariancePreservingOptions) -> None:
        """Refuses other objectives: the model predicts the noise of an image whose signal is not scaled."""
        super().check_variance_preserving(process)
        if process.objective is not None:
            raise InputError("--objective is for generate and upscale; a denoiser predicts the noise")


@dataclass
class DenoiseOptions(ModeOptions):
    """Options of `cunet denoise`."""

    sigma: str = option("auto", "standard deviation of the noise on the 0–255 scale, or auto to estimate it")

    def validate(self) -> "Self":
        super().validate()
        self.strength()
        return self

    def strength(self) -> float | str:
        """Returns `sigma` as a number, or `"auto"`.

        Raises:
            InputError: for anything else.
        """
        if self.sigma == "auto":
            return "auto"
        try:
            value = float(self.sigma)
        except ValueError:
            value = -1.0
        if not 0 <= value <= 255:
            raise InputError(f"--sigma {self.sigma} must be auto or a number from 0 to 255")
        return value
