"""Large images from small ones. The network, given the enlarged image, predicts what is missing in it.

Diffused is `residual = RESIDUAL_SCALE (image - enlarged)`, beside the enlarged image (after SR3, arXiv 2104.07636). The
process ends without signal (zero terminal SNR): asked there, with zeros in place of the noise, the network gives the
mean of the residual in one evaluation; run back from there, it gives one sharp image of the possible ones.
"""

from collections.abc import Callable, Iterator
from math import gcd
from typing import Any

import torch
from diffusers import DDIMScheduler, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.predictions import clean_image
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.images.resampling import enlarge
from continuous_unet.images.tiling import Tiles, in_tiles, padded
from continuous_unet.models import size_multiple
from continuous_unet.tasks.restoration import (
    LUMA,
    OUTPUT_TYPES,
    Images,
    RestorationPipeline,
    as_output,
    as_tensors,
    check_choice,
    evaluated,
    whole,
)

MODES = ("mean", "sample")
RESIDUAL_SCALE = 4.0
"""Brings what is missing in an enlarged photograph, in [-1, 1] mostly 0.05 to 0.3, to the size of the noise."""


def predict_residual(unet: Any, scheduler: Any, enlarged: Tensor) -> Tensor:
    """The mean of `image - enlarged`, in one evaluation.

    Args:
        unet: a model of twice the channels.
        scheduler: of the training; its last timestep is without signal.
        enlarged: `(B, C, H, W)` in [-1, 1].
    """
    last = scheduler.config.num_train_timesteps - 1
    nothing = torch.zeros_like(enlarged)
    prediction = evaluated(unet, torch.cat([nothing, enlarged], dim=1), last)
    return clean_image(scheduler, prediction, nothing, last) / RESIDUAL_SCALE


class SuperResolutionPipeline(RestorationPipeline):
    """Enlarges images.

    A model of one channel works on the luma of colour images; their colour is enlarged by bicubic interpolation.

    Args:
        unet: a model whose input has twice the channels of its output.
        scheduler: of the training, with zero terminal SNR.
        scale: how often it enlarges: 2, 3 or 4.
        can_sample: whether it was trained on more than the answer in one evaluation.
    """

    task = "upscale"

    def __init__(self, unet: Any, scheduler: Any, scale: int = 2, can_sample: bool = True) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(scale=scale, can_sample=can_sample)

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        mode: str = "mean",
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        before_tile: Callable[[], None] = lambda: None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Enlarge one image or several, of any size.

        Args:
            image: see `as_tensors`.
            mode: `"mean"`, one evaluation, highest PSNR; `"sample"`, several, sharper.
            num_inference_steps: evaluations of mode `"sample"`.
            generator: of its randomness.
            tiles: of the small image, see `Tiles`.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            before_tile: called before each tile; what it raises ends the work.

        Raises:
            InputError: for arguments that do not fit the model, and if it does not make finite values.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        results = [
            whole(self.bands(one, mode, num_inference_steps, generator, tiles, before_tile))
            for one in as_tensors(image, self._execution_device)
        ]
        output = as_output(results, output_type)
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def bands(
        self,
        image: Tensor,
        mode: str = "mean",
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        before_tile: Callable[[], None] = lambda: None,
    ) -> Iterator[Tensor]:
        """The work itself: one image `(C, H, W)` in [0, 1], to bands `(C, rows, scale W)`, not clipped.

        By mode `"mean"` only a band is in memory at a time, by mode `"sample"` the whole large image is.
        """
        check_choice("mode", mode, MODES)
        if num_inference_steps < 1:
            raise InputError(f"num_inference_steps={num_inference_steps} must be at least 1")
        if mode == "sample" and not self.config.can_sample:
            raise InputError("mode 'sample': this model was trained for mode 'mean' only")
        scale = self.config.scale
        tiles = tiles or Tiles(256, 32)
        if mode == "sample":
            enlarged = enlarge(image[None], scale)
            inputs = self._to_model(enlarged) * 2 - 1
            large = Tiles(tiles.size * scale, tiles.overlap * scale)
            residual = self._run_back(inputs, num_inference_steps, generator, large, before_tile)
            yield self._with_residual(enlarged, residual)[0]
            return

        def one_tile(tile: Tensor) -> Tensor:
            enlarged = enlarge(tile, scale)  # before it is padded: at the edge of an image as in training
            height, width = enlarged.shape[2:]
            inputs = padded(self._to_model(enlarged) * 2 - 1, multiple)
            residual = predict_residual(self.unet, self.scheduler, inputs)
            return self._with_residual(enlarged, residual[:, :, :height, :width])

        multiple = size_multiple(self.unet)
        bands = in_tiles(
            one_tile,
            image[None],
            multiple=multiple // gcd(multiple, scale),
            scale=scale,
            tiles=tiles,
            pad=False,
            before_tile=before_tile,
        )
        for band in bands:
            yield band[0]

    def _to_model(self, images: Tensor) -> Tensor:
        """`(1, C, H, W)` to the model's channels: the luma of colour, or grey repeated."""
        if self.channels == 1 and images.shape[1] == 3:
            return (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
        return images.expand(-1, self.channels, -1, -1)

    def _with_residual(self, enlarged: Tensor, residual: Tensor) -> Tensor:
        """Residuals are of images in [-1, 1], the images in [0, 1]. Luma added to every colour keeps chroma."""
        if enlarged.shape[1] == 1:
            residual = residual.mean(dim=1, keepdim=True)
        return enlarged + residual / 2

    def _run_back(
        self,
        enlarged: Tensor,
        num_steps: int,
        generator: torch.Generator | None,
        tiles: Tiles,
        before_tile: Callable[[], None],
    ) -> Tensor:
        """A residual by DDIM from pure noise."""
        scheduler: DDIMScheduler = make_scheduler("ddim", self.scheduler.config)
        scheduler.set_timesteps(num_steps, device=enlarged.device)
        state = randn_tensor(enlarged.shape, generator=generator, device=enlarged.device)
        for time in scheduler.timesteps:
            prediction = self.predict(torch.cat([state, enlarged], dim=1), time, tiles, before_tile)
            state = scheduler.step(prediction, time, state).prev_sample
        return state / RESIDUAL_SCALE


SuperResolutionPipeline.__module__ = "continuous_unet"
