"""The two ranges of pixel values: files, pipelines and people use [0, 1]; models work on [-1, 1]."""

from typing import TypeVar

import numpy as np
from torch import Tensor

Values = TypeVar("Values", Tensor, np.ndarray)


def to_model_range(images: Values) -> Values:
    """Maps [0, 1] to [-1, 1]."""
    return images * 2 - 1


def to_unit_range(images: Values) -> Values:
    """Maps [-1, 1] to [0, 1]."""
    return images / 2 + 0.5
