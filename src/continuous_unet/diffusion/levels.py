"""The noise levels of few evaluations, as ratios of noise to signal."""

from dataclasses import dataclass

import torch

from continuous_unet.diffusion.process import Process

LOWEST, HIGHEST = 0.01, 80.0
"""Below the lowest ratio an image is clean to the eye, and above the highest it is noise."""
HIGHEST_EPSILON = 20.0
"""The highest ratio for models that predict noise: the image that follows from it has its error times this ratio."""


@dataclass(frozen=True)
class NoiseRange:
    """The noise levels of a process that matter for few evaluations."""

    low: float
    high: float

    @staticmethod
    def of(process: Process) -> "NoiseRange":
        """Returns the part of the range of a process that matters."""
        times = process.time_at(torch.tensor([0.0, 1e9], dtype=torch.float64))  # its first and last
        (_, _), (signal, noise) = (process.coefficients(float(time)) for time in times)
        first = process.coefficients(float(times[0]))
        highest = HIGHEST_EPSILON if process.prediction_type == "epsilon" else HIGHEST
        high = highest if noise >= highest * signal else noise / signal
        return NoiseRange(max(LOWEST, first[1] / first[0]), high)

    def levels(self, count: int, mid: float) -> list[float]:
        """Returns falling levels: the first is the highest, and after the last comes the clean image.

        Some power of the levels falls evenly, as in Karras et al. 2022 (arXiv 2206.00364, eq. 5). The power is the one
        for which the level halfway is `mid`.

        Args:
            count: number of levels.
            mid: the second of two levels.
        """
        power = self._power(mid)
        return [self._between(k / count, power) for k in range(count)]

    def _between(self, share: float, power: float) -> float:
        if abs(power) < 1e-6:
            return float(self.high ** (1 - share) * self.low**share)
        return float(((1 - share) * self.high**power + share * self.low**power) ** (1 / power))

    def _power(self, mid: float) -> float:
        below, above = -8.0, 8.0
        for _ in range(60):
            middle = (below + above) / 2
            below, above = (below, middle) if self._between(0.5, middle) > mid else (middle, above)
        return (below + above) / 2
