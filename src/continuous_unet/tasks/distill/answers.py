"""What a model says about noisy images, and the path of a teacher from noise to images.

A noisy image is `signal clean + noise unit_noise` in every process. A prediction says what the two parts are, and a
step to another noise level puts them together again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from continuous_unet.diffusion.guidance import Guidance
from continuous_unet.diffusion.process import Process
from continuous_unet.diffusion.table import make_rows
from continuous_unet.tasks.network import Network

Conditions = Mapping[str, Tensor]


class Parts(NamedTuple):
    """The two parts of noisy images, both `(B, C, H, W)`, float32."""

    clean: Tensor
    unit_noise: Tensor

    def at(self, process: Process, times: Tensor) -> Tensor:
        """Returns the noisy images at some times `(B,)`."""
        return process.add_noise(self.clean, self.unit_noise, times).x_t


def answer(
    model: Network,
    process: Process,
    x_t: Tensor,
    times: Tensor,
    conditions: Conditions,
    next_times: Tensor | None = None,
) -> Parts:
    """Returns the parts that a model sees in noisy images.

    Args:
        model: the U-Net.
        process: its noise process.
        x_t: noisy images `(B, C, H, W)`.
        times: their times `(B,)`.
        conditions: keyword arguments of the model's call.
        next_times: where each image goes from here, for models that are told it.
    """
    told = {} if next_times is None else {"next_timestep": next_times}
    prediction = model(x_t, times, **conditions, **told).sample.float()
    return Parts(process.to_clean(prediction, x_t, times), process.to_noise(prediction, x_t, times))


@dataclass(frozen=True)
class Teacher:
    """A teacher with the conditions of a batch; with guidance, each answer takes two evaluations of the model."""

    model: Network
    process: Process
    conditions: Conditions
    """What the images are asked for: keyword arguments of the model's call."""
    free: Conditions
    """The same arguments without a condition: a null class or an empty text, for classifier-free guidance."""
    guidance: float = 1.0
    """Guidance scale; 1 for no guidance."""

    @torch.no_grad()
    def answer(self, x_t: Tensor, times: Tensor) -> Parts:
        """Returns the parts that the teacher sees in noisy images `(B, C, H, W)`; see `answer`."""
        if self.guidance == 1:
            return answer(self.model, self.process, x_t, times, self.conditions)
        both = {name: torch.cat([self.free[name], asked]) for name, asked in self.conditions.items()}
        seen = answer(self.model, self.process, torch.cat([x_t, x_t]), torch.cat([times, times]), both)
        combine = Guidance(self.guidance).combine
        return Parts(combine(seen.clean), combine(seen.unit_noise))

    @torch.no_grad()
    def path(self, x_t: Tensor, levels: Sequence[float]) -> list[Tensor]:
        """Returns the states of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) at all levels but the first.

        Args:
            x_t: noisy images at the first level, `(B, C, H, W)`.
            levels: falling ratios of noise to signal; after the last the clean images follow.

        Returns:
            As many states `(B, C, H, W)` as there are levels, the clean images last.
        """
        times = self.process.time_at(torch.tensor(levels, dtype=torch.float64)).tolist()
        states: list[Tensor] = []
        before: Tensor | None = None
        for row in make_rows(self.process, times, order=2):
            clean, unit = self.answer(x_t, torch.full((len(x_t),), row.timestep).to(x_t))
            x_t = row.onward(clean, unit, before)
            before = clean
            states.append(x_t)
        return states
