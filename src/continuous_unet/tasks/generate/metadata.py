"""What the PNG files of `cunet sample` say about how their images were made."""

from collections.abc import Sequence
from pathlib import Path

from continuous_unet import __version__
from continuous_unet.base.results import Json
from continuous_unet.tasks.generate.options import DEFAULT_STRENGTH, SampleOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.generate.rows import Row


def describe_image(
    options: SampleOptions,
    pipeline: DiffusionSamplingPipeline,
    rows: Sequence[Row],
    steps: int,
    place: int | None = None,
) -> Json:
    """Returns how an image was made, or a grid of all images. Of paths it has the last part only.

    Args:
        options: those of the call.
        pipeline: the model.
        rows: what was asked for.
        steps: number of sampling steps from noise.
        place: the place of the image among all images of all rows; None for a grid.
    """
    if place is None:
        shown = [each for row in rows for each in (row.turns[: options.num] or [row])]
    else:
        shown = [rows[place // options.num].of(place % options.num)]
    asked: Json = {"class": [row.class_name for row in shown if row.class_name]}
    asked["prompt"] = [row.request["prompt"] for row in shown if row.request.get("prompt") is not None]
    scale = options.guidance
    if scale is None and any(asked.values()):
        scale = pipeline.facts.conditions.guidance_scale
    sampler = pipeline.facts.sampler
    distilled = sampler is not None and sampler.distilled
    folder = Path(options.model).resolve()
    return {
        "version": __version__,
        "model": folder.parent.name if folder.name == "model" else folder.name,
        **{name: values[0] if len(values) == 1 else values or None for name, values in asked.items()},
        "negative_prompt": shown[0].request.get("negative_prompt"),
        "guidance_scale": scale,
        "guidance_interval": options.guidance_interval,
        "image": None if options.image is None else Path(options.image).name,
        "strength": None if options.image is None else options.strength or DEFAULT_STRENGTH,
        "scheduler": "distilled" if distilled else options.scheduler or type(pipeline.scheduler).__name__,
        "steps": steps,
        "solver_steps": options.solver_steps,
        "seed": options.seed,
        **({"images": options.num * len(rows)} if place is None else {"number": place % options.num}),
    }
