"""The losses of the three methods of distillation.

Their random numbers follow from the seed, the position of an image in the data, and the number of the training step.
So a resumed run draws what it would have drawn.
"""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from continuous_unet.diffusion.draws import Stream, normal, uniform
from continuous_unet.diffusion.levels import NoiseRange
from continuous_unet.tasks.base import StepContext
from continuous_unet.tasks.distill.answers import Parts, Teacher, answer
from continuous_unet.tasks.distill.options import DistillTraining

LOG_LEVEL_MEAN, LOG_LEVEL_STD = -1.1, 2.0
"""Mean and standard deviation of the logarithm of the noise level in ect (Geng et al. 2024, arXiv 2406.14548)."""
HUBER = 0.00054
"""Pseudo-Huber loss of ect (Song and Dhariwal 2023, arXiv 2310.14189): differences whose root mean square over an image
is below this count by their square, and larger ones by their norm."""
FEWEST_TEACHER_STEPS, REFINEMENT = 8, 4
"""The teacher's steps in sfd: at least the first number in all, and at least the second for each student step."""
SAME_TIME = TO_THE_END = 0.25
"""The fractions of the images for which meanflow learns the velocity itself, and a step to the clean image."""
MEANFLOW_POWER, MEANFLOW_OFFSET = 0.75, 1e-3
"""Weights of meanflow: `1 / (error + offset)^power` (Geng et al. 2025, arXiv 2505.13447, section 4.3)."""


@dataclass(frozen=True)
class Lesson:
    """What a method has for one batch of B images."""

    step: StepContext
    teacher: Teacher
    options: DistillTraining
    seed: int
    range: NoiseRange

    def times(self, levels: Tensor) -> Tensor:
        """Returns the times `(B,)` of some ratios of noise to signal `(B,)`."""
        return self.step.process.time_at(levels)

    def see(self, x_t: Tensor, times: Tensor, next_times: Tensor | None = None) -> Parts:
        """Returns the parts that the student sees in noisy images `(B, C, H, W)`."""
        told = next_times if self.options.needs_jumps else None
        return answer(self.step.model, self.step.process, x_t, times, self.step.conditions, told)

    def direction(self, x_t: Tensor, times: Tensor) -> Parts:
        """Returns the parts that lead along the path from noisy images `(B, C, H, W)` to less noise.

        They are those that the images were made of, which are right on average; or a guided teacher's answer.
        """
        if self.teacher.guidance == 1:
            return Parts(self.step.clean, self.step.noise)
        return self.teacher.answer(x_t, times)


def ect(lesson: Lesson) -> Tensor:
    """Consistency tuning (arXiv 2406.14548): the clean images at two neighbouring noise levels of a path must agree.

    Returns:
        The loss of each image, `(B,)`.
    """
    step, process, low = lesson.step, lesson.step.process, lesson.range.low
    draws = normal(lesson.seed, Stream.DISTILLATION, step.positions, (1,), step.clean.device)[:, 0]
    levels = (LOG_LEVEL_MEAN + LOG_LEVEL_STD * draws).exp().clamp(low, lesson.range.high)
    lower = levels * (1 - (1 + 8 * torch.sigmoid(-levels)) / lesson.options.q)
    times = lesson.times(levels)
    x_t = Parts(step.clean, step.noise).at(process, times)
    with torch.no_grad():
        direction = lesson.direction(x_t, times)
        lower_times = lesson.times(lower.clamp(min=low))
        with same_dropout(step.clean.device):
            target = lesson.see(direction.at(process, lower_times), lower_times).clean
        target = torch.where(per_image(lower < low), direction.clean, target)
    difference = (lesson.see(x_t, times).clean - target).flatten(1)
    offset = HUBER * math.sqrt(difference.shape[1])
    return ((difference.square().sum(dim=1) + offset**2).sqrt() - offset) / (levels - lower)


def sfd(lesson: Lesson) -> Tensor:
    """Simple and fast distillation (arXiv 2409.19681): each long step must end in the teacher's state at its end.

    All steps of a path are learned at once, each from the state that the student has reached by itself.

    Returns:
        The loss of each image, `(B,)`.
    """
    step, process, options = lesson.step, lesson.step.process, lesson.options
    numbers = options.numbers
    chosen = int(uniform(lesson.seed, Stream.DISTILLATION_STEPS, [step.step])[0] * len(numbers))
    count = numbers[chosen]
    parts = max(REFINEMENT, math.ceil(FEWEST_TEACHER_STEPS / count))
    path = lesson.range.levels(count * parts, options.mid_noise)
    goals = lesson.teacher.path(step.noise, path)[parts - 1 :: parts]
    times = [lesson.times(torch.full_like(step.clean[:, 0, 0, 0], level)) for level in path[::parts]]
    x_t, losses = step.noise, list[Tensor]()
    for k, goal in enumerate(goals):
        last = k == count - 1
        seen = lesson.see(x_t, times[k], torch.zeros_like(times[k]) if last else times[k + 1])
        reached = seen.clean if last else seen.at(process, times[k + 1])
        signal = 1.0 if last else process.coefficients(float(times[k + 1][0]))[0]
        losses.append((reached - goal).abs().flatten(1).mean(dim=1) / signal)
        x_t = reached.detach()
    return torch.stack(losses).mean(dim=0)


def meanflow(lesson: Lesson) -> Tensor:
    """A discrete form of MeanFlow (arXiv 2505.13447), which learns the mean velocity of a long step.

    The target joins the velocity of the first part of the step and what the student itself predicts for the rest.

    The times of flow matching serve every process: at `t` the ratio of noise to signal is `t / (1 - t)`, and the
    velocity is the unit noise minus the clean image. A step of DDIM is then a step along the velocity.

    Returns:
        The loss of each image, `(B,)`.
    """
    step, process, options = lesson.step, lesson.step.process, lesson.options
    draws = normal(lesson.seed, Stream.DISTILLATION, step.positions, (3,), step.clean.device)
    shares = torch.special.ndtr(draws)
    low, high = (level / (1 + level) for level in (lesson.range.low, lesson.range.high))
    start = low + (high - low) * shares[:, :2].amax(dim=1)
    end = low + (high - low) * shares[:, :2].amin(dim=1)
    to_the_end, same = shares[:, 2] > 1 - TO_THE_END, shares[:, 2] < SAME_TIME
    end = torch.where(same, start, torch.where(to_the_end, torch.zeros_like(end), end))
    between = (start - (start - end) / options.m).clamp(min=low)

    times, between_times, end_times = (lesson.times(t / (1 - t)) for t in (start, between, end))
    end_times = torch.where(end > 0, end_times, torch.zeros_like(end_times))
    x_t = Parts(step.clean, step.noise).at(process, times)
    with torch.no_grad():
        direction = lesson.direction(x_t, times)
        with same_dropout(step.clean.device):
            rest = lesson.see(direction.at(process, between_times), between_times, end_times)
        share = per_image(torch.where(same, 1.0, 1 / options.m))
        target = share * _velocity(direction) + (1 - share) * _velocity(rest)
    error = (_velocity(lesson.see(x_t, times, end_times)) - target).flatten(1).square().sum(dim=1)
    return error / (error.detach() + MEANFLOW_OFFSET) ** MEANFLOW_POWER


METHODS: dict[str, Callable[[Lesson], Tensor]] = {"ect": ect, "sfd": sfd, "meanflow": meanflow}


def same_dropout(device: torch.device) -> AbstractContextManager[None]:
    """Returns a context after which dropout draws again what it drew inside."""
    context: AbstractContextManager[None] = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    return context


def per_image(values: Tensor) -> Tensor:
    """Returns `(B,)` as `(B, 1, 1, 1)`."""
    return values[:, None, None, None]


def _velocity(parts: Parts) -> Tensor:
    return parts.unit_noise - parts.clean
