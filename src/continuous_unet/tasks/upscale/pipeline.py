"""Enlarges images. The network is given an image enlarged by interpolation, and predicts the residual.

The process diffuses `residual = RESIDUAL_SCALE (image - enlarged)`. The network is also given the enlarged image (SR3,
arXiv 2104.07636). The process ends without signal (zero terminal SNR). Evaluated there, with zeros instead of noise,
the network gives the mean of the residual. Run back from there, the process gives one of the possible sharp images.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from math import gcd
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.process import Process, process_of
from continuous_unet.images.ranges import to_model_range
from continuous_unet.images.resampling import enlarge
from continuous_unet.images.tiling import Tiles, in_tiles, padded
from continuous_unet.models import size_multiple
from continuous_unet.tasks.callbacks import TENSOR_INPUTS, StepCallback, after_each_step
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.restoration import (
    Images,
    RestorationPipeline,
    RestoreOptions,
    evaluated,
    nothing,
    to_channels,
)
from continuous_unet.tasks.upscale.options import RESIDUAL_SCALE


def predict_residual(unet: Network, process: Process, enlarged: Tensor) -> Tensor:
    """Returns the mean of `image - enlarged`, in one evaluation.

    Args:
        unet: a model of twice the channels.
        process: the process of the training, whose last time is without signal.
        enlarged: `(B, C, H, W)` in [-1, 1].
    """
    last = process.num_train_timesteps - 1
    zeros = torch.zeros_like(enlarged)
    prediction = evaluated(unet, torch.cat([zeros, enlarged], dim=1), last)
    return process.to_clean(prediction, zeros, last) / RESIDUAL_SCALE


class SuperResolutionPipeline(RestorationPipeline):
    """Enlarges images.

    A model of one channel works on the luma of colour images; their colour is enlarged by bicubic interpolation.

    Args:
        unet: a model whose input has twice the channels of its output.
        scheduler: the scheduler of the training, with zero terminal SNR.
        scale: upscaling factor: 2, 3 or 4.
        can_sample: whether it was trained on more than the answer in one evaluation.
    """

    task = "upscale"
    input_images = 2
    sampling_models = "cunet train --task upscale --regression-share 0.5"

    def __init__(self, unet: Network, scheduler: Any, scale: int = 2, can_sample: bool = True) -> None:
        super().__init__(unet, scheduler)
        if scale not in (2, 3, 4):
            raise InputError(f"scale={scale} must be 2, 3 or 4")
        self.register_to_config(scale=scale, can_sample=can_sample)

    @property
    def gives_samples(self) -> bool:
        return bool(self.config["can_sample"])

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
        before_tile: Callable[[], None] = nothing,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Enlarges one image or several, of any size.

        Args:
            image: see `as_tensors`.
            mode: `"mean"`, one evaluation, highest PSNR; `"sample"`, several, sharper.
            num_inference_steps: number of sampling steps of mode `"sample"`.
            generator: source of the random numbers.
            tiles: see `Tiles`, in pixels of the small image; 256 with an overlap of 64 if None.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            before_tile: called before each tile; an exception that it raises ends the work.
            callback_on_step_end: called after each step of mode `"sample"`, see `after_each_step`; its `latents` are
                those of one image.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.

        Raises:
            InputError: for arguments that do not fit the model, and if it does not make finite values.
        """
        after_step = after_each_step(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        options = RestoreOptions(mode, num_inference_steps, generator, tiles, before_tile, after_step)
        output = self.restore_all(image, output_type, lambda one, number: self.bands(one, options))
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def bands(self, image: Tensor, options: RestoreOptions) -> Iterator[Tensor]:
        """Restores one image `(C, H, W)` in [0, 1] to bands `(C, rows, scale W)`, not clipped.

        By mode `"mean"` only a band is in memory at a time, by mode `"sample"` the whole large image is.
        """
        scale, tiles = self.config["scale"], options.tiles or Tiles(256)
        self.check_mode(options.mode)
        if options.mode == "sample":
            enlarged = enlarge(image[None], scale)
            large = replace(options, tiles=Tiles(tiles.size * scale, tiles.overlap * scale))
            yield self._with_residual(enlarged, self._run_back(self.to_model(enlarged), large))[0]
            return

        def one_tile(tile: Tensor) -> Tensor:
            enlarged = enlarge(tile, scale)  # before it is padded: at the edge of an image as in training
            height, width = enlarged.shape[2:]
            residual = predict_residual(self.unet, process, padded(self.to_model(enlarged), multiple))
            return self._with_residual(enlarged, residual[:, :, :height, :width])

        process, multiple = process_of(self.scheduler), size_multiple(self.unet)
        of_small = multiple // gcd(multiple, scale)
        for band in in_tiles(
            one_tile,
            image[None],
            multiple=of_small,
            scale=scale,
            tiles=tiles,
            pad=False,
            before_tile=options.before_tile,
        ):
            yield band[0]

    def to_model(self, images: Tensor) -> Tensor:
        """Gives `(1, C, H, W)` in [0, 1] the model's range and channels: the luma of colour, or grey repeated."""
        return to_model_range(to_channels(images, self.channels))

    def _with_residual(self, enlarged: Tensor, residual: Tensor) -> Tensor:
        """Adds residuals of images in [-1, 1] to images in [0, 1]. Luma added to every colour keeps the chroma."""
        if enlarged.shape[1] == 1:
            residual = residual.mean(dim=1, keepdim=True)
        return enlarged + residual / 2

    def _run_back(self, enlarged: Tensor, options: RestoreOptions) -> Tensor:
        """Makes a residual by DDIM from pure noise."""
        scheduler = process_of(self.scheduler).make_sampler("ddim")
        scheduler.set_timesteps(options.num_inference_steps, device=enlarged.device)
        state = randn_tensor(enlarged.shape, generator=options.generator, device=enlarged.device)
        for number, time in enumerate(scheduler.timesteps):
            prediction = self.predict(torch.cat([state, enlarged], dim=1), time, options)
            state = options.after_step(number, time, scheduler.step(prediction, time, state).prev_sample)
        return state / RESIDUAL_SCALE


SuperResolutionPipeline.__module__ = "continuous_unet"
