"""Sampling from a table: one row for each evaluation of the model, whatever the process.

A row says at which time the model is evaluated, how much signal and noise there is, and how much there is afterwards.
The prediction gives the clean images and the unit noise, and the next state is
`next_signal clean + next_noise unit_noise`. This is DDIM (arXiv 2010.02502) in the variance-preserving process and
Euler's method in flow matching. With fresh noise in place of the predicted one, consistency models sample like this
(arXiv 2303.01469). A row of second order adds a multiple of the change of the clean images since the row before, which
is DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.diffusion.process import Process


@dataclass(frozen=True)
class Row:
    """One sampling step."""

    timestep: float
    """The time of the evaluation, as the model is given it."""
    signal: float
    noise: float
    """Standard deviations of signal and noise at that time."""
    next_signal: float = 1.0
    next_noise: float = 0.0
    """Those after the step."""
    fresh: bool = False
    """Whether the noise after the step is drawn anew, rather than the noise that the prediction implies."""
    next_timestep: float = 0.0
    """The time after the step, for models that are told it."""
    correction: float = 0.0
    """How much of the change of the clean images since the row before is added; 0 for steps of first order."""

    def onward(self, clean: Tensor, unit: Tensor, before: Tensor | None = None) -> Tensor:
        """Returns the next state of clean images and unit noise, all `(B, C, H, W)`.

        Args:
            clean: the clean images that the prediction of this row implies.
            unit: the noise that the next state has.
            before: the clean images that the prediction of the row before implied. If None, the step is of first order.
        """
        reached = self.next_signal * clean + self.next_noise * unit
        return reached if before is None or not self.correction else reached + self.correction * (clean - before)

    def ancestral_step(self, process: Process, x: Tensor, prediction: Tensor, fresh_noise: Tensor) -> Tensor:
        """Returns the next state with as much fresh noise as the reverse of the process has (DDPM, eq. 7).

        Args:
            process: the process that the model was trained with.
            x: the state at the time of the row, `(B, C, H, W)`.
            prediction: the model's prediction for it.
            fresh_noise: standard normal noise of that shape.
        """
        clean, unit = self.parts(process, x, prediction)
        kept = (self.signal / self.next_signal * self.next_noise / self.noise) ** 2 if self.noise else 1.0
        fresh = self.next_noise * max(1 - kept, 0.0) ** 0.5
        return self.next_signal * clean + (self.next_noise**2 - fresh**2) ** 0.5 * unit + fresh * fresh_noise

    def parts(self, process: Process, x: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the clean images and the unit noise that a prediction implies."""
        clean = process.to_clean(prediction, x, self.timestep)
        if process.clip_range is not None:
            clean = clean.clamp(-process.clip_range, process.clip_range)
        return clean, process.to_noise(prediction, x, self.timestep)


def make_rows(process: Process, times: Sequence[float], fresh: bool = False, order: int = 1) -> list[Row]:
    """Returns the rows of evaluations at some times, the last of which leads to the clean images.

    Args:
        process: the process that the model was trained with.
        times: the times, each less than the one before.
        fresh: whether every step but the last draws its noise anew.
        order: 1, or 2 for steps of DPM-Solver++(2M), of which the first and the last are of first order.
    """
    levels = [*(process.coefficients(time) for time in times), (1.0, 0.0)]
    corrections = _corrections(levels) if order == 2 else [0.0] * len(times)
    return [
        Row(time, *levels[k], *levels[k + 1], fresh and k + 1 < len(times), ([*times, 0.0])[k + 1], corrections[k])
        for k, time in enumerate(times)
    ]


def _corrections(levels: Sequence[tuple[float, float]]) -> list[float]:
    """Returns the corrections of DPM-Solver++(2M) for the steps between levels of signal and noise.

    The length of a step is that of the logarithm of the ratio of noise to signal. A step from pure noise, or to the
    clean images, has no finite length. Such a step, and the one directly after it, are of first order.
    """
    lengths = [
        math.log(noise * next_signal / (signal * next_noise)) if signal and next_noise else math.inf
        for (signal, noise), (next_signal, next_noise) in pairwise(levels)
    ]
    corrections = [0.0]
    for k in range(1, len(lengths)):
        (signal, noise), (next_signal, next_noise) = levels[k], levels[k + 1]
        share = 0.0
        if math.isfinite(lengths[k]) and math.isfinite(lengths[k - 1]) and lengths[k - 1] > 0:
            share = (next_signal - next_noise * signal / noise) * lengths[k] / (2 * lengths[k - 1])
        corrections.append(share)
    return corrections


class StepOutput(NamedTuple):
    """What `TableSampler.step` returns, named as in diffusers."""

    prev_sample: Tensor


class TableSampler:
    """Samples from tables, behind the calls of a diffusers scheduler.

    Args:
        process: the process that the model was trained with.
        tables: rows by number of sampling steps. Other numbers of steps are spread as in DDIM and Euler's method.
    """

    init_noise_sigma = 1.0

    def __init__(self, process: Process, tables: Mapping[int, Sequence[Row]] | None = None) -> None:
        self.process = process
        self.tables = dict(tables or {})
        self.config: Any = process.scheduler.config
        self.rows: list[Row] = []
        """The rows of the present sampling."""
        self.timesteps = torch.zeros(0)
        """Their times, `(S,)`, float32."""
        self.next_timesteps = torch.zeros(0)
        """The times that they lead to, of that shape."""
        self._taken = 0
        self._clean: Tensor | None = None
        """The clean images that the prediction of the row before implied."""

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Chooses the rows of the next sampling."""
        known = self.tables.get(num_inference_steps)
        self.rows = list(known or make_rows(self.process, self.process.sampling_times(num_inference_steps)))
        self.timesteps = torch.tensor([row.timestep for row in self.rows], dtype=torch.float32, device=device)
        following = [row.next_timestep for row in self.rows]
        self.next_timesteps = torch.tensor(following, dtype=torch.float32, device=device)
        self._taken, self._clean = 0, None

    def set_begin_index(self, begin_index: int) -> None:
        """Makes a later row the first one, for samplings that start from an image."""
        self._taken, self._clean = begin_index, None

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Returns images with as much noise as there is before the next row, whatever `timesteps` says."""
        row = self.rows[self._taken]
        return row.signal * original_samples + row.noise * noise

    def step(
        self,
        model_output: Tensor,
        timestep: Tensor | float,
        sample: Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> StepOutput:
        """Takes the next step; the rows follow each other, whatever `timestep` says."""
        row = self.rows[self._taken]
        self._taken += 1
        clean, unit = row.parts(self.process, sample, model_output)
        if row.fresh:
            unit = randn_tensor(sample.shape, generator=generator, device=sample.device, dtype=sample.dtype)
        before, self._clean = self._clean, clean
        return StepOutput(row.onward(clean, unit, before))
