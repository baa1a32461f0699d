"""The variance-preserving process (Ho et al. 2020, arXiv 2006.11239): `x_t = alpha clean + sigma noise`.

Here `alpha^2 = alphas_cumprod[t]` and `sigma^2 = 1 - alpha^2`; the table belongs to a diffusers scheduler.
"""

import contextlib
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.diffusion.options import VariancePreservingOptions
from continuous_unet.diffusion.process import GOLDEN_RATIO, Noised, Times, per_image
from continuous_unet.diffusion.samplers import SCHEDULERS, make_scheduler

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


class VariancePreserving:
    """The process of a scheduler that has a table `alphas_cumprod`.

    The scheduler's `prediction_type` says what a model predicts: `epsilon` is the noise (Ho et al. 2020, eq. 14),
    `v_prediction` is `alpha noise - sigma clean` (Salimans and Ho 2022, arXiv 2202.00512, sec. 4), and `sample` is the
    clean image.

    Args:
        scheduler: a diffusers scheduler for which `fits` is true.
        min_snr_gamma: upper limit of the weights' signal-to-noise ratio (Hang et al. 2023, arXiv 2303.09556); no
            weights if None.

    Raises:
        InputError: for a scheduler of another family.
    """

    name = VariancePreservingOptions.name

    def __init__(self, scheduler: Any, min_snr_gamma: float | None = None) -> None:
        if not self.fits(scheduler):
            raise InputError(f"{type(scheduler).__name__} is not the scheduler of a variance-preserving process")
        self.scheduler = scheduler
        self.min_snr_gamma = min_snr_gamma
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.cpu()
        """The signal's variance at each time, `(T,)`, float32, on the CPU."""
        alpha_bar = self.alphas_cumprod.double().clamp(max=1 - 1e-9)
        if alpha_bar[-1] == 0:  # between the last two times, half the signal of the last but one stands for none
            alpha_bar[-1] = alpha_bar[-2] / 4 if len(alpha_bar) > 1 else 2.0**-24
        self.log_ratios: Tensor = ((1 - alpha_bar) / alpha_bar).log() / 2
        """The logarithm of the ratio of noise to signal at each time, `(T,)`, float64: linear between two times."""
        self._tables: dict[torch.device, Tensor] = {}
        self.num_train_timesteps = len(self.alphas_cumprod)
        self.last_time: float = self.num_train_timesteps - 1
        self.prediction_type: str = scheduler.config.get("prediction_type", "epsilon")

    @staticmethod
    def fits(scheduler: object) -> bool:
        """Returns whether a scheduler is that of a variance-preserving process with integer timesteps."""
        config = getattr(scheduler, "config", {})
        return (
            isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor)
            and config.get("prediction_type", "epsilon") in PREDICTION_TYPES
            and not config.get("use_flow_sigmas", False)
            and config.get("timestep_type", "discrete") == "discrete"
        )

    def draw_times(self, uniform: Tensor) -> Tensor:
        return (uniform * self.num_train_timesteps).long().clamp_(max=self.num_train_timesteps - 1)

    def spread_times(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor([int(number * GOLDEN_RATIO % 1 * self.num_train_timesteps) for number in numbers])

    def add_noise(self, clean: Tensor, noise: Tensor, times: Tensor) -> Noised:
        alpha_bar = self._table(clean.device).to(clean.dtype)
        alpha, sigma = self._levels((alpha_bar**0.5, (1 - alpha_bar) ** 0.5), times, clean)
        target = {"epsilon": noise, "sample": clean}.get(self.prediction_type)
        if target is None:
            target = alpha * noise - sigma * clean
        return Noised(alpha * clean + sigma * noise, target, self._weight(times))

    def _levels(self, tables: tuple[Tensor, Tensor], times: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns signal and noise at some times, `(B, 1, 1, 1)` or 0-d, with the dtype and device of the images.

        Args:
            tables: those of the whole times, `(T,)`.
            times: the times, `(B,)` or 0-d.
            images: what they belong to, `(B, C, H, W)`.
        """
        if not times.is_floating_point():
            return per_image(tables[0][times], images), per_image(tables[1][times], images)
        times = times.to(images.device, torch.promote_types(images.dtype, torch.float32))
        whole = times.round().clamp(0, self.num_train_timesteps - 1)
        exact, between = [table[whole.long()] for table in tables], self._between(times)
        signal, noise = (torch.where(times == whole, e, b.to(e)) for e, b in zip(exact, between, strict=True))
        return per_image(signal, images), per_image(noise, images)

    def _between(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """Returns signal and noise at fractional times, interpolated in the logarithm of their ratio."""
        last = self.num_train_timesteps - 1
        times = times.clamp(0, last)
        logs, below = self.log_ratios.to(times.dtype).to(times.device), times.long()
        ratio = torch.lerp(logs[below], logs[(below + 1).clamp(max=last)], times - below).exp()
        signal = (1 + ratio**2).rsqrt()
        return signal, ratio * signal

    def time_at(self, ratio: Tensor) -> Tensor:
        ratio = ratio.to(torch.promote_types(ratio.dtype, torch.float32))
        logs, wanted = self.log_ratios.to(ratio.dtype).to(ratio.device), ratio.clamp(min=1e-9).log()
        above = torch.searchsorted(logs, wanted.contiguous()).clamp(1, max(1, len(logs) - 1))
        low, high = logs[above - 1], logs[above.clamp(max=len(logs) - 1)]
        share = ((wanted - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
        return (above - 1 + share).clamp(max=len(logs) - 1)

    def _table(self, device: torch.device) -> Tensor:
        """Returns `alphas_cumprod` on a device; a copy is kept, because one for each training step would cost more."""
        if device not in self._tables:
            self._tables[device] = self.alphas_cumprod.to(device)
        return self._tables[device]

    def _weight(self, times: Tensor) -> Tensor | None:
        """Returns `min(SNR, gamma)`, a weight of the clean image's error, as one of the prediction's error.

        See Hang et al. 2023, arXiv 2303.09556, eq. 8.
        """
        if self.min_snr_gamma is None:
            return None
        alpha_bar = self._table(times.device)
        alpha, sigma = self._levels((alpha_bar**0.5, (1.0 - alpha_bar) ** 0.5), times, alpha_bar)
        snr = (alpha / sigma) ** 2
        capped = snr.clamp(max=self.min_snr_gamma)
        if self.prediction_type == "epsilon":
            return capped / snr.clamp(min=1e-12)
        return capped / (snr + 1) if self.prediction_type == "v_prediction" else capped

    def to_clean(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        if self.prediction_type == "sample":
            return prediction
        alpha, sigma = self._coefficients(x_t, times)
        if self.prediction_type == "v_prediction":
            return alpha * x_t - sigma * prediction
        return (x_t - sigma * prediction) / alpha

    def to_noise(self, prediction: Tensor, x_t: Tensor, times: Times) -> Tensor:
        if self.prediction_type == "epsilon":
            return prediction
        alpha, sigma = self._coefficients(x_t, times)
        return (x_t - alpha * self.to_clean(prediction, x_t, times)) / sigma

    def coefficients(self, time: float) -> tuple[float, float]:
        if time != int(time):
            signal, noise = self._between(torch.tensor(time, dtype=torch.float64))
            return float(signal), float(noise)
        alpha_bar = float(self.alphas_cumprod[int(time)])
        return alpha_bar**0.5, (1 - alpha_bar) ** 0.5

    def _coefficients(self, x_t: Tensor, times: Times) -> tuple[Tensor | float, Tensor | float]:
        if not isinstance(times, Tensor):
            return self.coefficients(times)
        alpha_bar = self.alphas_cumprod.double()
        signal, noise = (variance.sqrt().to(x_t.dtype).to(x_t.device) for variance in (alpha_bar, 1 - alpha_bar))
        return self._levels((signal, noise), times, x_t)

    def nearest_time(self, ratio: float) -> int:
        alphas = self.alphas_cumprod.double()
        ratios = ((1 - alphas) / alphas).sqrt()
        return int((ratios.clamp(min=1e-9).log() - math.log(max(ratio, 1e-9))).abs().argmin())

    @cached_property
    def clip_range(self) -> float | None:
        config = self.make_sampler("ddim").config
        return float(config.clip_sample_range) if config.clip_sample else None

    def sampling_times(self, num_steps: int) -> list[float]:
        total = self.num_train_timesteps
        return [float(round(total - k * total / num_steps) - 1) for k in range(num_steps)]

    def make_sampler(self, name: str | None = None) -> Any:
        return make_scheduler(name, self.scheduler.config, SCHEDULERS, self.name)

    def for_images(self, height: int, width: int) -> "VariancePreserving":
        return self

    def for_latents(self) -> "VariancePreserving":
        scheduler = type(self.scheduler).from_config(self.scheduler.config, clip_sample=False)
        return VariancePreserving(scheduler, self.min_snr_gamma)

    def options(self) -> VariancePreservingOptions:
        config = self.scheduler.config
        values = {
            "objective": self.prediction_type,
            "noise_schedule": config.get("beta_schedule", "linear"),
            "num_train_timesteps": self.num_train_timesteps,
            "min_snr_gamma": self.min_snr_gamma,
        }
        again = None
        with contextlib.suppress(InputError):
            options = VariancePreservingOptions.from_dict(values).validate()
            zero = bool(config.get("rescale_betas_zero_snr", False))
            again = options.make(zero_terminal_snr=zero).describe()["alphas_cumprod"]
        if again != self.describe()["alphas_cumprod"]:
            raise InputError(
                f"`cunet train` has no noise process like this model's ({type(self.scheduler).__name__} with "
                f"beta_schedule={values['noise_schedule']!r})"
            )
        return options

    def describe(self) -> Json:
        if self.scheduler.config.get("thresholding", False):
            raise InputError("schedulers with thresholding=True cannot be exported; DDIM with clip_sample=True can")
        ddim = self.make_sampler("ddim")
        return {
            "alphas_cumprod": [float(str(np.float32(value))) for value in self.alphas_cumprod.tolist()],
            **{name: ddim.config[name] for name in ("prediction_type", "timestep_spacing", "steps_offset")},
            **{name: ddim.config[name] for name in ("clip_sample", "clip_sample_range")},
            "final_alpha_cumprod": float(ddim.final_alpha_cumprod),
        }
