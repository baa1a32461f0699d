"""How the values of robots become numbers in [-1, 1], and back."""

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from torch import Tensor

Values = TypeVar("Values", np.ndarray, Tensor)
LEAST_RANGE = 1e-6
"""A number counts as constant if its range is at most this times the larger of 1 and its largest magnitude."""


@dataclass(frozen=True)
class Scaling:
    """The smallest and largest value of each of D numbers, which become -1 and 1; a constant number becomes 0."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.low) != len(self.high) or any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low and high must be limits of the same numbers, the lower ones first")

    @staticmethod
    def of(values: np.ndarray) -> "Scaling":
        """Returns the scaling of values `(N, D)`."""
        return Scaling(*(tuple(limit.astype(float).tolist()) for limit in (values.min(axis=0), values.max(axis=0))))

    def __len__(self) -> int:
        return len(self.low)

    def __add__(self, other: "Scaling") -> "Scaling":
        """Returns the scaling of both kinds of values side by side."""
        return Scaling(self.low + other.low, self.high + other.high)

    @property
    def centre(self) -> np.ndarray:
        """What becomes 0, `(D,)`, float32."""
        return ((np.array(self.low) + np.array(self.high)) / 2).astype(np.float32)

    @property
    def width(self) -> np.ndarray:
        """Half the range of each number, which becomes 1; 1 for a constant number. `(D,)`, float32."""
        low, high = np.array(self.low), np.array(self.high)
        constant = high - low <= LEAST_RANGE * np.maximum(1, np.maximum(np.abs(low), np.abs(high)))
        return np.where(constant, 1.0, (high - low) / 2).astype(np.float32)

    def normalise(self, values: Values) -> Values:
        """Returns values `(..., D)` as the model sees them."""
        centre, width = self._like(values)
        return (values - centre) / width

    def restore(self, values: Values) -> Values:
        """Returns what the model sees, `(..., D)`, in the units of the data."""
        centre, width = self._like(values)
        return values * width + centre

    def _like(self, values: Values) -> tuple[Values, Values]:
        if isinstance(values, Tensor):
            return values.new_tensor(self.centre), values.new_tensor(self.width)
        return self.centre, self.width
