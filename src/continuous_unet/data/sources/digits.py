"""The built-in set `digits`."""

import numpy as np

from continuous_unet.base.errors import InputError
from continuous_unet.data.sources.arrays import ArraySource
from continuous_unet.data.sources.base import Reading


class DigitsSource(ArraySource):
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 grey: real images that need no network.

    Test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI).
    """

    kind = "digits"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "digits"

    def __init__(self, source: str, reading: Reading) -> None:
        super().__init__(source, reading)
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise InputError(
                "the data set 'digits' needs scikit-learn: pip install 'continuous-unet[digits]'"
            ) from error
        digits = load_digits()
        self.set_arrays("digits", (digits.images / 16).astype(np.float32), digits.target)
        self.class_names = [str(d) for d in range(10)]
