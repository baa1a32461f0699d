"""What a model says about noisy images, and the path of a teacher from noise to images.

A noisy image is `signal clean + noise unit_noise` in every process. A prediction says what the two parts are, and a
step to another noise level puts them together again.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from continuous_unet.diffusion.process import Process
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


@torch.no_grad()
def guided_answer(
    model: Network, process: Process, x_t: Tensor, times: Tensor, conditions: Conditions, scale: float
) -> Parts:
    """Returns the parts that a model sees with a guidance scale; see `answer`."""
    if scale == 1:
        return answer(model, process, x_t, times, conditions)
    labels = conditions["class_labels"]
    null = torch.full_like(labels, model.config.num_class_embeds - 1)  # type: ignore[operator]
    both = {"class_labels": torch.cat([null, labels])}
    seen = answer(model, process, torch.cat([x_t, x_t]), torch.cat([times, times]), both)
    (clean, with_clean), (noise, with_noise) = seen.clean.chunk(2), seen.unit_noise.chunk(2)
    return Parts(clean + scale * (with_clean - clean), noise + scale * (with_noise - noise))


@torch.no_grad()
def teacher_path(
    model: Network,
    process: Process,
    x_t: Tensor,
    levels: Sequence[float],
    conditions: Conditions,
    scale: float = 1.0,
) -> list[Tensor]:
    """Returns the states of DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) at all levels but the first.

    Args:
        model: the teacher.
        process: its noise process.
        x_t: its noisy images at the first level, `(B, C, H, W)`.
        levels: falling ratios of noise to signal; after the last the clean images follow.
        conditions: keyword arguments of the model's call.
        scale: guidance scale.

    Returns:
        As many states `(B, C, H, W)` as there are levels, the clean images last.
    """
    times = process.time_at(torch.tensor(levels, dtype=torch.float64)).tolist()
    parts = [*(process.coefficients(time) for time in times), (1.0, 0.0)]
    states: list[Tensor] = []
    before: tuple[Tensor, float] | None = None
    for k, time in enumerate(times):
        clean, _ = guided_answer(model, process, x_t, torch.full((len(x_t),), time).to(x_t), conditions, scale)
        (signal, noise), (next_signal, next_noise) = parts[k], parts[k + 1]
        ratio = next_noise / noise
        extrapolated = clean
        # the length of a step is that of the logarithm of the ratio of noise to signal
        length = (torch.tensor(signal * next_noise / (noise * next_signal)).log() * -1).item() if next_noise else None
        if before is not None and length:
            last, last_length = before
            extrapolated = clean + length / (2 * last_length) * (clean - last)
        before = (clean, length) if length else None
        x_t = ratio * x_t + (next_signal - signal * ratio) * extrapolated
        states.append(x_t)
    return states
