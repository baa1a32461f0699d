"""Starting from a picture instead of pure noise: SDEdit (Meng et al., arXiv 2108.01073), diffusers' image to image.

The picture gets as much noise as there is at a later sampling step, and sampling goes on from there. What the noise
hides is made anew: the shapes at a high strength, only the details at a low one.
"""

import math
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.images.ranges import to_model_range
from continuous_unet.images.resampling import cover
from continuous_unet.tasks.restoration import as_tensors, to_channels

Pictures = Image.Image | np.ndarray | Tensor | list[Any]
"""One picture or several, see `as_pictures`."""


def as_pictures(image: Pictures, shape: tuple[int, int, int, int], device: torch.device) -> Tensor:
    """Returns pictures as a model takes them, in [-1, 1].

    Each picture is scaled until it just covers the model's size, and its middle is cut out. A model of grey images gets
    the luma of a colour picture.

    Args:
        image: a PIL image, an array `(H, W)`, `(H, W, C)` or `(B, H, W, C)`, a tensor `(C, H, W)` or `(B, C, H, W)`, or
            a list of them, in the ranges that `as_tensors` takes.
        shape: the shape `(B, C, H, W)` of the images that are made; there is one picture for all, or one for each.
        device: where to put them.

    Raises:
        InputError: for pictures that cannot be used, or another number of them.
    """
    count, channels, height, width = shape
    if channels not in (1, 3):
        raise InputError(
            f"the model's images have {channels} channels; sampling starts from an image of grey or RGB only"
        )
    found = as_tensors(_without_arrays(image), device)
    pictures = [cover(to_channels(picture[None], channels), height, width) for picture in found]
    if len(pictures) not in (1, count):
        raise InputError(f"{len(pictures)} images were given to start from, for {count} results; give one, or one each")
    return to_model_range(torch.cat(pictures).expand(count, -1, -1, -1).clamp(0, 1))


def _without_arrays(image: Pictures) -> Any:
    """Returns pictures with arrays, whose last axis is that of the colours, as tensors."""
    if isinstance(image, list):
        return [_without_arrays(one) for one in image]
    if not isinstance(image, np.ndarray):
        return image
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim not in (3, 4):
        raise InputError(f"image is an array of shape {image.shape}; expected (H, W), (H, W, C) or (B, H, W, C)")
    return torch.from_numpy(np.ascontiguousarray(array)).movedim(-1, -3)


def steps_to_take(num_inference_steps: int, strength: float) -> int:
    """Returns the number of sampling steps that are left for a strength: their product, rounded down.

    Raises:
        InputError: for a strength that is not in (0, 1], or that leaves no step.
    """
    if not 0 < strength <= 1:
        raise InputError(f"strength={strength:g} must be above 0 and at most 1")
    left = math.floor(num_inference_steps * strength + 1e-9)  # 0.29 * 100 is less than 29 in floating point
    if left == 0:
        fewest = math.ceil(1 / strength - 1e-9)
        raise InputError(
            f"strength={strength:g} of {num_inference_steps} sampling steps is less than one step; take a higher "
            f"strength, or at least {fewest} steps"
        )
    return left


def start(
    scheduler: Any, noise: Tensor, num_inference_steps: int, pictures: Tensor | None = None, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Returns the state that sampling starts from, `(B, C, H, W)`, and the timesteps of the steps to take.

    Args:
        scheduler: the sampler, after its `set_timesteps`.
        noise: standard normal noise of that shape.
        num_inference_steps: number of sampling steps from pure noise.
        pictures: what `as_pictures` gives; None to start from pure noise.
        strength: the fraction of the sampling steps that are taken, the last ones, above 0. At 1, nothing of the
            pictures is left, and the result is that without pictures.

    Raises:
        InputError: as `steps_to_take`, and for a scheduler that cannot start in between.
    """
    left = num_inference_steps if pictures is None else steps_to_take(num_inference_steps, strength)
    if pictures is None or left == num_inference_steps:
        # flow matching schedulers of diffusers start from plain noise
        return noise * getattr(scheduler, "init_noise_sigma", 1.0), scheduler.timesteps
    first = (num_inference_steps - left) * getattr(scheduler, "order", 1)
    timesteps = scheduler.timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(first)
    begin = timesteps[:1].expand(len(noise))
    if hasattr(scheduler, "scale_noise"):  # flow matching
        return scheduler.scale_noise(pictures, begin, noise), timesteps
    if hasattr(scheduler, "add_noise"):
        return scheduler.add_noise(pictures, noise, begin), timesteps
    raise InputError(f"{type(scheduler).__name__} cannot start from an image; choose another scheduler")
