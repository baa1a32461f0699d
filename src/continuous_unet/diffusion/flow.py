"""Flow matching (arXiv 2209.03003, 2210.02747): images become noise on straight lines, and models predict the velocity.

At time `t` in [0, 1] a noisy image is `(1 - t) clean + t noise`. The model learns `noise - clean`, which diffusers
calls `flow_prediction`. It is given `t` times `num_train_timesteps`.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import GOLDEN_RATIO, Noised, Times, per_image
from continuous_unet.diffusion.samplers import FLOW_SCHEDULERS, make_scheduler

SPECIAL = (
    *("use_dynamic_shifting", "invert_sigmas", "shift_terminal", "stochastic_sampling"),
    *("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"),
)
"""Settings of diffusers' schedulers that change the times in ways that are not supported."""
PLAIN_SIDE = 32
"""Side of the images, in pixels, that need no shift."""


class Flow:
    """The process of diffusers' flow-matching schedulers.

    A shift `s` multiplies the ratio of noise to signal, `t / (1 - t)`, of all times in training and sampling. Larger
    images need it, because neighbouring pixels show more of what the noise hides (arXiv 2301.11093, 2403.03206).

    Args:
        scheduler: a diffusers scheduler for which `fits` is true; its shift is used.
        logit_mean: mean of the logit of the training times, before the shift.
        logit_std: standard deviation of that logit.
        dynamic_shift: whether `for_images` sets the shift by the size of the images.

    Raises:
        InputError: for a scheduler of another family.
    """

    name = FlowOptions.name
    prediction_type = "flow_prediction"
    clip_range = None

    def __init__(
        self, scheduler: Any, logit_mean: float = 0.0, logit_std: float = 1.0, dynamic_shift: bool = False
    ) -> None:
        if not self.fits(scheduler):
            raise InputError(f"{type(scheduler).__name__} is not a scheduler of flow matching")
        self.scheduler = scheduler
        self.logit_mean, self.logit_std = logit_mean, logit_std
        self.dynamic_shift = dynamic_shift
        self.num_train_timesteps: int = scheduler.config.num_train_timesteps
        self.last_time: float = self.num_train_timesteps
        self.shift: float = scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0))

    @staticmethod
    def fits(scheduler: object) -> bool:
        """Returns whether a scheduler is one of flow matching, with times from 0 for images to 1 for noise."""
        config = getattr(scheduler, "config", {})
        if config.get("use_flow_sigmas", False):
            return config.get("prediction_type") == "flow_prediction"
        classes = {class_name for class_name, settings in FLOW_SCHEDULERS.values() if not settings}
        return type(scheduler).__name__ in classes and not any(config.get(name) for name in SPECIAL)

    def draw_times(self, uniform: Tensor) -> Tensor:
        inside = uniform.clamp(2.0**-25, 1 - 2.0**-24)
        return self._shifted(torch.sigmoid(self.logit_mean + self.logit_std * torch.special.ndtri(inside)))

    def spread_times(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor([(number * GOLDEN_RATIO + 0.5) % 1 * self.num_train_timesteps for number in numbers])

    def _shifted(self, t: Tensor) -> Tensor:
        """Returns the times for `t` in [0, 1] before the shift."""
        return self.shift * t / (1 + (self.shift - 1) * t) * self.num_train_timesteps

    def _t(self, times: Times, images: Tensor) -> Tensor | float:
        """Returns `t` in [0, 1] at some times, `(B, 1, 1, 1)` or a number, with the dtype of the images."""
        if not isinstance(times, Tensor):
            return times / self.num_train_timesteps
        precise = times.to(images.device, torch.promote_types(images.dtype, torch.float32))
        return per_image(precise / self.num_train_timesteps, images).to(images.dtype)

    def add_noise(self, clean: Tensor, noise: Tensor, times: Tensor) -> Noised:
        t = self._t(times, clean)
        return Noised((1 - t) * clean + t * noise, noise - clean)

    def to_clean(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        return x_t - self._t(times, x_t) * prediction

    def to_noise(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        return x_t + (1 - self._t(times, x_t)) * prediction

    def coefficients(self, time: float) -> tuple[float, float]:
        t = time / self.num_train_timesteps
        return 1 - t, t

    def time_at(self, ratio: Tensor) -> Tensor:
        ratio = ratio.to(torch.promote_types(ratio.dtype, torch.float32))
        return self.num_train_timesteps * (1 - 1 / (1 + ratio.clamp(min=0)))

    def nearest_time(self, ratio: float) -> float:
        return self.num_train_timesteps * (1 - 1 / (1 + max(ratio, 0.0)))

    def sampling_times(self, num_steps: int) -> list[float]:
        return self._shifted(1 - torch.arange(num_steps, dtype=torch.float64) / num_steps).tolist()

    def make_sampler(self, name: str | None = None) -> Any:
        config = {"num_train_timesteps": self.num_train_timesteps, "shift": self.shift, "flow_shift": self.shift}
        return make_scheduler(name, config, FLOW_SCHEDULERS, self.name)

    def for_images(self, height: int, width: int) -> "Flow":
        if not self.dynamic_shift:
            return self
        shift = max(1.0, math.sqrt(height * width) / PLAIN_SIDE)
        scheduler = type(self.scheduler).from_config(self.scheduler.config, shift=shift)
        return Flow(scheduler, self.logit_mean, self.logit_std)

    def for_latents(self) -> "Flow":
        return self

    def options(self) -> FlowOptions:
        return FlowOptions(self.logit_mean, self.logit_std, self.shift, self.num_train_timesteps).validate()

    def describe(self) -> Json:
        names = ("prediction_type", "num_train_timesteps", "shift")
        return {"process": self.name, **{name: getattr(self, name) for name in names}}
