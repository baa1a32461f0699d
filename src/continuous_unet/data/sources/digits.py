"""The built-in set `digits`."""

import numpy as np

from continuous_unet.base.packages import import_extra
from continuous_unet.data.sources.arrays import ArraySource


class DigitsSource(ArraySource):
    """The 1,797 handwritten digits that scikit-learn ships, 8x8 grey: real images that need no network.

    Test set of "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998, UCI).
    """

    kind = "digits"

    @classmethod
    def matches(cls, source: str) -> bool:
        return source == "digits"

    def open(self, source: str) -> None:
        digits = import_extra("sklearn.datasets", "the data set 'digits' needs scikit-learn", "digits").load_digits()
        self.set_arrays("digits", (digits.images / 16).astype(np.float32), digits.target)
        self.class_names = [str(d) for d in range(10)]
