"""Grids of samples while training: the same seeds each time, so that grids can be compared."""

import math
from typing import Any

from PIL import Image

from continuous_unet.base.processes import Processes
from continuous_unet.base.signals import StopRequest
from continuous_unet.diffusion.process import Process
from continuous_unet.images.grids import make_grid
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, gather_images, generate_share

BATCH = 16


def sample_grid(
    unet: Any,
    process: Process,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
    num_classes: int | None = None,
    processes: Processes | None = None,
    stop: StopRequest | None = None,
) -> Image.Image:
    """Samples with DDIM and lays the images out as one picture, with a row for each class where there are classes.

    Args:
        unet: in evaluation mode.
        process: that the model was trained with.
        num_images: in the grid.
        num_inference_steps: number of sampling steps.
        seed: image k depends on `(seed, k)`.
        num_classes: of a class-conditional model.
        processes: that share the work; this one alone if None.
        stop: asked before every evaluation of the model.

    Returns:
        A picture for `write_png`, in every process.

    Raises:
        Stopped: if a process is asked to stop.
    """
    processes = processes or Processes()
    pipeline = DiffusionSamplingPipeline(unet, process.make_sampler("ddim"))
    pipeline.set_progress_bar_config(disable=True)
    labels: list[int | None] = [None] if num_classes is None else list(range(num_classes))
    share = math.ceil(num_images / len(labels))
    jobs = [
        (label, range(start, min(start + BATCH, (number + 1) * share, num_images)))
        for number, label in enumerate(labels)
        for start in range(number * share, min((number + 1) * share, num_images), BATCH)
    ]
    options = {"seed": seed, "num_inference_steps": num_inference_steps}
    made = generate_share(pipeline, jobs, processes=processes, stop=stop or StopRequest(), **options)
    return make_grid(gather_images(made, processes), columns=share if len(labels) > 1 else None)
