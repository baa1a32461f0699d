"""What one image costs: the whole sampling run, not one evaluation of the model."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline


@dataclass(frozen=True)
class ImageCost:
    """The cost of one image."""

    parameters: int
    """Parameters of the whole pipeline, a decoder included."""
    evaluations: int
    """How many times the model is evaluated; guidance takes two for one sampling step."""
    macs_per_image: int
    """Multiply-accumulates of everything that the pipeline computes for one image."""


def image_cost(pipeline: DiffusionSamplingPipeline, sampling_steps: int, **request: Any) -> ImageCost:
    """Counts what one image costs, by making one.

    Args:
        pipeline: the model and its sampler.
        sampling_steps: number of sampling steps.
        request: what else the image is asked for with, as arguments of the pipeline, such as `guidance_scale`.
    """
    evaluations = 0

    def count(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal evaluations
        sample: Tensor = arguments[0] if arguments else named["sample"]
        evaluations += len(sample)

    generator = torch.Generator().manual_seed(0)
    options = {"num_inference_steps": sampling_steps, "output_type": "pt", **request}
    unet: Any = pipeline.unet
    handle = unet.register_forward_pre_hook(count, with_kwargs=True)
    try:
        macs = count_macs(pipeline, batch_size=1, generator=generator, **options).macs
    finally:
        handle.remove()
    parts = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    return ImageCost(sum(p.numel() for part in parts for p in part.parameters()), evaluations, macs)
