"""Enlarges photographs: the library call behind `cunet upscale`, and its work on one of them."""

from collections.abc import Callable
from functools import partial

import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.images.photographs import Photograph
from continuous_unet.tasks.files import Work, file_call
from continuous_unet.tasks.loading import open_restorer, pretrained_models
from continuous_unet.tasks.restoration import how_to_restore, nothing
from continuous_unet.tasks.upscale.options import UpscaleOptions
from continuous_unet.tasks.upscale.pipeline import SuperResolutionPipeline


@file_call
def upscale_files(options: UpscaleOptions) -> Work:
    """Enlarges image files.

    Args:
        options: what is done to which files. Without a model, the packaged one of the factor is used.

    Raises:
        InputError: for options that do not fit each other, the model or the files; a bad file only fails itself.
    """
    name = options.model or f"upscale-x{options.scale or 2}"
    if options.model is None and name not in pretrained_models():
        raise InputError(f"no packaged model has the factor {options.scale}; train one, and name it with --model")
    pipeline = open_restorer(name, SuperResolutionPipeline, options)
    scale = pipeline.config["scale"]
    if options.scale not in (None, scale):
        raise InputError(f"--scale {options.scale}: the model {name} was trained for scale {scale}")
    pipeline.check_mode(options.mode, f"the model {name}")
    restore = partial(upscale_photograph, pipeline, options)
    return Work(restore, {"model": name, "mode": options.mode, "scale": scale}, scale)


@torch.no_grad()
def upscale_photograph(
    pipeline: SuperResolutionPipeline,
    options: UpscaleOptions,
    photograph: Photograph,
    before_tile: Callable[[], None] = nothing,
) -> tuple[Photograph, Json]:
    """Enlarges one photograph in memory; returns it, and no facts.

    Args:
        pipeline: what `load_restorer` gives.
        options: `mode`, `steps`, `seed`, `tile` and `overlap` are used.
        photograph: the small one.
        before_tile: called before each tile; an exception that it raises ends the work.
    """
    how = how_to_restore(options, "upscale", options.mode, options.steps, before_tile)
    bands = pipeline.bands(photograph.tensor().to(pipeline.device), how)
    return photograph.from_bands(bands, pipeline.config["scale"]), {}
