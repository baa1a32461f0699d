"""Removes noise from images, by a model that was trained for it or by any diffusion model.

A diffusion model knows images with noise of every strength. At the timestep t where `sqrt((1 - alpha_bar_t) /
alpha_bar_t)` is sigma, `x0 + sigma n` times `sqrt(alpha_bar_t)` is such an image. From there, the model either gives
the mean of the clean image, in one evaluation, or the reverse process is run.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.table import make_rows
from continuous_unet.images.noise_level import estimate_sigma
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.images.tiling import Tiles, in_tiles
from continuous_unet.models import size_multiple
from continuous_unet.tasks.callbacks import TENSOR_INPUTS, StepCallback, after_each_step
from continuous_unet.tasks.network import Network
from continuous_unet.tasks.restoration import (
    Images,
    RestorationPipeline,
    RestoreOptions,
    evaluated,
    from_model_channels,
    nothing,
)


@dataclass
class DenoisingOutput(BaseOutput):
    """Images, and the standard deviation of the noise assumed for each, on the 0–255 scale; None for blind models."""

    images: Any
    sigmas: list[float | None]


class DenoisingPipeline(RestorationPipeline):
    """Removes white Gaussian noise.

    Args:
        unet: a `ContinuousUNet2DModel` or `UNet2DModel` of 1 or 3 channels.
        scheduler: the scheduler of a diffusion model; None for a model that was trained to denoise.
        sigma_min: weakest noise that such a model was trained on, on the 0–255 scale.
        sigma_max: strongest noise.
        sigma_conditioned: whether such a model takes the strength of the noise; otherwise it is blind.
    """

    task = "denoise"
    _optional_components = ["scheduler"]  # noqa: RUF012 (diffusers' name and kind)

    def __init__(
        self,
        unet: Network,
        scheduler: Any = None,
        sigma_min: float = 0.0,
        sigma_max: float = 255.0,
        sigma_conditioned: bool = False,
    ) -> None:
        super().__init__(unet, scheduler)
        if not 0 <= sigma_min <= sigma_max <= 255:
            raise InputError(f"sigma_min={sigma_min:g} and sigma_max={sigma_max:g} must be 0 to 255, in this order")
        self.register_to_config(sigma_min=sigma_min, sigma_max=sigma_max, sigma_conditioned=sigma_conditioned)

    @property
    def gives_samples(self) -> bool:
        return self.scheduler is not None

    @property
    def needs_sigma(self) -> bool:
        """Whether the strength of the noise must be known; a blind denoiser needs none."""
        return self.scheduler is not None or self.config["sigma_conditioned"]

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        sigma: float | str = "auto",
        mode: str = "mean",
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        before_tile: Callable[[], None] = nothing,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
    ) -> DenoisingOutput | tuple[Any, list[float | None]]:
        """Denoises one image or several, of any size.

        Args:
            image: see `as_tensors`.
            sigma: standard deviation of the noise on the 0–255 scale, or `"auto"` to estimate it; a blind model ignores
                it.
            mode: `"mean"`, one evaluation, highest PSNR; `"sample"`, several, sharper (diffusion models only).
            num_inference_steps: number of sampling steps of mode `"sample"`.
            generator: source of the random numbers.
            tiles: see `Tiles`.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give a `DenoisingOutput` rather than a tuple.
            before_tile: called before each tile; an exception that it raises ends the work.
            callback_on_step_end: called after each step of mode `"sample"`, see `after_each_step`; its `latents` are
                those of one image.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.

        Raises:
            InputError: for arguments that do not fit the model, and if it does not make finite values.
        """
        after_step = after_each_step(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        options = RestoreOptions(mode, num_inference_steps, generator, tiles, before_tile, after_step)
        sigmas: list[float | None] = []

        def one(tensor: Tensor, number: int) -> Iterator[Tensor]:
            sigmas.append(self.strength(tensor, sigma))
            return self.bands(tensor, sigmas[-1], options)

        output = self.restore_all(image, output_type, one)
        return DenoisingOutput(images=output, sigmas=sigmas) if return_dict else (output, sigmas)

    def strength(self, image: Tensor, sigma: float | str) -> float | None:
        """Returns the noise to assume in an image `(C, H, W)` in [0, 1], on the 0–255 scale; None for a blind model.

        Raises:
            InputError: for a sigma that is no strength of noise.
        """
        if not self.needs_sigma:
            return None
        if sigma == "auto":
            return estimate_sigma(image) * 255
        if isinstance(sigma, str) or not 0 <= sigma <= 255:
            raise InputError(f"sigma={sigma!r} must be 'auto' or a number from 0 to 255")
        return float(sigma)

    def bands(
        self, image: Tensor, sigma: float | None, options: RestoreOptions, timestep: float | None = None
    ) -> Iterator[Tensor]:
        """Restores one image `(C, H, W)` in [0, 1] to bands of whole rows `(C, rows, W)`, not clipped.

        By mode `"mean"` only a band is in memory at a time, by mode `"sample"` the whole image is.

        Args:
            image: what `as_tensors` gives.
            sigma: what `strength` gives.
            options: how to work.
            timestep: of a diffusion model, whose noise the image has; found from `sigma` if None.
        """
        self.check_mode(options.mode)
        process, time = None if self.scheduler is None else process_of(self.scheduler), 0.0
        if process is not None:
            time = self.timestep_of(sigma) if timestep is None else timestep
            if options.mode == "sample":
                state = self._run_back(self.to_model(image[None]) * process.coefficients(time)[0], time, options)
                yield to_unit_range(from_model_channels(state, len(image))[0])
                return

        def one_tile(tile: Tensor) -> Tensor:
            noisy = self.to_model(tile)
            if process is None:  # trained to denoise: it predicts the noise
                known = sigma if sigma is not None and self.config["sigma_conditioned"] else 0
                clean = noisy - self.unet(noisy.to(self.unet.dtype), known).sample.float()
            else:
                x_t = noisy * process.coefficients(time)[0]
                clean = process.to_clean(evaluated(self.unet, x_t, time, self.anything), x_t, time)
            return from_model_channels(clean, len(image))

        multiple, tiles = size_multiple(self.unet), options.tiles
        for band in in_tiles(one_tile, image[None], multiple=multiple, tiles=tiles, before_tile=options.before_tile):
            yield to_unit_range(band[0])

    def timestep_of(self, sigma: float | None) -> float:
        """Returns the timestep of the diffusion model with the noise-to-signal ratio of an image with noise of sigma.

        Raises:
            InputError: for noise stronger than the strongest of the process.
        """
        process = process_of(self.scheduler)
        signal, noise = process.coefficients(process.last_time)
        wanted = (sigma or 0.0) * 2 / 255  # of images in [-1, 1]
        if wanted * signal > noise:
            strongest = noise / signal * 127.5
            raise InputError(
                f"sigma={sigma:g} is more noise than the diffusion model knows (at most {strongest:.0f} on the 0–255 "
                "scale); give a smaller sigma"
            )
        return process.nearest_time(wanted)

    def _run_back(self, state: Tensor, timestep: float, options: RestoreOptions) -> Tensor:
        """Runs the process back from a timestep, in larger steps; the whole image is in memory.

        New noise makes the result one of the possible images, as in DDPM.
        """
        process = process_of(self.scheduler)
        if process.name == FlowOptions.name:
            count = options.num_inference_steps
            for row in make_rows(process, [timestep * (1 - k / count) for k in range(count)]):
                noise = randn_tensor(state.shape, generator=options.generator, device=state.device)
                state = row.ancestral_step(process, state, self.predict(state, row.timestep, options), noise)
            return state
        scheduler = DDPMScheduler.from_config(self.scheduler.config)
        num_steps = min(options.num_inference_steps, int(timestep) + 1)
        times = torch.linspace(timestep, 0, num_steps).round().long().unique().flip(0)
        scheduler.set_timesteps(timesteps=times.tolist(), device=state.device)
        for number, time in enumerate(scheduler.timesteps):
            prediction = self.predict(state, time, options)
            state = scheduler.step(prediction, time, state, generator=options.generator).prev_sample
            state = options.after_step(number, time, state)
        return state


DenoisingPipeline.__module__ = "continuous_unet"
