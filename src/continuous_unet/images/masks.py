"""Reads masks as people draw them: black and white, 0 and 1, two colours, or transparency."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.images.decode import has_alpha, is_deep, normalise_mode, upright


def mask_of(image: Image.Image) -> Tensor:
    """Returns the pixels that a picture marks, bool `(1, H, W)`.

    The alpha channel counts if it is not the same everywhere: opaque is marked. Otherwise the brightness counts: of two
    values the brighter one is marked, of more those above the middle of the picture's type.

    Raises:
        InputError: for a picture that marks no pixel or every pixel.
        Unreadable: for values that are not finite.
    """
    image = upright(image)
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) if has_alpha(image) else np.zeros(1)
    if alpha.min() < alpha.max():
        values = alpha / 255
    elif is_deep(image):
        values = np.asarray(normalise_mode(image, 1))
    else:
        values = np.asarray(image.convert("RGB").convert("L")) / 255
    found = np.unique(values)
    marked = values == found[1] if len(found) == 2 else values > 0.5
    if marked.all() or not marked.any():
        raise InputError(
            f"the mask marks {'all' if marked.any() else 'none'} of its {marked.size} pixels; expected white (or "
            "opaque) where the image is to be filled, and black (or transparent) elsewhere"
        )
    return torch.from_numpy(marked)[None]
