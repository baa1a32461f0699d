"""Images in memory, as one array."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from continuous_unet.base.errors import InputError
from continuous_unet.data.report import DeepImages
from continuous_unet.data.sources.base import MOST_CLASSES, Source
from continuous_unet.images.decode import range_of_values


class ArraySource(Source):
    """Images in memory, as one array `(N, H, W)` or `(N, H, W, C)`."""

    alike = True

    def set_arrays(self, name: str, images: np.ndarray, labels: np.ndarray | None) -> None:
        """Takes images of uint8, of float in [0, 1] or [-1, 1], or of any type with a chosen range of values.

        Raises:
            InputError: for shapes, types, values or labels that cannot be used.
        """
        if images.ndim == 4 and images.shape[3] == 1:
            images = images[..., 0]
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in (3, 4)):
            raise InputError(f"{name} has the shape {images.shape}; expected (N, H, W) or (N, H, W, C), C = 1, 3 or 4")
        if 0 in images.shape[1:]:
            raise InputError(f"{name} has the shape {images.shape}: its images have no pixels")
        if labels is not None:
            if not np.issubdtype(labels.dtype, np.integer):
                raise InputError(f"{name} has labels of type {labels.dtype}; expected whole numbers")
            if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < MOST_CLASSES:
                raise InputError(
                    f"{name} has labels {labels.min()} to {labels.max()}; expected 0 to {MOST_CLASSES - 1}"
                )
            if labels.shape != (len(images),):
                raise InputError(f"{name} has {len(images)} images and labels of shape {labels.shape}; they must match")
            self.labels = [int(label) for label in labels]
        self.images = images if images.dtype == np.uint8 else self._scaled(name, images)
        self.names = [f"{name}[{i}]" for i in range(len(images))]

    def _scaled(self, name: str, images: np.ndarray) -> np.ndarray:
        """Returns values in [0, 1] as float32, or as uint8 where they are in colour, and records how they were read."""
        chosen = self.reading.value_range
        numbers = np.issubdtype(images.dtype, np.floating) or np.issubdtype(images.dtype, np.integer)
        if not np.issubdtype(images.dtype, np.floating) and not (numbers and chosen):
            raise InputError(f"{name}: images are {images.dtype}; expected uint8 or float, or a --value-range")
        low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
        black, white, _ = range_of_values("F", low, high)
        if chosen is None and white != 1:
            raise InputError(
                f"{name}: float images lie in [{low:g}, {high:g}]; expected [0, 1] or [-1, 1], or say which values are "
                f"black and white, for example --value-range {low:g}:{high:g}"
            )
        if not np.isfinite([low, high]).all():
            raise InputError(f"{name}: it has values that are not finite")
        black, white = chosen or (black, white)
        self.deep = [DeepImages("float", len(images), low, high, black, white)]
        scaled = np.clip((images.astype(np.float32) - black) / (white - black), 0, 1)
        return scaled if images.ndim == 3 else np.round(scaled * 255).astype(np.uint8)

    def load(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def keep(self, indices: Sequence[int]) -> None:
        super().keep(indices)
        self.images = self.images[list(indices)]
