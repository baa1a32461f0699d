"""Makes the tensor that a model sees from a decoded image."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image

from continuous_unet.images.decode import fit_image, normalise_mode, to_array


def deep_type(image: Image.Image) -> str | None:
    """Returns `"I;16"`, `"I"` or `"F"` for high-depth grey images, None for all others."""
    return "I;16" if image.mode.startswith("I;16") else image.mode if image.mode in ("I", "F") else None


@dataclass(frozen=True)
class Preparation:
    """How images get the size, the channels and the values that a model takes."""

    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int
    """1 (grey), 3 (RGB) or 4 (RGBA)."""
    fit: str = "crop"
    """How images get their size; see `decode.fit_image`."""
    random_flip: bool = False
    random_crop: bool = False
    values: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Black and white of high-depth images, by `deep_type`."""

    def __call__(self, image: Image.Image, seed: int) -> torch.Tensor:
        """Returns float32 `(C, H, W)` in [-1, 1]; the crop and the flip are drawn from the seed alone."""
        x, y, flip = np.random.default_rng(seed).random(3)
        values = to_array(self.fitted(image, (x, y) if self.random_crop else (0.5, 0.5)), self.channels)
        if self.random_flip and flip < 0.5:
            values = np.ascontiguousarray(values[:, :, ::-1])
        return torch.from_numpy(values)

    def fitted(self, image: Image.Image, offset: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
        """Returns an image with the mode and the size that the model takes, cropped at a place (see `fit_image`)."""
        kind = deep_type(image)
        image = normalise_mode(image, self.channels, None if kind is None else self.values.get(kind))
        return fit_image(image, self.size, self.fit, offset)

    def mirrors(self, seed: int) -> bool:
        """Returns whether an image with this seed is mirrored."""
        return bool(self.random_flip and np.random.default_rng(seed).random(3)[2] < 0.5)
