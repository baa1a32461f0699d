"""Noise out of images, by a model that was trained for it or by any diffusion model.

A diffusion model knows images under noise of every strength. `x0 + sigma n` is brought to the variance-preserving
form by `sqrt(alpha_bar_t)`, at the timestep t whose `sqrt((1 - alpha_bar_t) / alpha_bar_t)` is that sigma, and then
either the mean of the clean image is asked for (one evaluation) or the reverse process is run from t.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.utils import BaseOutput
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.predictions import clean_image
from continuous_unet.images.noise_level import estimate_sigma
from continuous_unet.images.tiling import Tiles, in_tiles
from continuous_unet.models import size_multiple
from continuous_unet.tasks.restoration import (
    OUTPUT_TYPES,
    Images,
    RestorationPipeline,
    as_output,
    as_tensors,
    check_choice,
    evaluated,
    from_model_channels,
    to_model_channels,
    whole,
)

MODES = ("mean", "sample")


def remove_noise(unet: Any, noisy: Tensor, sigmas: Tensor | float | None) -> Tensor:
    """By a model that was trained for it: what it predicts is the noise.

    Args:
        unet: such a model.
        noisy: images `(B, C, H, W)` in [-1, 1], the noise not clipped.
        sigmas: `(B,)` or one number, of 255, for a model that is told; None for a blind one.

    Returns:
        The clean images, not clipped.
    """
    return noisy - evaluated(unet, noisy, 0 if sigmas is None else sigmas)


@dataclass
class DenoisingOutput(BaseOutput):
    """Images, and the strength of the noise that was assumed for each, of 255; None if nobody asked for it."""

    images: Any
    sigmas: list[float | None]


class DenoisingPipeline(RestorationPipeline):
    """Removes white Gaussian noise.

    Args:
        unet: a `ContinuousUNet2DModel` or `UNet2DModel` of 1 or 3 channels.
        scheduler: of the noise schedule of a diffusion model; None for a model that was trained to denoise.
        sigma_min: weakest noise that such a model was trained on, of 255.
        sigma_max: strongest noise, of 255.
        sigma_conditioned: such a model is told the strength; otherwise it is blind.
    """

    task = "denoise"
    _optional_components = ["scheduler"]  # noqa: RUF012 (diffusers' name and kind)

    def __init__(
        self,
        unet: Any,
        scheduler: Any = None,
        sigma_min: float = 0.0,
        sigma_max: float = 255.0,
        sigma_conditioned: bool = False,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(sigma_min=sigma_min, sigma_max=sigma_max, sigma_conditioned=sigma_conditioned)

    @property
    def needs_sigma(self) -> bool:
        """Whether the strength of the noise must be known; a blind denoiser needs none."""
        return self.scheduler is not None or self.config.sigma_conditioned

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
        before_tile: Callable[[], None] = lambda: None,
    ) -> DenoisingOutput | tuple[Any, list[float | None]]:
        """Denoise one image or several, of any size.

        Args:
            image: see `as_tensors`.
            sigma: standard deviation of the noise, of 255, or `"auto"` to estimate it; a blind model ignores it.
            mode: `"mean"`, one evaluation, highest PSNR; `"sample"`, several, sharper (diffusion models only).
            num_inference_steps: evaluations of mode `"sample"`.
            generator: of its randomness.
            tiles: see `Tiles`.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give a `DenoisingOutput` rather than a tuple.
            before_tile: called before each tile; what it raises ends the work.

        Raises:
            InputError: for arguments that do not fit the model, and if it does not make finite values.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        results: list[Tensor] = []
        sigmas: list[float | None] = []
        for one in as_tensors(image, self._execution_device):
            sigmas.append(self.strength(one, sigma))
            results.append(whole(self.bands(one, sigmas[-1], mode, num_inference_steps, generator, tiles, before_tile)))
        output = as_output(results, output_type)
        return DenoisingOutput(images=output, sigmas=sigmas) if return_dict else (output, sigmas)

    def strength(self, image: Tensor, sigma: float | str) -> float | None:
        """The noise to assume in an image `(C, H, W)` in [0, 1], of 255; None if the model is blind.

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
        self,
        image: Tensor,
        sigma: float | None,
        mode: str = "mean",
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        before_tile: Callable[[], None] = lambda: None,
    ) -> Iterator[Tensor]:
        """The work itself: one image `(C, H, W)` in [0, 1], to bands of whole rows `(C, rows, W)`, not clipped.

        `sigma` is a result of `strength`; the other arguments are those of the call. By mode `"mean"` only a band is in
        memory at a time, by mode `"sample"` the whole image is.
        """
        if self.scheduler is not None:
            assert sigma is not None
            yield from self.bands_at(
                image, self.timestep_of(sigma), mode, num_inference_steps, generator, tiles, before_tile
            )
            return
        check_choice("mode", mode, MODES)
        if mode == "sample":
            raise InputError(
                "mode 'sample' needs a diffusion model (cunet train --task generation); this one was trained to give "
                "the mean"
            )
        known = sigma if self.config.sigma_conditioned else None
        yield from self._in_tiles(image, lambda tile: remove_noise(self.unet, tile, known), tiles, before_tile)

    def bands_at(
        self,
        image: Tensor,
        timestep: int,
        mode: str = "mean",
        num_inference_steps: int = 20,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        before_tile: Callable[[], None] = lambda: None,
    ) -> Iterator[Tensor]:
        """As `bands`, by a diffusion model, of an image whose noise is that of a timestep."""
        check_choice("mode", mode, MODES)
        if num_inference_steps < 1:
            raise InputError(f"num_inference_steps={num_inference_steps} must be at least 1")
        alpha = self.scheduler.alphas_cumprod[timestep].item() ** 0.5
        if mode == "sample":
            inputs = to_model_channels(image[None] * 2 - 1, self.channels) * alpha
            result = self._run_back(inputs, timestep, num_inference_steps, generator, tiles, before_tile)
            yield (from_model_channels(result, image.shape[0])[0] + 1) / 2
            return

        def denoise(tile: Tensor) -> Tensor:
            return clean_image(self.scheduler, evaluated(self.unet, tile * alpha, timestep), tile * alpha, timestep)

        yield from self._in_tiles(image, denoise, tiles, before_tile)

    def _in_tiles(
        self,
        image: Tensor,
        denoise: Callable[[Tensor], Tensor],
        tiles: Tiles | None,
        before_tile: Callable[[], None],
    ) -> Iterator[Tensor]:
        """A function of the model's images in [-1, 1], on the tiles of an image `(C, H, W)` in [0, 1]."""

        def one_tile(tile: Tensor) -> Tensor:
            inputs = to_model_channels(tile * 2 - 1, self.channels)
            return from_model_channels(denoise(inputs), tile.shape[1])

        multiple = size_multiple(self.unet)
        for band in in_tiles(one_tile, image[None], multiple=multiple, tiles=tiles, before_tile=before_tile):
            yield (band[0] + 1) / 2

    def timestep_of(self, sigma: float) -> int:
        """The timestep of the diffusion model whose noise-to-signal ratio is that of an image with noise of sigma/255.

        Raises:
            InputError: for noise stronger than the strongest of the process.
        """
        alphas = self.scheduler.alphas_cumprod.double()
        ratios = ((1 - alphas) / alphas).sqrt()
        wanted = sigma * 2 / 255  # of images in [-1, 1]
        if wanted > float(ratios[-1]):
            raise InputError(f"sigma={sigma:g} is more noise than the diffusion model knows ({ratios[-1] * 127.5:.0f})")
        return int((ratios.clamp(min=1e-9).log() - math.log(max(wanted, 1e-9))).abs().argmin())

    def _run_back(
        self,
        state: Tensor,
        timestep: int,
        num_steps: int,
        generator: torch.Generator | None,
        tiles: Tiles | None,
        before_tile: Callable[[], None],
    ) -> Tensor:
        """The reverse process of DDPM from a timestep, by steps that skip; the whole image is in memory."""
        scheduler = DDPMScheduler.from_config(self.scheduler.config)
        times = torch.linspace(timestep, 0, min(num_steps, timestep + 1)).round().long().unique().flip(0)
        scheduler.set_timesteps(timesteps=times.tolist(), device=state.device)
        for time in scheduler.timesteps:
            prediction = self.predict(state, time, tiles, before_tile)
            state = scheduler.step(prediction, time, state, generator=generator).prev_sample
        return state


DenoisingPipeline.__module__ = "continuous_unet"
