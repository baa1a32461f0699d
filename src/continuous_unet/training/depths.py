"""Measures what each number of solver steps is worth at each noise level, and derives a table for sampling from it."""

import math
from collections.abc import Mapping, Sequence

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.data.loading import HeldOut
from continuous_unet.tasks.base import Task
from continuous_unet.tasks.depths import AtDepth
from continuous_unet.tasks.facts import SolverStepFacts
from continuous_unet.tasks.network import Network
from continuous_unet.training.validation import measure_errors

BANDS = 8
"""The number of noise levels that are told apart; each is the same share of the timesteps."""
TOLERANCE = 0.01
"""The mean relative excess over the best loss that a table of solver steps accepts."""
MEASUREMENTS = 1024
"""The number of noisy images that each number of solver steps is measured on, at least."""


def losses_by_depth(
    task: Task,
    model: Network,
    dataset: HeldOut,
    depths: Sequence[int],
    *,
    seed: int,
    bands: int = BANDS,
    measurements: int = MEASUREMENTS,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
) -> dict[int, tuple[float, ...]]:
    """Returns the mean error on held-out images by number of solver steps and band of times, from least noise up.

    All numbers of solver steps see the same images with the same noise.

    Args:
        task: defines the error.
        model: a continuous U-Net, in evaluation mode.
        dataset: held-out images; each is used as many times as `measurements` needs.
        depths: the numbers of solver steps.
        seed: seed of the noise.
        bands: number of bands.
        measurements: the least number of noisy images.
        processes: the processes that share the images; this one alone if None.
        stop: asked before each batch.

    Raises:
        Stopped: if a process is asked to stop.
    """
    rounds = math.ceil(max(measurements, bands) / len(dataset))
    found = {}
    for depth in depths:
        at_depth = AtDepth(model, depth)
        errors = measure_errors(task, at_depth, dataset, seed=seed, rounds=rounds, processes=processes, stop=stop)
        band = (errors.times * bands / task.process.num_train_timesteps).long().clamp(0, bands - 1)
        found[depth] = tuple(float(errors.task[band == k].mean()) for k in range(bands))
    return found


def measure_depths(
    task: Task,
    model: Network,
    dataset: HeldOut,
    depths: Sequence[int],
    *,
    seed: int,
    tolerance: float = TOLERANCE,
    budget: float | None = None,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
) -> SolverStepFacts:
    """Returns the table of solver steps by noise level of a model; the arguments are those of the functions here.

    Raises:
        Stopped: if a process is asked to stop.
    """
    losses = losses_by_depth(task, model, dataset, depths, seed=seed, processes=processes, stop=stop)
    chosen = choose_depths(losses, tolerance=tolerance, budget=budget)
    timesteps = task.process.num_train_timesteps
    return SolverStepFacts(chosen, timesteps, tuple(losses), tuple(losses.values()))


def choose_depths(
    losses: Mapping[int, Sequence[float]], *, tolerance: float = TOLERANCE, budget: float | None = None
) -> tuple[int, ...]:
    """Returns a number of solver steps for each band of noise levels.

    Every band starts with the fewest steps. As long as the bands' losses exceed their best ones by more than
    `tolerance` in the mean, the band with the largest gain for each further solver step is raised. A gain is that of
    the loss's logarithm, which does not depend on what the model predicts (the noise, `v` or the image).

    Args:
        losses: loss of each band by number of solver steps, as from `losses_by_depth`.
        tolerance: the mean relative excess over the best loss that is accepted.
        budget: the largest mean number of solver steps; no limit if None.
    """
    depths = sorted(losses)
    bands = range(len(losses[depths[0]]))
    best = [min(losses[depth][band] for depth in depths) for band in bands]
    chosen = [depths[0] for _ in bands]

    def gain(band: int, depth: int) -> float:
        return math.log(losses[chosen[band]][band] / losses[depth][band]) / (depth - chosen[band])

    while sum(losses[chosen[band]][band] / best[band] - 1 for band in bands) / len(bands) > tolerance:
        left = math.inf if budget is None else budget * len(bands) - sum(chosen)
        raises = [
            (gain(band, depth), -band, depth)
            for band in bands
            for depth in depths
            if 0 < depth - chosen[band] <= left + 1e-9
        ]
        most, band, depth = max(raises, default=(0.0, 0, 0))
        if most <= 0:
            break
        chosen[-band] = depth
    return tuple(chosen)


def describe(facts: SolverStepFacts) -> str:
    """Returns a line about a table of solver steps."""
    steps, mean = " ".join(map(str, facts.steps)), sum(facts.steps) / len(facts.steps)
    return f"solver steps by noise level, from least noise up: {steps} ({mean:.2f} in the mean)"
