"""Finds the best few sampling times of a trained model, and the order of the steps between them.

Sample paths are computed with many small steps. From every state on a path, one evaluation tells where a single long
step to any later time would end, and how far this is from the path. The times with the least total error follow by
dynamic programming (after GITS, arXiv 2405.11326). It is not known how far an error of an early step grows until the
end. So several weights are tried, and also times whose noise levels follow a power law (Karras et al. 2022, arXiv
2206.00364), each with steps of first and of second order. Those are kept whose images are nearest to the ends of the
paths.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from continuous_unet.diffusion.levels import NoiseRange
from continuous_unet.diffusion.process import Process
from continuous_unet.diffusion.table import Row, TableSampler, make_rows

EVEN_TIMES = 40
"""Number of the fine times that are spread evenly in time. As many again are spread evenly in the logarithm of the
ratio of noise to signal, where the last steps are."""
LEAST_RATIO, LARGEST_RATIO = 0.01, 80.0
"""The ratios of noise to signal that the second half of the fine times covers."""
SPREADS = (0.25, 0.5, math.inf)
"""Standard deviations of the data that the weights of errors assume; infinity weights the errors of all times alike."""
POWERS = (1, 2)
"""The powers of the errors that are summed."""
MID_LEVELS = (0.8, 1.2, 1.8, 2.6, 3.8)
"""The ratios of noise to signal halfway, for times whose noise levels follow a power law."""
FIRST_IMAGES, FINALISTS = 16, 4
"""All choices are tried on the first 16 images, and the best 4 of them on all images."""

Predict = Callable[[Tensor, Tensor], Tensor]
"""`predict(x, timestep) -> prediction` for images `(B, C, H, W)` and one time, 0-d."""
Predictors = Callable[[Sequence[float], range], Predict]
"""Returns the predictions of the images of some numbers at some times, and no others."""


@dataclass(frozen=True)
class Searched:
    """The best times for one number of sampling steps."""

    times: tuple[float, ...]
    order: int
    """1, or 2 if the steps are of second order (`make_rows`)."""
    error: float
    """Root mean square distance of the images from those of many small steps, in [-1, 1]."""
    even_error: float
    """The same for times that are spread evenly, with steps of first order."""


def fine_times(process: Process) -> list[float]:
    """Returns the times to choose from, in falling order; the first is the process's last time."""
    signal, noise = process.coefficients(process.last_time)
    largest = min(LARGEST_RATIO, noise / signal) if signal else LARGEST_RATIO
    logs = torch.linspace(math.log(largest), math.log(LEAST_RATIO), EVEN_TIMES, dtype=torch.float64)
    candidates = [*process.sampling_times(EVEN_TIMES), *process.time_at(logs.exp()).tolist(), process.last_time]
    times = sorted((round(time, 3) for time in candidates if time > 0), reverse=True)
    least_gap = process.last_time / 2000
    kept = [float(process.last_time)]
    kept.extend(time for before, time in pairwise(times) if before - time >= least_gap or time < 10 * least_gap)
    return sorted(set(kept), reverse=True)


def search_times(
    process: Process, predictors: Predictors, noise: Sequence[tuple[range, Tensor]], numbers: Sequence[int]
) -> list[Searched]:
    """Returns the best times for some numbers of sampling steps.

    Args:
        process: the process that the model was trained with.
        predictors: makes the model's predictions, for example with guidance.
        noise: batches of the noise that paths start from, `(B, C, H, W)`, with the numbers of their images.
        numbers: numbers of sampling steps, each less than the number of `fine_times`.
    """
    times = fine_times(process)
    rows = make_rows(process, times, order=2)
    costs = torch.zeros(len(SPREADS), len(POWERS), len(rows), len(rows) + 1, dtype=torch.float64)
    ends: list[Tensor] = []
    for images, start in noise:
        ends.append(_follow(process, rows, predictors(times, images), start, costs))
    few, room = [], FIRST_IMAGES
    for images, start in noise:
        if room > 0:
            few.append((images[:room], start[:room]))
            room -= len(images)
    found = []
    for number in numbers:
        even = tuple(process.sampling_times(number))
        spreads = {even, *_power_times(process, number)}
        for cost in costs.flatten(0, 1):
            spreads.add(tuple(times[k] for k in shortest_path(cost, number)))
        choices = [(spread, order) for spread in sorted(spreads) for order in _orders(process, spread)]
        at_first = {choice: _distance(process, predictors, few, ends, *choice) for choice in choices}
        finalists = {*sorted(choices, key=lambda choice: at_first[choice])[:FINALISTS], (even, 1)}
        errors = {choice: _distance(process, predictors, noise, ends, *choice) for choice in sorted(finalists)}
        best = min(errors, key=lambda choice: errors[choice])
        found.append(Searched(*best, errors[best], errors[even, 1]))
    return found


def _orders(process: Process, times: Sequence[float]) -> tuple[int, ...]:
    """Returns the orders that steps between these times can have; with few of them there is nothing to correct."""
    return (1, 2) if any(row.correction for row in make_rows(process, times, order=2)) else (1,)


def _power_times(process: Process, number: int) -> list[tuple[float, ...]]:
    """Returns times whose noise levels follow a power law, from the process's last time, for each of `MID_LEVELS`."""
    levels = (NoiseRange.of(process).levels(number, mid)[1:] for mid in MID_LEVELS)
    inner = (process.time_at(torch.tensor(each, dtype=torch.float64)).tolist() for each in levels)
    return [(float(process.last_time), *(round(time, 3) for time in each)) for each in inner]


def shortest_path(costs: Tensor, number: int) -> list[int]:
    """Returns the indices of the steps' beginnings, from 0, of the cheapest path of `number` steps to the last index.

    Args:
        costs: `(M, M + 1)`, the cost of a step from one index to a later one.
        number: number of steps, 1 to M.
    """
    size = costs.shape[0]
    forward = torch.ones(size, size + 1, dtype=torch.bool).triu(1)
    allowed = costs.masked_fill(~forward, math.inf)
    least = torch.full((size + 1,), math.inf, dtype=costs.dtype)
    least[0] = 0
    before: list[Tensor] = []
    for _ in range(number):
        least, chosen = (least[:size, None] + allowed).min(dim=0)
        before.append(chosen)
    path = [size]
    for chosen in reversed(before):
        path.append(int(chosen[path[-1]]))
    return path[:0:-1]


def _follow(process: Process, rows: list[Row], predict: Predict, x: Tensor, costs: Tensor) -> Tensor:
    """Follows the paths of a batch, adds the errors of all single steps to `costs`, and returns the paths' ends.

    The paths are those of DPM-Solver++(2M), whose second order needs no further evaluations.
    """
    states: list[Tensor] = [x]
    parts: list[tuple[Tensor, Tensor]] = []
    for row in rows:
        prediction = predict(x, torch.tensor(row.timestep, device=x.device))
        clean, unit = row.parts(process, x, prediction)
        x = row.onward(clean, unit, parts[-1][0] if parts else None)
        parts.append((clean, unit))
        states.append(x)
    path = torch.stack(states[1:])
    levels = torch.tensor([[row.next_signal, row.next_noise] for row in rows], device=x.device)
    for i, (clean, unit) in enumerate(parts):
        signal, noise = (level[:, None, None, None, None] for level in levels[i:].unbind(1))
        ends = signal * clean + noise * unit
        errors = (ends - path[i:]).flatten(2).square().mean(dim=2).sqrt().double().cpu()
        for s, spread in enumerate(SPREADS):
            # a difference of states at this noise is so much smaller at the end, if the data are normal
            weights = [
                1.0 if spread == math.inf else spread / math.hypot(a * spread, b) for a, b in levels[i:].tolist()
            ]
            weighted = errors * torch.tensor(weights, dtype=torch.float64)[:, None]
            for p, power in enumerate(POWERS):
                costs[s, p, i, i + 1 :] += weighted.pow(power).sum(dim=1)
    return x


def _distance(
    process: Process,
    predictors: Predictors,
    noise: Sequence[tuple[range, Tensor]],
    ends: Sequence[Tensor],
    times: Sequence[float],
    order: int,
) -> float:
    """Returns how far the images of these times are from the ends of the paths, as root mean square."""
    squares, count = 0.0, 0
    sampler = TableSampler(process, {len(times): make_rows(process, times, order=order)})
    for (images, x), end in zip(noise, ends, strict=False):  # of all images, or of the first ones
        predict = predictors(times, images)
        sampler.set_timesteps(len(times), x.device)
        for time in sampler.timesteps:
            x = sampler.step(predict(x, time), time, x).prev_sample
        squares += float((x - end[: len(x)]).double().square().sum())
        count += x.numel()
    return math.sqrt(squares / count)
