"""The training options that all tasks have in common. Imports no torch."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.diffusion.options import ProcessOptions, VariancePreservingOptions

if TYPE_CHECKING:
    from typing_extensions import Self


def number_range(name: str, text: str, least: int, most: int, example: str) -> tuple[float, float]:
    """Returns the bounds that `LOW:HIGH`, or one number for both, stands for.

    Raises:
        InputError: unless least <= LOW <= HIGH <= most and HIGH is above 0.
    """
    try:
        low, high = (float(part) for part in text.split(":")) if ":" in text else (float(text),) * 2
    except ValueError:
        low, high = 1.0, 0.0
    if not (least <= low <= high <= most and high > 0):
        raise InputError(f"{name}={text!r} must be LOW:HIGH or one number, {least} to {most}, for example {example}")
    return low, high


@dataclass
class TrainingOptions(Options):
    """Base of the options of one task's training."""

    name: ClassVar[str]
    """The task, a key of `tasks.registry.TASKS`."""

    takes_preset: ClassVar[bool] = True
    """Whether the model is a U-Net, which a preset describes."""
    takes_codec: ClassVar[bool] = False
    """Whether the model can learn the latents of a codec instead of pixels."""

    def check_process(self, process: ProcessOptions) -> None:
        """Checks whether the task can be trained with a noise process.

        Raises:
            InputError: naming the option that does not fit.
        """


MOST_SOLVER_STEPS = 64
"""The largest number of solver steps that a training takes."""


@dataclass
class SolverTraining(TrainingOptions):
    """Base of the options of training a U-Net whose number of solver steps can be chosen."""

    solver_steps: int | str | None = option(
        None,
        "number of solver steps in each block; or several, such as 1,2,4, to train one model for all of them (default: "
        "that of the model)",
        metavar="STEPS",
    )

    def depths(self) -> tuple[int, ...]:
        """Returns the numbers of solver steps to train with, ascending; empty for that of the model.

        Raises:
            InputError: for anything that does not list such numbers.
        """
        if self.solver_steps is None:
            return ()
        words = str(self.solver_steps).split(",")
        numbers = sorted({int(word) for word in words if re.fullmatch(r" *\d{1,3} *", word)})
        if len(numbers) < len(words) or numbers[0] < 1 or numbers[-1] > MOST_SOLVER_STEPS:
            raise InputError(
                f"--solver-steps {self.solver_steps} must be different whole numbers, 1 to {MOST_SOLVER_STEPS}, with "
                "commas between them, such as 1,2,4"
            )
        return tuple(numbers)

    def validate(self) -> "Self":
        super().validate()
        self.depths()
        return self


@dataclass
class RestorationTraining(SolverTraining):
    """Base of the options of training a model that restores degraded images."""

    loss: Literal["squared", "absolute"] | None = option(
        None, "error that training minimises: absolute or squared (default: absolute)"
    )

    def check_process(self, process: ProcessOptions) -> None:
        """Refuses flow matching, and min-SNR weights: restoration weights all images alike."""
        if not isinstance(process, VariancePreservingOptions):
            raise InputError(f"--process {process.name} is for --task generate; leave it out")
        self.check_variance_preserving(process)

    def check_variance_preserving(self, process: VariancePreservingOptions) -> None:
        """Checks the options of the one process that restoration is trained with; see `check_process`."""
        if process.min_snr_gamma is not None:
            raise InputError("--min-snr-gamma is for --task generate; leave it out")
