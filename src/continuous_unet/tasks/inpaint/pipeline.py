"""Fills holes in images by any unconditional diffusion model, not trained for it: RePaint (arXiv 2201.09865)."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_repaint import RePaintScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import Process, process_of
from continuous_unet.diffusion.table import make_rows
from continuous_unet.images.masks import mask_of
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.callbacks import TENSOR_INPUTS, StepCallback, after_each_step
from continuous_unet.tasks.restoration import (
    Images,
    RestorationPipeline,
    RestoreOptions,
    as_tensors,
    checked,
    from_model_channels,
    nothing,
)


class InpaintingPipeline(RestorationPipeline):
    """Fills what a mask marks; every other pixel stays as it was.

    Args:
        unet: an unconditional diffusion model of 1 or 3 channels.
        scheduler: a scheduler of its noise schedule.
    """

    task = "inpaint"

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
        before_tile: Callable[[], None] = nothing,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = TENSOR_INPUTS,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Fills one image or several.

        Args:
            image: see `as_tensors`. The whole of it is in memory, several times over.
            mask: of the same height and width, one for all or one each. A PIL image: see `mask_of`; a tensor: above 0.5
                (uint8: above 127) is filled.
            num_inference_steps: number of sampling steps without their repetitions.
            jump_length: number of sampling steps that are undone at a time.
            jump_n_sample: number of times that each stretch is run through; 1 repeats nothing.
            generator: source of the random numbers.
            tiles: see `Tiles`.
            output_type: `"pil"`, `"np"` or `"pt"`.
            return_dict: give an `ImagePipelineOutput` rather than a tuple.
            before_tile: called before each evaluation; an exception that it raises ends the work.
            callback_on_step_end: called after each step, also those that are repeated, see `after_each_step`; its
                `latents` are those of one image.
            callback_on_step_end_tensor_inputs: names of the tensors that it is given.

        Raises:
            InputError: for arguments that do not fit, and if the model does not make finite values.
        """
        count = self.scheduler.config.num_train_timesteps
        for name, value in (("jump_length", jump_length), ("jump_n_sample", jump_n_sample)):
            if value < 1:
                raise InputError(f"{name}={value} must be at least 1")
        if not jump_length < num_inference_steps <= count:
            bounds = f"more than jump_length={jump_length}, and at most {count}"
            raise InputError(f"num_inference_steps={num_inference_steps} must be {bounds}")
        after_step = after_each_step(self, callback_on_step_end, callback_on_step_end_tensor_inputs)
        options = RestoreOptions("sample", num_inference_steps, generator, tiles, before_tile, after_step)
        images, holes = as_tensors(image, self._execution_device), self._holes(mask)
        if len(holes) not in (1, len(images)):
            raise InputError(f"{len(holes)} masks were given for {len(images)} images; give one, or one each")

        def one(tensor: Tensor, number: int) -> Iterator[Tensor]:
            yield self.fill(tensor, holes[number if len(holes) > 1 else 0], options, jump_length, jump_n_sample)

        output = self.restore_all(images, output_type, one)
        return ImagePipelineOutput(images=output) if return_dict else (output,)

    def _holes(self, masks: Images) -> list[Tensor]:
        """Returns the pixels that each mask marks, bool `(1, H, W)`."""
        if isinstance(masks, list):
            return [hole for mask in masks for hole in self._holes(mask)]
        if isinstance(masks, Image.Image):
            return [mask_of(masks).to(self._execution_device)]
        return [mask.mean(dim=0, keepdim=True) > 0.5 for mask in as_tensors(masks, self._execution_device)]

    def fill(
        self, image: Tensor, hole: Tensor, options: RestoreOptions, jump_length: int = 5, jump_n_sample: int = 5
    ) -> Tensor:
        """Fills the hole `(1, H, W)`, bool, of one image `(C, H, W)` in [0, 1]; returns the whole image.

        Raises:
            InputError: for a hole of another size, and if the model does not make finite values.
        """
        if hole.shape[1:] != image.shape[1:]:
            (height, width), (h, w) = hole.shape[1:], image.shape[1:]
            raise InputError(f"the mask is {width}x{height} and the image {w}x{h} pixels; they must be of one size")
        process = process_of(self.scheduler)
        known = self.to_model(image[None])
        keep = (~hole).float()[None].expand_as(known)
        if process.name == FlowOptions.name:
            state = self._fill_flow(process, known, keep, options, (jump_length, jump_n_sample))
            filled = to_unit_range(from_model_channels(checked(state), image.shape[0])[0])
            return torch.where(hole, filled, image)
        # RePaint must follow the noise schedule that the model was trained with
        scheduler = RePaintScheduler(
            num_train_timesteps=self.scheduler.config.num_train_timesteps, trained_betas=self.scheduler.betas.numpy()
        )
        scheduler.set_timesteps(options.num_inference_steps, jump_length, jump_n_sample)
        state = randn_tensor(known.shape, generator=options.generator, device=known.device)
        before, number = int(scheduler.timesteps[0]) + 1, 0
        for time in scheduler.timesteps:
            if time < before:
                prediction = self.predict(state, time, options)
                # RePaint's scheduler knows one kind of prediction only
                noise = process.to_noise(prediction, state, int(time))
                state = scheduler.step(noise, time, state, known, keep, options.generator).prev_sample
                state, number = options.after_step(number, time, state), number + 1
            else:
                state = scheduler.undo_step(state, before, options.generator)
            before = int(time)
        filled = to_unit_range(from_model_channels(checked(state), image.shape[0])[0])
        return torch.where(hole, filled, image)

    def _fill_flow(
        self, process: Process, known: Tensor, keep: Tensor, options: RestoreOptions, jumps: tuple[int, int]
    ) -> Tensor:
        """Returns the filled state of a flow-matching model: RePaint with the levels of its own samplers.

        Args:
            process: the noise process.
            known: the image `(B, C, H, W)` in [-1, 1].
            keep: 1 where it is known, of that shape.
            options: how to work.
            jumps: the length of a jump back, and how many times each stretch is run.
        """
        rows = make_rows(process, process.sampling_times(options.num_inference_steps))[::-1]  # by number of the level
        scheduler = RePaintScheduler(num_train_timesteps=len(rows))  # only for the order of the levels
        scheduler.set_timesteps(len(rows), *jumps)

        def noise() -> Tensor:
            return randn_tensor(known.shape, generator=options.generator, device=known.device)

        state, before = noise(), len(rows)
        for level in scheduler.timesteps.tolist():
            if level < before:
                row = rows[level]
                filled = row.ancestral_step(process, state, self.predict(state, row.timestep, options), noise())
                state = keep * (row.next_signal * known + row.next_noise * noise()) + (1 - keep) * filled
            else:  # adds the noise between two levels
                row = rows[before]
                share = row.signal / row.next_signal
                state = share * state + max(row.noise**2 - (share * row.next_noise) ** 2, 0) ** 0.5 * noise()
            before = level
        return state


InpaintingPipeline.__module__ = "continuous_unet"
