"""The options of the noise processes, and the table of them. Imports no torch: the command line reads it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from continuous_unet.base.options import Options, option
from continuous_unet.base.results import Json

if TYPE_CHECKING:
    from continuous_unet.diffusion.process import Process


@dataclass
class ProcessOptions(Options, ABC):
    """Base of the options of one noise process."""

    name: ClassVar[str]
    """The key in `PROCESSES`."""

    @abstractmethod
    def make(self) -> "Process":
        """Returns the process."""

    @staticmethod
    @abstractmethod
    def wrap(scheduler: object) -> "Process | None":
        """Returns the process of a diffusers scheduler, or None for a scheduler of another family."""


@dataclass
class VariancePreservingOptions(ProcessOptions):
    """Options of the variance-preserving process (DDPM, arXiv 2006.11239)."""

    name = "variance-preserving"

    objective: Literal["epsilon", "v_prediction", "sample"] | None = option(
        None, "what the model predicts; if left out, v_prediction for upscaling and epsilon for every other task"
    )
    noise_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid"] = option(
        "linear", "how the variance of the added noise grows with the timestep"
    )
    num_train_timesteps: int = option(1000, "number of timesteps of the noise process", at_least=1)
    min_snr_gamma: float | None = option(
        None,
        "upper limit of the signal-to-noise ratio that weights the loss (min-SNR, arXiv 2303.09556; 5 is usual); no "
        "weights if left out",
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

        zero: Json = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        objective = self.objective or default_objective
        scheduler = DDPMScheduler(
            num_train_timesteps=self.num_train_timesteps,
            beta_schedule=self.noise_schedule,
            prediction_type=objective,
            clip_sample=objective == "epsilon" and not zero_terminal_snr,  # see `make_scheduler`
            **(zero if zero_terminal_snr else {}),
        )
        return VariancePreserving(scheduler, self.min_snr_gamma)

    @staticmethod
    def wrap(scheduler: object) -> "Process | None":
        from continuous_unet.diffusion.variance_preserving import VariancePreserving

        return VariancePreserving(scheduler) if VariancePreserving.fits(scheduler) else None


@dataclass
class FlowOptions(ProcessOptions):
    """Options of flow matching (arXiv 2209.03003, 2210.02747), with the times of Stable Diffusion 3 (2403.03206)."""

    name = "flow"

    logit_mean: float = option(
        0.0, "mean of the logit of the training times; above 0 trains more on strong noise", between=(-10, 10)
    )
    logit_std: float = option(1.0, "standard deviation of the logit of the training times", above=0, at_most=10)
    shift: float | None = option(
        None,
        "factor of the ratio of noise to signal in training and sampling; larger images need more noise (default: "
        "side / 32, and 1 up to 32 pixels)",
        above=0,
        at_most=1000,
    )
    num_train_timesteps: int = option(1000, "number of timesteps of the noise process", at_least=1)

    def make(self) -> "Process":
        from diffusers import FlowMatchEulerDiscreteScheduler

        from continuous_unet.diffusion.flow import Flow

        scheduler = FlowMatchEulerDiscreteScheduler(self.num_train_timesteps, shift=self.shift or 1.0)
        return Flow(scheduler, self.logit_mean, self.logit_std, dynamic_shift=self.shift is None)

    @staticmethod
    def wrap(scheduler: object) -> "Process | None":
        from continuous_unet.diffusion.flow import Flow

        return Flow(scheduler) if Flow.fits(scheduler) else None


PROCESSES: dict[str, type[ProcessOptions]] = {
    options.name: options for options in (VariancePreservingOptions, FlowOptions)
}
"""Name: options of a noise process, which make it (`make`) and recognise its schedulers (`wrap`)."""
