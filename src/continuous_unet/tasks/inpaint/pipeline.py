"""Fills holes in images by any diffusion model, not trained for it: RePaint (arXiv 2201.09865).

A model of latents fills the latents of the image: a latent is filled if the mask marks any of its pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_repaint import RePaintScheduler
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from torch.nn import functional

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.options import FlowOptions
from continuous_unet.diffusion.process import Process, process_of
from continuous_unet.diffusion.table import make_rows
from continuous_unet.images.masks import mask_of
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.images.tiling import Tiles, padded
from continuous_unet.tasks.callbacks import TENSOR_INPUTS, StepCallback, after_each_step
from continuous_unet.tasks.generate.prediction import Predictor
from continuous_unet.tasks.generate.prompts import text_conditions
from continuous_unet.tasks.generate.request import ClassLabel, ask
from continuous_unet.tasks.latents import CodecPipeline
from continuous_unet.tasks.restoration import (
    Evaluate,
    Images,
    RestorationPipeline,
    RestoreOptions,
    as_tensors,
    checked,
    from_model_channels,
    nothing,
)


class InpaintingPipeline(CodecPipeline, RestorationPipeline):
    """Fills what a mask marks; every other pixel stays as it was.

    Args:
        unet: a diffusion model of grey or RGB images, or of the latents of a codec of such images.
        scheduler: a scheduler of its noise schedule.
        facts: what is saved with the model, such as the names of its classes.
        codec: what makes images of the latents that the U-Net makes; None for a U-Net of pixels.

    Raises:
        InputError: if the facts do not fit the U-Net.
    """

    task = "inpaint"

    @property
    def channels(self) -> int:
        """The number of channels of the images that are filled, 1 or 3."""
        return self.codec.channels

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
        class_labels: ClassLabel | None = None,
        prompt: str | None = None,
        negative_prompt: str | None = None,
        guidance_scale: float | None = None,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
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
            class_labels: the class of all images, by name or by number; class-conditional models only.
            prompt: what all images show, in words, for models that were trained with captions.
            negative_prompt: what guidance leads away from; any image if None.
            guidance_scale: see `DiffusionSamplingPipeline`.
            guidance_interval: the part of the noise range with guidance.

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
        request = {
            "class_labels": class_labels,
            "prompt": prompt,
            "negative_prompt": negative_prompt,
            "guidance_scale": guidance_scale,
            "guidance_interval": guidance_interval,
        }
        options = RestoreOptions("sample", num_inference_steps, generator, tiles, before_tile, after_step, request)
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
        factor, tiles = self.codec.factor, options.tiles or Tiles()
        # the side of a tile is in pixels, and the network sees latents
        tiles = Tiles(max(16, tiles.size // factor), tiles.overlap // factor) if factor > 1 else tiles
        options = replace(options, tiles=tiles)
        known = self.codec.encode(padded(self.to_model(image[None]), factor))
        marked = padded(hole.float()[None], factor)
        keep = (1 - functional.max_pool2d(marked, factor)).expand_as(known)
        if process.name == FlowOptions.name:
            evaluate = self._evaluate(options.request, process.sampling_times(options.num_inference_steps), len(known))
            state = self._fill_flow(process, known, keep, options, (jump_length, jump_n_sample), evaluate)
            return self._finish(state, image, hole)
        # RePaint must follow the noise schedule that the model was trained with
        scheduler = RePaintScheduler(
            num_train_timesteps=self.scheduler.config.num_train_timesteps,
            trained_betas=self.scheduler.betas.numpy(),
            clip_sample=process.clip_range is not None,
        )
        scheduler.set_timesteps(options.num_inference_steps, jump_length, jump_n_sample)
        state = randn_tensor(known.shape, generator=options.generator, device=known.device)
        before, number = int(scheduler.timesteps[0]) + 1, 0
        evaluate = self._evaluate(options.request, scheduler.timesteps.tolist(), len(known))
        for time in scheduler.timesteps:
            if time < before:
                prediction = self.predict(state, time, options, evaluate)
                # RePaint's scheduler knows one kind of prediction only
                noise = process.to_noise(prediction, state, int(time))
                state = scheduler.step(noise, time, state, known, keep, options.generator).prev_sample
                state, number = options.after_step(number, time, state), number + 1
            else:
                state = scheduler.undo_step(state, before, options.generator)
            before = int(time)
        return self._finish(state, image, hole)

    def _finish(self, state: Tensor, image: Tensor, hole: Tensor) -> Tensor:
        """Returns the image `(C, H, W)`, with the last state of the sampling in its hole."""
        made = from_model_channels(checked(self.codec.decode(state)), image.shape[0])[0]
        made = made[:, : image.shape[1], : image.shape[2]]
        return torch.where(hole, to_unit_range(made), image)

    def _evaluate(self, request: Mapping[str, Any], times: Sequence[float], batch: int) -> Evaluate | None:
        """Returns the evaluation of a conditional model for a batch; None for a model without conditions.

        Raises:
            InputError: for a request that the model cannot be asked for.
        """
        request = dict(request)
        prompts = request.pop("prompt", None), request.pop("negative_prompt", None)
        device = self._execution_device
        text = text_conditions(self.unet, self.facts.text, *prompts, 1)
        asked = ask(self.unet.config, self.facts, 1, device, text=text, **request)
        if not asked.conditions:
            return None
        distinct = torch.tensor(sorted(set(times), reverse=True), device=device)
        predict = Predictor(self.unet, asked, distinct, self.scheduler.config.num_train_timesteps, batch)
        return lambda tile, timestep: predict(tile.to(self.unet.dtype), torch.as_tensor(timestep, device=device))

    def _fill_flow(
        self,
        process: Process,
        known: Tensor,
        keep: Tensor,
        options: RestoreOptions,
        jumps: tuple[int, int],
        evaluate: Evaluate | None,
    ) -> Tensor:
        """Returns the filled state of a flow-matching model: RePaint with the levels of its own samplers.

        Args:
            process: the noise process.
            known: the image `(B, C, H, W)` in [-1, 1].
            keep: 1 where it is known, of that shape.
            options: how to work.
            jumps: the length of a jump back, and how many times each stretch is run.
            evaluate: see `RestorationPipeline.predict`.
        """
        rows = make_rows(process, process.sampling_times(options.num_inference_steps))[::-1]  # by number of the level
        scheduler = RePaintScheduler(num_train_timesteps=len(rows))  # only for the order of the levels
        scheduler.set_timesteps(len(rows), *jumps)

        def noise() -> Tensor:
            return randn_tensor(known.shape, generator=options.generator, device=known.device)

        state, before, number = noise(), len(rows), 0
        for level in scheduler.timesteps.tolist():
            if level < before:
                row = rows[level]
                filled = row.ancestral_step(
                    process, state, self.predict(state, row.timestep, options, evaluate), noise()
                )
                state = keep * (row.next_signal * known + row.next_noise * noise()) + (1 - keep) * filled
                state, number = options.after_step(number, row.timestep, state), number + 1
            else:  # adds the noise between two levels
                row = rows[before]
                share = row.signal / row.next_signal
                state = share * state + max(row.noise**2 - (share * row.next_noise) ** 2, 0) ** 0.5 * noise()
            before = level
        return state


InpaintingPipeline.__module__ = "continuous_unet"
