"""What the restoration pipelines share: images in and out, channels that do not match, finite values, saved options."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.images.decode import to_array
from continuous_unet.images.grids import to_pil
from continuous_unet.images.tiling import Tiles, in_tiles
from continuous_unet.models import size_multiple

Images = Image.Image | Tensor | list
OUTPUT_TYPES = ("pil", "np", "pt")
LUMA = (0.299, 0.587, 0.114)
"""Of red, green and blue, ITU-R BT.601."""


class RestorationPipeline(DiffusionPipeline):
    """Base of the pipelines that make a better image of an image.

    Saved by `save_pretrained` as every diffusers pipeline is: `model_index.json` and a folder for each part. Load by
    `from_pretrained` of the class, or by `continuous_unet.tasks.loading.load_restorer`, which checks the files first.
    """

    model_cpu_offload_seq = "unet"
    task: str
    """The word of the command line."""
    unet: Any
    scheduler: Any

    @property
    def channels(self) -> int:
        """Of the images that the model was made for: 1 or 3."""
        return self.unet.config.out_channels

    def predict(
        self,
        state: Tensor,
        timestep: Tensor | float | int,
        tiles: Tiles | None,
        before_tile: Callable[[], None] = lambda: None,
    ) -> Tensor:
        """One evaluation of the network on an input `(B, C, H, W)` of any size, in tiles; float32."""

        def evaluate(tile: Tensor) -> Tensor:
            return evaluated(self.unet, tile, timestep)

        bands = in_tiles(evaluate, state, multiple=size_multiple(self.unet), tiles=tiles, before_tile=before_tile)
        return torch.cat(list(bands), dim=2)


def evaluated(unet: Any, sample: Tensor, timestep: Tensor | float | int) -> Tensor:
    """The U-Net's output in float32, whatever the precision of its weights."""
    return unet(sample.to(unet.dtype), timestep).sample.float()


def checked(image: Tensor) -> Tensor:
    """The same, if it is finite.

    Raises:
        InputError: otherwise; it would become black pixels, silently.
    """
    if not bool(image.isfinite().all()):
        raise InputError("the model made values that are not finite; its weights are spoilt, or need another --dtype")
    return image


def as_tensors(images: Images, device: torch.device) -> list[Tensor]:
    """Images to tensors `(C, H, W)` in [0, 1], C = 1 or 3.

    Args:
        images: a PIL image (grey or RGB; others are converted), a tensor `(C, H, W)` or `(B, C, H, W)` in [0, 1]
            (values beyond are kept: noise is not clipped), or a list of those.
        device: where to put them.

    Raises:
        InputError: for anything else.
    """
    if isinstance(images, list):
        return [tensor for image in images for tensor in as_tensors(image, device)]
    if isinstance(images, Image.Image):
        grey = images.mode in ("1", "L")
        array = to_array(images.convert("L" if grey else "RGB"), 1 if grey else 3)
        return [torch.from_numpy(array / 2 + 0.5).to(device)]
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-3] not in (1, 3):
        what = tuple(images.shape) if isinstance(images, (Tensor, np.ndarray)) else type(images).__name__
        raise InputError(f"image is {what}; expected a PIL image, a tensor (C, H, W) or (B, C, H, W) with C = 1 or 3")
    if not images.numel() or not bool(images.isfinite().all()):
        raise InputError("image has no pixels, or values that are not finite")
    tensors = list(images) if images.ndim == 4 else [images]
    return [tensor.to(device=device, dtype=torch.float32) for tensor in tensors]


def as_output(images: list[Tensor], output_type: str) -> Any:
    """Tensors `(C, H, W)` to what was asked for, clipped to [0, 1]: PIL images, arrays `(H, W, C)`, or tensors.

    Arrays and tensors of one size are stacked, as every pipeline of diffusers gives them; others come as a list.
    """
    images = [image.clamp(0, 1) for image in images]
    if output_type == "pil":
        return [to_pil(image[None])[0] for image in images]
    one_size = len({image.shape for image in images}) == 1
    if output_type == "np":
        arrays = [image.cpu().permute(1, 2, 0).numpy() for image in images]
        return np.stack(arrays) if one_size else arrays
    return torch.stack(images) if one_size else images


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Refuse another word than those allowed."""
    if value not in allowed:
        raise InputError(f"{name}={value!r} is unknown; expected {' or '.join(map(repr, allowed))}")


def whole(bands: Iterator[Tensor]) -> Tensor:
    """Bands `(C, rows, W)` to one image."""
    return checked(torch.cat(list(bands), dim=1))


def to_model_channels(images: Tensor, channels: int) -> Tensor:
    """`(1, C, H, W)` to what a model of so many channels takes: channels one by one as a batch, or grey repeated."""
    if channels == 1:
        return images.transpose(0, 1)
    return images.expand(-1, channels, -1, -1)


def from_model_channels(images: Tensor, channels: int) -> Tensor:
    """Undo `to_model_channels` for an image of so many channels; the mean, where grey had been repeated."""
    if images.shape[1] == 1:
        return images.transpose(0, 1)
    return images if channels == images.shape[1] else images.mean(dim=1, keepdim=True)
