"""The options of the noise processes, and the table of them. Imports no torch: the command line reads it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from continuous_unet.base.options import Options, option
from continuous_unet.base.results import Json

if TYPE_CHECKING:
    from continuous_unet.diffusion.process import Process


@dataclass
class VariancePreservingOptions(Options):
    """Options of the variance-preserving process (DDPM, arXiv 2006.11239)."""

    name: ClassVar[str] = "variance-preserving"

    objective: Literal["epsilon", "v_prediction", "sample"] | None = option(
        None, "what the model predicts; if left out, v_prediction for upscaling and epsilon for every other task"
    )
    noise_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "how the variance of the added noise grows with the timestep"
    )
    num_train_timesteps: int = option(1000, "number of timesteps of the noise process", at_least=1)
    min_snr_gamma: float | None = option(
        None,
        "upper limit of the signal-to-noise ratio that weights the loss (5 is usual); no weights if left out",
        above=0,
    )

    def make(self, *, default_objective: str = "epsilon", zero_terminal_snr: bool = False) -> "Process":
        """Returns the process.

        Args:
            default_objective: what the model predicts if the options do not say.
            zero_terminal_snr: whether the last timestep is pure noise, without a rest of the image (arXiv 2305.08891).
        """
        from diffusers import DDPMScheduler

        from continuous_unet.diffusion.variance_preserving import VariancePreserving

        zero: Json = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "clip_sample": False}
        scheduler = DDPMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.noise_schedule,
            prediction_type=self.objective or default_objective,
            **(zero if zero_terminal_snr else {}),
        )
        return VariancePreserving(scheduler, self.min_snr_gamma)

    @staticmethod
    def wrap(scheduler: object) -> "Process | None":
        """Returns the process of a diffusers scheduler, or None for a scheduler of another family."""
        from continuous_unet.diffusion.variance_preserving import VariancePreserving

        return VariancePreserving(scheduler) if VariancePreserving.fits(scheduler) else None


PROCESSES = {options.name: options for options in (VariancePreservingOptions,)}
"""Name: options of a noise process, which make it (`make`) and recognise its schedulers (`wrap`)."""
