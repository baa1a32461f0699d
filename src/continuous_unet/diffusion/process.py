"""The contract of a noise process: how images become noise, what a model predicts, and the way back.

Everything that depends on the kind of process is behind `Process`. A new kind is one file with a class that fulfils
it, and one entry in `continuous_unet.diffusion.options.PROCESSES`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.diffusion.options import PROCESSES, ProcessOptions

Times = Tensor | float
"""A time for all images (a number or 0-d) or one for each, `(B,)`."""


GOLDEN_RATIO = 0.6180339887498949
"""The reciprocal of the golden ratio: its multiples, modulo 1, are spread evenly."""


@dataclass(frozen=True)
class Noised:
    """A batch as the training of a diffusion model needs it."""

    x_t: Tensor
    """The noisy images, `(B, C, H, W)`: the model's input."""
    target: Tensor
    """What the model is trained to predict, in that shape."""
    weight: Tensor | None = None
    """Weights `(B,)` of the squared errors; None if all are 1."""


class Process(Protocol):
    """A noise process: `x_t = signal(t) clean + noise(t) unit_noise`, with images in [-1, 1].

    Times are 0 (least noise) to `last_time`, as the model is given them. They may be fractional: give them to a model
    as a tensor, because `UNet2DModel` cuts off the fraction of a Python number.
    """

    name: str
    """The key in `PROCESSES`."""
    prediction_type: str
    """What the model predicts, by diffusers' names: `epsilon`, `v_prediction`, `sample`, `flow_prediction`."""
    num_train_timesteps: int
    last_time: float
    """The time of the strongest noise."""
    scheduler: Any
    """The diffusers scheduler that is saved with a pipeline."""

    @property
    def clip_range(self) -> float | None:
        """The limit that samplers keep their estimates of the clean image within; None without one."""

    def draw_times(self, uniform: Tensor) -> Tensor:
        """Returns training times `(B,)` for numbers `(B,)` in [0, 1)."""

    def spread_times(self, numbers: Sequence[int]) -> Tensor:
        """Returns times `(B,)` that cover the whole range evenly, however few `numbers` 0, 1, 2, … there are."""

    def add_noise(self, clean: Tensor, noise: Tensor, times: Tensor) -> Noised:
        """Adds unit noise to images, both `(B, C, H, W)`, as much as there is at the times `(B,)`."""

    def to_clean(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        """Returns the clean images `(B, C, H, W)` that a prediction for the noisy images `x_t` implies."""

    def to_noise(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        """Returns the unit noise `(B, C, H, W)` that a prediction for the noisy images `x_t` implies."""

    def coefficients(self, time: float) -> tuple[float, float]:
        """Returns the standard deviations of signal and noise at a time: `x_t = signal clean + noise unit_noise`."""

    def time_at(self, ratio: Tensor) -> Tensor:
        """Returns the times, fractional, at which the ratio of noise to signal is `ratio`; of the same shape.

        Ratios beyond those of the process give its first or last time.
        """

    def nearest_time(self, ratio: float) -> float:
        """Returns the time of training whose ratio of noise to signal is nearest to `ratio`, on a logarithmic scale.

        It is a whole number where models are trained with whole times.
        """

    def sampling_times(self, num_steps: int) -> list[float]:
        """Returns the times of the evaluations of first-order sampling, from `last_time` down."""

    def make_sampler(self, name: str | None = None) -> Any:
        """Returns a diffusers scheduler to sample with, the default one if `name` is None.

        Raises:
            InputError: for a name that does not fit the process, with those that do.
        """

    def for_images(self, height: int, width: int) -> "Process":
        """Returns the process for images of a size, where its options leave something to the size."""

    def for_latents(self) -> "Process":
        """Returns the process for values that are not bounded by [-1, 1], which no sampler may clip."""

    def options(self) -> ProcessOptions:
        """Returns the options that make this process; raises InputError if `cunet train` cannot make it."""

    def describe(self) -> Json:
        """Returns the `schedule` of `export.json`; raises InputError if the exported samplers cannot follow it."""


def process_of(scheduler: object) -> Process:
    """Returns the noise process that a diffusers scheduler stands for.

    Raises:
        InputError: for None, and for a scheduler of a family that no process here knows (EDM, …).
    """
    if scheduler is None:
        raise InputError("this model has no noise schedule: it was not trained as a diffusion model")
    known: Process | None = getattr(scheduler, "process", None)  # a `TableSampler`
    if known is not None:
        return known
    for options in PROCESSES.values():
        process = options.wrap(scheduler)
        if process is not None:
            return process
    kind = getattr(scheduler, "config", {}).get("prediction_type")
    predicts = f" with prediction_type={kind}" if kind else ""
    raise InputError(
        f"the noise process of {type(scheduler).__name__}{predicts} is not supported; expected a scheduler of one of "
        f"these kinds: {', '.join(PROCESSES)}, such as DDPMScheduler or FlowMatchEulerDiscreteScheduler"
    )


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """Returns `(B,)` as `(B, 1, 1, 1)`, and a 0-d tensor as it is."""
    return values.reshape(-1, *[1] * (images.ndim - 1)) if values.ndim else values
