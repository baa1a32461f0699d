"""Classifier-free guidance: samples that show more clearly what was asked for (Ho and Salimans, arXiv 2207.12598).

A model that was trained with some conditions dropped predicts with and without a condition. Guidance follows the
difference further: `prediction = free + scale (asked - free)`. Both evaluations are one batch.
"""

from dataclasses import dataclass

from torch import Tensor

from continuous_unet.base.errors import InputError

LARGEST_SCALE = 1000.0


@dataclass(frozen=True)
class Guidance:
    """How strongly samples are guided, and where.

    Args:
        scale: 1 is no guidance, and one evaluation instead of two; 0 ignores the condition.
        interval: the part of the noise range with guidance, as fractions: 0 is no noise and 1 is only noise. Guidance
            at the noisiest steps costs diversity, and at the last steps it changes little (arXiv 2404.07724).

    Raises:
        InputError: for a scale outside of 0 to 1000, or an interval that is not two rising fractions in 0 to 1.
    """

    scale: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 <= self.scale <= LARGEST_SCALE:
            raise InputError(f"guidance_scale={self.scale:g} must be 0 to {LARGEST_SCALE:g}; 1 is without guidance")
        low, high = self.interval
        if not 0 <= low < high <= 1:
            raise InputError(f"guidance_interval={low:g}:{high:g} must lie in 0:1, in this order, such as 0.2:0.8")

    def applies(self, timestep: float, num_train_timesteps: int) -> bool:
        """Returns whether a timestep needs the second evaluation."""
        share = min(1.0, timestep / max(1, num_train_timesteps - 1))
        return self.scale != 1 and self.interval[0] <= share <= self.interval[1]

    def combine(self, both: Tensor) -> Tensor:
        """Returns the guided prediction `(B, ...)` from `(2B, ...)`: those without the conditions, then those with."""
        free, asked = both.chunk(2)
        return free + self.scale * (asked - free)
