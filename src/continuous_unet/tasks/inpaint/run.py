"""Fills holes in photographs: the library call behind `cunet inpaint`, and its work on one of them."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.images.decode import Unreadable, open_image
from continuous_unet.images.masks import mask_of
from continuous_unet.images.photographs import Photograph
from continuous_unet.tasks.files import Work, file_call
from continuous_unet.tasks.generate.options import guidance_interval
from continuous_unet.tasks.inpaint.options import InpaintOptions
from continuous_unet.tasks.inpaint.pipeline import InpaintingPipeline
from continuous_unet.tasks.loading import open_restorer
from continuous_unet.tasks.restoration import how_to_restore, nothing


@file_call
def inpaint_files(options: InpaintOptions) -> Work:
    """Fills what a mask marks in image files.

    Args:
        options: what is done to which files.

    Raises:
        InputError: for options that do not fit each other, the model, the mask or the files; a bad file only fails
            itself.
    """
    pipeline = open_restorer(str(options.model), InpaintingPipeline, options)
    count = pipeline.scheduler.config.num_train_timesteps
    if options.steps > count:
        raise InputError(
            f"--steps {options.steps} is more than the {count} timesteps of the model; take at most {count}"
        )
    try:
        with open_image(options.mask, options.max_pixels) as opened:
            mask = mask_of(opened)
    except Unreadable as error:
        raise InputError(f"the mask {options.mask} cannot be read: {error}") from error
    return Work(partial(inpaint_photograph, pipeline, options, mask.to(pipeline.device)), {"model": options.model})


@torch.no_grad()
def inpaint_photograph(
    pipeline: InpaintingPipeline,
    options: InpaintOptions,
    mask: Tensor,
    photograph: Photograph,
    before_tile: Callable[[], None] = nothing,
) -> tuple[Photograph, Json]:
    """Fills one photograph in memory; returns it, and no facts.

    Args:
        pipeline: what `load_restorer` gives.
        options: `steps`, `jump_length`, `resamples`, `seed`, `tile` and `overlap` are used, and what is asked for.
        mask: what is filled, bool `(1, H, W)`.
        photograph: the one with a hole.
        before_tile: called before each tile; an exception that it raises ends the work.
    """
    request = {
        "class_labels": options.class_label,
        "prompt": options.prompt,
        "negative_prompt": options.negative_prompt,
        "guidance_scale": options.guidance,
        "guidance_interval": guidance_interval(options.guidance_interval),
    }
    how = replace(how_to_restore(options, "inpaint", "sample", options.steps, before_tile), request=request)
    image = photograph.tensor().to(pipeline.device)
    return photograph.from_bands([pipeline.fill(image, mask, how, options.jump_length, options.resamples)]), {}
