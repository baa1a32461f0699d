"""Quality against the cost of a whole image, for each sampler and number of sampling steps that was measured."""

from collections.abc import Sequence
from dataclasses import dataclass

from continuous_unet.comparison.results import Comparison


@dataclass(frozen=True)
class TradeoffPoint:
    """One way to make images with one side."""

    side: str
    scheduler: str
    sampling_steps: int
    parameters: int
    macs_per_image: int
    runtime: str
    """The runtime with the least time per evaluation that was timed."""
    seconds_per_image: float
    """Sampling steps times the time per evaluation in that runtime."""
    num_samples: int
    fid: float
    fid_above_floor: float
    """The FID minus that of as many other real images; it is below 0 by chance alone."""


def quality_and_cost(comparison: Comparison) -> list[TradeoffPoint]:
    """Returns the points of the quality curves and of the main distances (first seed), by side."""
    points: list[TradeoffPoint] = []
    scale = comparison.scale
    if scale is None:
        return points
    for side, trained in comparison.trained():
        times = side.seconds_per_evaluation(comparison.config.sampling_steps)
        runtime = min(times, key=times.__getitem__)
        main = [(found, scale.floor) for found in trained.distances[:1]]
        curves = [(found, scale.curve_floor) for found in trained.sampling]
        for found, floor in [*main, *curves]:
            if floor is not None:  # comparisons of earlier versions have none for their curves
                point = TradeoffPoint(
                    side.name,
                    found.scheduler,
                    found.steps,
                    side.cost.num_parameters,
                    side.cost.macs * found.steps,
                    runtime,
                    times[runtime] * found.steps,
                    found.num_images or 0,
                    found.fid,
                    found.fid - floor.fid,
                )
                points.append(point)
    return points


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the points `(cost, distance)` that no other point beats in both, by rising cost."""
    best: list[tuple[float, float]] = []
    for cost, distance in sorted(set(points)):
        if not best or distance < best[-1][1]:
            best.append((cost, distance))
    return best
