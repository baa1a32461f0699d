"""Holes of images filled by any unconditional diffusion model, without training for it: RePaint (arXiv 2201.09865)."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import ImagePipelineOutput, RePaintScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion import predictions
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.restoration import (
    OUTPUT_TYPES,
    Images,
    RestorationPipeline,
    as_output,
    as_tensors,
    check_choice,
    checked,
    from_model_channels,
    to_model_channels,
)


class InpaintingPipeline(RestorationPipeline):
    """Fills what a mask marks; every other pixel stays as it was.

    Args:
        unet: an unconditional diffusion model of 1 or 3 channels.
        scheduler: of its noise schedule.
    """

    task = "inpaint"

    def __init__(self, unet: Any, scheduler: Any) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        image: Images,
        mask: Images,
        num_inference_steps: int = 50,
        jump_length: int = 5,
        jump_n_sample: int = 5,
        generator: torch.Generator | None = None,
        tiles: Tiles | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        before_tile: Callable[[], None] = lambda: None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Fill one image or several.

        Args:
            image: see `as_tensors`. The whole of it is in memory, some times over.
            mask: of the same height and width, one for all or one each; white, or 1, is filled, black is kept.
            num_inference_steps: steps of the reverse process without its repetitions.
            jump_length: steps that are gone forward again at a time.
            jump_n_sample: how often each stretch is run through; 1 repeats nothing.
            generator: of the randomness.
            tiles: see `Tiles`.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            before_tile: called before each evaluation; what it raises ends the work.

        Raises:
            InputError: for arguments that do not fit, and if the model does not make finite values.
        """
        check_choice("output_type", output_type, OUTPUT_TYPES)
        count = self.scheduler.config.num_train_timesteps
        for name, value in (("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if not jump_length < num_inference_steps <= count:
            raise InputError(
                f"num_inference_steps={num_inference_steps} must be more than jump_length={jump_length}, and at most "
                f"{count}"
            )
        device = self._execution_device
        images, masks = as_tensors(image, device), as_tensors(mask, device)
        if len(masks) not in (1, len(images)):
            raise InputError(f"{len(masks)} masks were given for {len(images)} images; give one, or one each")
        results = []
        for number, one in enumerate(images):
            hole = masks[number if len(masks) > 1 else 0].mean(dim=0, keepdim=True) > 0.5
            if hole.shape[1:] != one.shape[1:]:
                raise InputError(
                    f"the mask is {hole.shape[2]}x{hole.shape[1]} and the image {one.shape[2]}x{one.shape[1]} pixels; "
                    "they must be of one size"
                )
            steps = num_inference_steps, jump_length, jump_n_sample
            results.append(self._fill(one, hole, steps, generator, tiles, before_tile))
        output = as_output(results, output_type)
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def _fill(
        self,
        image: Tensor,
        hole: Tensor,
        steps: tuple[int, int, int],
        generator: torch.Generator | None,
        tiles: Tiles | None,
        before_tile: Callable[[], None],
    ) -> Tensor:
        """One image `(C, H, W)` in [0, 1], whose hole `(1, H, W)` is True."""
        known = to_model_channels(image[None] * 2 - 1, self.channels)
        keep = (~hole).float()[None].expand_as(known)
        scheduler = self._repaint_scheduler()
        scheduler.set_timesteps(*steps)
        state = randn_tensor(known.shape, generator=generator, device=known.device)
        before = int(scheduler.timesteps[0]) + 1
        for time in scheduler.timesteps:
            if time < before:
                prediction = self.predict(state, time, tiles, before_tile)
                # RePaint's scheduler knows one kind of prediction only
                noise = predictions.noise(self.scheduler, prediction, state, int(time))
                state = scheduler.step(noise, time, state, known, keep, generator).prev_sample
            else:
                state = scheduler.undo_step(state, before, generator)
            before = int(time)
        filled = (from_model_channels(checked(state), image.shape[0])[0] + 1) / 2
        return torch.where(hole, filled, image)

    def _repaint_scheduler(self) -> RePaintScheduler:
        """With the betas of the model's own schedule."""
        return RePaintScheduler(
            num_train_timesteps=self.scheduler.config.num_train_timesteps, trained_betas=self.scheduler.betas.numpy()
        )


InpaintingPipeline.__module__ = "continuous_unet"
