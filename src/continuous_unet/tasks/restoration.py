"""The parts that the restoration pipelines share: images in and out, channels, checks, tiles."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.images.decode import is_grey, normalise_mode, to_array, upright
from continuous_unet.images.grids import to_output
from continuous_unet.images.ranges import to_model_range, to_unit_range
from continuous_unet.images.tiling import Tiles, in_tiles
from continuous_unet.models import size_multiple
from continuous_unet.tasks.callbacks import AfterStep, unchanged
from continuous_unet.tasks.network import Network, Pipeline
from continuous_unet.tasks.options import FileOptions

Images = Image.Image | Tensor | list
Evaluate = Callable[..., Tensor]
MODES = ("mean", "sample")
OUTPUT_TYPES = ("pil", "np", "pt")
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue, ITU-R BT.601."""


def nothing() -> None:
    """Does nothing; it is called before each tile by default."""


@dataclass(frozen=True)
class RestoreOptions:
    """How a pipeline works on each image; handed down from its call, or from a verb, unchanged.

    Args:
        mode: `"mean"`, one evaluation, highest PSNR; `"sample"`, several, sharper.
        num_inference_steps: number of sampling steps of mode `"sample"`.
        generator: source of the random numbers.
        tiles: see `Tiles`.
        before_tile: called before each tile; an exception that it raises ends the work.
        after_step: called after each sampling step with its number, its timestep and the state; returns the state.
        request: what is asked for, as arguments of `request.ask` and `prompts.text_conditions`; inpainting alone uses
            it.

    Raises:
        InputError: for an unknown mode, or no step.
    """

    mode: str = "mean"
    num_inference_steps: int = 20
    generator: torch.Generator | None = None
    tiles: Tiles | None = None
    before_tile: Callable[[], None] = nothing
    after_step: AfterStep = unchanged
    request: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, MODES)
        if self.num_inference_steps < 1:
            raise InputError(f"num_inference_steps={self.num_inference_steps} must be at least 1")

    def arguments(self) -> dict[str, Any]:
        """Returns the arguments of a pipeline's call that these options come from."""
        names = "mode", "num_inference_steps", "generator", "tiles", "before_tile"
        return {name: getattr(self, name) for name in names}


def how_to_restore(
    options: FileOptions, task: str, mode: str, steps: int, before_tile: Callable[[], None]
) -> RestoreOptions:
    """Returns how one image is restored by a verb. Each image gets the same random numbers, whatever its place."""
    generator = torch.Generator().manual_seed(derive_seed(task, options.seed))
    return RestoreOptions(mode, steps, generator, Tiles(options.tile, options.overlap), before_tile)


class RestorationPipeline(Pipeline):
    """Base of the pipelines that restore images.

    Saved by `save_pretrained` as every diffusers pipeline is: `model_index.json` and a folder for each part. Load by
    `from_pretrained` of the class, or by `continuous_unet.tasks.loading.load_restorer`, which checks the files first.
    """

    task: str
    """Name in `continuous_unet.tasks.registry.TASKS`."""
    input_images = 1
    """Number of images that the network takes, stacked along the channels, for the one that it gives."""

    sampling_models = "cunet train --task generate"
    """What makes models that can be used with mode `"sample"`."""

    @property
    def gives_samples(self) -> bool:
        """Whether the model was trained for mode `"sample"`."""
        return True

    @property
    def channels(self) -> int:
        """The number of channels of the images that the model was made for, 1 or 3."""
        return self.unet.config.out_channels

    def check_mode(self, mode: str, model: str = "this model") -> None:
        """Raises InputError for mode `"sample"` if the model, named `model`, only gives the mean."""
        if mode == "sample" and not self.gives_samples:
            needed = f"mode 'sample' needs a diffusion model ({self.sampling_models})"
            raise InputError(f"{needed}; {model} was trained for mode 'mean' only")

    def to_model(self, images: Tensor) -> Tensor:
        """Gives `(1, C, H, W)` in [0, 1] the range and channels of the model: colours as a batch, or grey repeated."""
        images = to_model_range(images)
        return images.transpose(0, 1) if self.channels == 1 else images.expand(-1, self.channels, -1, -1)

    def restore_all(self, images: Images, output_type: str, one: Callable[[Tensor, int], Iterator[Tensor]]) -> Any:
        """Checks, converts, restores and returns images, for the call of every pipeline.

        Args:
            images: see `as_tensors`.
            output_type: see `as_output`.
            one: restores an image `(C, H, W)` in [0, 1], whose number it gets too, to bands `(C, rows, W)`.

        Raises:
            InputError: for images or an output type that are unknown, and if the model does not make finite values.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        restored = (one(image, k) for k, image in enumerate(as_tensors(images, self._execution_device)))
        return as_output([checked(torch.cat(list(bands), dim=1)) for bands in restored], output_type)

    @property
    def anything(self) -> dict[str, Tensor]:
        """What a diffusion model with classes is asked for here, one row: images of any class."""
        null = self.facts.conditions.null_class
        return {} if null is None else {"class_labels": torch.tensor([null], device=self._execution_device)}

    def predict(
        self, state: Tensor, timestep: Tensor | float, options: RestoreOptions, evaluate: Evaluate | None = None
    ) -> Tensor:
        """Evaluates the network once on an input `(B, C, H, W)` of any size, in tiles; float32.

        Args:
            state: the input.
            timestep: the timestep.
            options: how to work.
            evaluate: `evaluate(tile, timestep=timestep)` in place of the network without conditions.
        """
        evaluate = evaluate or partial(evaluated, self.unet, conditions=self.anything)
        function = partial(evaluate, timestep=timestep)
        multiple = size_multiple(self.unet)
        bands = in_tiles(function, state, multiple=multiple, tiles=options.tiles, before_tile=options.before_tile)
        return torch.cat(list(bands), dim=2)


def evaluated(
    unet: Network, sample: Tensor, timestep: Tensor | float, conditions: Mapping[str, Tensor] = MappingProxyType({})
) -> Tensor:
    """Returns the U-Net's output in float32, whatever the precision of its weights; `conditions` have one row each."""
    if isinstance(timestep, float):
        timestep = torch.tensor(timestep, device=sample.device)  # a fraction would be lost otherwise
    each = {name: row.expand(len(sample), *row.shape[1:]) for name, row in conditions.items()}
    return unet(sample.to(unet.dtype), timestep, **each).sample.float()


def checked(image: Tensor) -> Tensor:
    """Returns the same image.

    Raises:
        InputError: if it has values that are not finite, which would silently become black pixels.
    """
    if not bool(image.isfinite().all()):
        raise InputError("the model made values that are not finite; its weights are damaged, or need another --dtype")
    return image


def as_tensors(images: Images, device: torch.device) -> list[Tensor]:
    """Converts images to tensors `(C, H, W)` in [0, 1], C = 1 or 3.

    Args:
        images: a PIL image, a tensor `(C, H, W)` or `(B, C, H, W)`, or a list of those. PIL images are read as files
            are: upright, 16-bit and float grey by `value_range`, transparency over white. Float tensors are in [0, 1];
            values beyond are kept, since noise is not clipped, so that images in [-1, 1] are not recognised. uint8
            tensors are on the 0–255 scale.
        device: where to put them.

    Raises:
        InputError: for anything else.
    """
    if isinstance(images, list):
        return [tensor for image in images for tensor in as_tensors(image, device)]
    if isinstance(images, Image.Image):
        image = upright(images)
        channels = 1 if is_grey(image) else 3
        return [to_unit_range(torch.from_numpy(to_array(normalise_mode(image, channels), channels))).to(device)]
    if not isinstance(images, Tensor) or images.ndim not in (3, 4) or images.shape[-3] not in (1, 3):
        what = tuple(images.shape) if isinstance(images, (Tensor, np.ndarray)) else type(images).__name__
        raise InputError(f"image is {what}; expected a PIL image, a tensor (C, H, W) or (B, C, H, W) with C = 1 or 3")
    if not images.is_floating_point() and images.dtype not in (torch.uint8, torch.bool):
        raise InputError(f"image is a tensor of {images.dtype}; expected floats in [0, 1], or uint8 on the 0–255 scale")
    if not images.numel() or not bool(images.isfinite().all()):
        raise InputError("image has no pixels, or values that are not finite")
    values = images.to(device=device, dtype=torch.float32)
    values = values / 255 if images.dtype == torch.uint8 else values
    return list(values) if values.ndim == 4 else [values]


def as_output(images: list[Tensor], output_type: str) -> Any:
    """Converts tensors `(C, H, W)` to PIL images, arrays `(H, W, C)`, or tensors, clipped to [0, 1].

    Arrays and tensors of one size are stacked, as every pipeline of diffusers gives them; others come as a list.
    """
    images = [image.clamp(0, 1) for image in images]
    if len({image.shape for image in images}) == 1:
        return to_output(torch.stack(images), output_type)
    return [to_output(image[None], output_type)[0] for image in images]


def check_choice(name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Raises InputError for a value that is not allowed."""
    if value not in allowed:
        raise InputError(f"{name}={value!r} is unknown; expected {' or '.join(map(repr, allowed))}")


def to_channels(images: Tensor, channels: int) -> Tensor:
    """Gives images `(B, C, H, W)` the channels of a model, 1 or 3: the luma of colour, or grey repeated."""
    if channels == 1 and images.shape[1] == 3:
        return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    return images.expand(-1, channels, -1, -1)


def from_model_channels(images: Tensor, channels: int) -> Tensor:
    """Undoes what `to_model` did to the channels of an image: grey that was repeated becomes the mean."""
    if images.shape[1] == 1:
        return images.transpose(0, 1)
    return images if channels == images.shape[1] else images.mean(dim=1, keepdim=True)
