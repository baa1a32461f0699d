"""Grids of samples while training: the same seeds each time, so that grids can be compared."""

import math
from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from continuous_unet.tasks.generation import DiffusionSamplingPipeline, generate
from continuous_unet.tasks.images import make_grid
from continuous_unet.tasks.schedulers import make_scheduler

BATCH = 16
"""Small, so that a request to stop is heard soon."""


def sample_grid(
    unet: Any,
    noise_scheduler: Any,
    *,
    num_images: int,
    num_inference_steps: int,
    seed: int,
    num_classes: int | None = None,
    give_up: Callable[[], bool] = lambda: False,
) -> Image.Image | None:
    """Sample with DDIM and lay the images out as one picture, a row per class where there are classes.

    Args:
        unet: in evaluation mode.
        noise_scheduler: the training scheduler; DDIM takes its noise schedule and prediction type.
        num_images: in the grid.
        num_inference_steps: of DDIM.
        seed: image k depends on `(seed, k)`.
        num_classes: of a class-conditional model.
        give_up: asked before each batch; if it says yes, there is no grid.

    Returns:
        A picture for `write_png`, or None if given up.
    """
    pipeline = DiffusionSamplingPipeline(unet, make_scheduler("ddim", noise_scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    labels = [None] if num_classes is None else list(range(num_classes))
    share = math.ceil(num_images / len(labels))
    images: list[Tensor] = []
    for number, label in enumerate(labels):
        first = number * share
        for start in range(first, min(first + share, num_images), BATCH):
            if give_up():
                return None
            count = min(BATCH, first + share - start)
            images += generate(
                pipeline, count, seed=seed, num_inference_steps=num_inference_steps, class_label=label, first=start
            )
    return make_grid(torch.cat(images)[:num_images], columns=share if len(labels) > 1 else None)
