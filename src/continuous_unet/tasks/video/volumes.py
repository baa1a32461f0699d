"""Removes noise from large volumes with a model that was trained on small ones, in overlapping patches."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_output
from continuous_unet.base.results import CallResult
from continuous_unet.base.signals import StopRequest, stop_on_signals
from continuous_unet.data.volumes import Volume, check_ending, read_volume, write_volume
from continuous_unet.diffusion.process import process_of
from continuous_unet.images.patches import OVERLAP, PATCH, in_patches
from continuous_unet.tasks.video.options import VolumeOptions
from continuous_unet.tasks.video.pipeline import VideoPipeline, load_video


@dataclass
class VolumeResult(CallResult):
    """The volume that was written."""

    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    file: str
    seconds: float

    def to_text(self) -> str:
        sides, sizes = ("x".join(f"{each:g}" for each in numbers) for numbers in (self.shape, self.spacing))
        return f"a volume of {sides} voxels of {sizes} in {self.seconds:.1f} s: {self.file}"


def denoise_file(options: VolumeOptions, *, stop: StopRequest | None = None) -> VolumeResult:
    """Removes noise from a volume in a file; see `denoise_volume`.

    Args:
        options: the model, the files, and the noise.
        stop: is checked before every patch. If None, signals stop the work, and nothing is written.

    Raises:
        InputError: for a model or a volume that cannot be used, and if the file cannot be written.
    """
    options.validate()
    if options.patch < 2 * options.overlap:
        raise InputError(f"--patch {options.patch} must be at least twice --overlap {options.overlap}")
    target = check_output(options.output, overwrite=options.overwrite)
    check_ending(target)
    pipeline = load_video(options.model, device=pick_device(options.device))
    volume = read_volume(options.input)
    low, high = options.black, options.white
    limits = (
        float(volume.values.min()) if low is None else low,
        float(volume.values.max()) if high is None else high,
    )
    started, sides = time.perf_counter(), {"patch": options.patch, "overlap": options.overlap}
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        clean = denoise_volume(pipeline, volume, options.sigma, limits=limits, before_patch=request.check, **sides)
    write_volume(clean, target)
    return VolumeResult(clean.values.shape, clean.spacing, str(target), time.perf_counter() - started)


@torch.no_grad()
def denoise_volume(
    pipeline: VideoPipeline,
    volume: Volume,
    sigma: float,
    *,
    limits: tuple[float, float] | None = None,
    patch: int = PATCH,
    overlap: int = OVERLAP,
    before_patch: Callable[[], None] = lambda: None,
) -> Volume:
    """Returns a volume without its white Gaussian noise, in the same place and with the same spacing.

    A diffusion model is trained at many noise levels. Each patch, scaled as in training, is its input at the timestep
    whose noise is nearest to `sigma`. One evaluation then estimates the posterior mean: the clean volume with the least
    expected squared error.

    Args:
        pipeline: a model of one channel that was trained on volumes, depth in place of time.
        volume: the noisy volume, of any size.
        sigma: the standard deviation of the noise, in the unit of the values.
        limits: the values that were black and white in training; the smallest and the largest value if None.
        patch: side of the patches in voxels.
        overlap: voxels that neighbouring patches share.
        before_patch: called before each patch; an exception that it raises ends the work.

    Raises:
        InputError: for a model of more channels, limits or a sigma that make no sense, and noise that is too strong.
    """
    unet, process = pipeline.unet, process_of(pipeline.scheduler)
    config = unet.config
    if (config.in_channels, config.out_channels) != (1, 1):
        raise InputError(
            f"the model takes {config.in_channels} channels and gives {config.out_channels}, and volumes have one; "
            "name a model that was trained on volumes"
        )
    low, high = (float(volume.values.min()), float(volume.values.max())) if limits is None else limits
    if not -math.inf < low < high < math.inf:
        raise InputError(
            f"black is {low:g} and white {high:g}: expected two finite numbers, the smaller one first (--black, "
            "--white; the smallest and the largest value of the volume if they are left out)"
        )
    ratio = 2 * sigma / (high - low)  # of values in [-1, 1]
    signal, noise = process.coefficients(process.last_time)
    if not ratio > 0 or ratio * signal > noise:
        strongest = noise / signal * (high - low) / 2 if signal else math.inf
        raise InputError(f"sigma {sigma:g} must be above 0, and at most {strongest:g}, the model's strongest noise")
    timestep = process.nearest_time(ratio)
    scale = process.coefficients(timestep)[0]

    def clean(piece: Tensor) -> Tensor:
        x_t = piece.to(unet.device, unet.dtype) * scale
        times = torch.full((len(piece),), timestep, device=unet.device)
        return process.to_clean(unet(x_t, times).sample, x_t, times).float().cpu()

    values = torch.from_numpy((volume.values - low) / (high - low) * 2 - 1).float()[None, None]
    multiples = unet.architecture.size_multiples(3)  # type: ignore[attr-defined]
    made = in_patches(clean, values, multiples=multiples, patch=patch, overlap=overlap, before_patch=before_patch)
    return volume.with_values((made[0, 0].numpy() + 1) / 2 * np.float32(high - low) + np.float32(low))
