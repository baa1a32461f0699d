"""The latency of a model in other runtimes, relative to eager PyTorch."""

import tempfile
from collections.abc import Sequence
from typing import Any

from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from continuous_unet.base.errors import InputError
from continuous_unet.deploy.export import export_model
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.parity import ParityError
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline


def exported_latency(unet: Any, formats: Sequence[str], repeats: int) -> dict[str, float]:
    """Returns the latency of one image in exported form, relative to eager PyTorch in the same rounds, by format.

    A model that cannot be exported to a format, or a format whose packages are missing, has no entry for it.

    Args:
        unet: a U-Net that makes images.
        formats: of `cunet export`.
        repeats: number of timed evaluations.
    """
    found = {}
    pipeline = DiffusionSamplingPipeline(unet, DDPMScheduler())
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size[-2:]
    for form in formats:
        with tempfile.TemporaryDirectory() as folder:
            shape = f"1x{height}x{width}"
            options = ExportOptions(output=f"{folder}/out", format=form, static_shape=shape, repeats=repeats)
            try:
                found[form] = float(export_model(pipeline, options)["latency"]["ratio"])
            except (InputError, ParityError):
                continue
    return found
