"""Removes noise from photographs: the library call behind `cunet denoise`, and its work on one of them."""

from collections.abc import Callable
from dataclasses import replace

import torch

from continuous_unet.base.results import Json
from continuous_unet.images.photographs import Photograph
from continuous_unet.tasks.denoise.options import DenoiseOptions
from continuous_unet.tasks.denoise.pipeline import DenoisingPipeline
from continuous_unet.tasks.files import Work, file_call
from continuous_unet.tasks.loading import open_restorer
from continuous_unet.tasks.restoration import how_to_restore, nothing

PACKAGED = ("denoise-grey", "denoise-colour")
"""The models that are used where none is named."""


@file_call
def denoise_files(options: DenoiseOptions) -> Work:
    """Denoises image files.

    Args:
        options: what is done to which files. Without a model, the blind ones of the package are used: the grey one for
            grey images, the other for colour.

    Raises:
        InputError: for options that do not fit each other, the model or the files; a bad file only fails itself.
    """
    names = PACKAGED if options.model is None else (options.model,)
    pipelines = {name: open_restorer(name, DenoisingPipeline, options) for name in names}
    for name, pipeline in pipelines.items():
        pipeline.check_mode(options.mode, f"the model {name}")

    def restore(photograph: Photograph, before_tile: Callable[[], None]) -> tuple[Photograph, Json]:
        fitting = [name for name in names if pipelines[name].channels == photograph.pixels.shape[2]]
        name = (fitting or names)[0]
        restored, facts = denoise_photograph(pipelines[name], options, photograph, before_tile)
        return restored, {"model": name, **facts}

    return Work(restore, {"model": ", ".join(names), "mode": options.mode})


@torch.no_grad()
def denoise_photograph(
    pipeline: DenoisingPipeline,
    options: DenoiseOptions,
    photograph: Photograph,
    before_tile: Callable[[], None] = nothing,
) -> tuple[Photograph, Json]:
    """Denoises one photograph in memory.

    Args:
        pipeline: what `load_restorer` gives.
        options: `sigma`, `mode`, `steps`, `seed`, `tile` and `overlap` are used.
        photograph: the noisy one.
        before_tile: called before each tile; an exception that it raises ends the work.

    Returns:
        The photograph, whose notes say what was decided, and the `sigma` that was assumed, on the 0–255 scale.
    """
    image = photograph.tensor().to(pipeline.device)
    sigma = pipeline.strength(image, options.strength())
    how = how_to_restore(options, "denoise", options.mode, options.steps, before_tile)
    result = photograph.from_bands(pipeline.bands(image, sigma, how))
    return replace(result, notes=[*result.notes, *_notes(pipeline, options, image, sigma)]), {"sigma": sigma}


def _notes(pipeline: DenoisingPipeline, options: DenoiseOptions, image: torch.Tensor, sigma: float | None) -> list[str]:
    notes = []
    if sigma is not None and options.sigma == "auto":
        notes.append(f"the noise was estimated: sigma {sigma:.1f} on the 0–255 scale")
    low, high = pipeline.config["sigma_min"], pipeline.config["sigma_max"]
    if sigma is not None and pipeline.scheduler is None and not low <= sigma <= high:
        notes.append(f"sigma {sigma:.1f} is outside the range that the model was trained on, {low:g} to {high:g}")
    if not pipeline.needs_sigma and options.sigma != "auto":
        notes.append("the sigma was not used: the model is blind")
    if image.shape[0] != pipeline.channels:
        how = "channel by channel" if pipeline.channels == 1 else "as grey in all three channels"
        notes.append(f"{'colour' if image.shape[0] == 3 else 'grey'} image, denoised {how}")
    return notes
