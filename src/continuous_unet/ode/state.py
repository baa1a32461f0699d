"""The state of a second-order ODE."""

from typing import NamedTuple

from torch import Tensor


class State(NamedTuple):
    """Position and velocity, kept as a pair: never concatenated along channels, never flattened.

    Both have the same shape (any; for images `(B, C, H, W)`), floating dtype and device.
    """

    x: Tensor
    v: Tensor
