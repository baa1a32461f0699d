"""Restoration quality, measured as the literature measures it.

Denoising: white Gaussian noise is added to 8-bit values and not clipped. The result is rounded to 8 bits. PSNR and SSIM
are those of the whole image. Upscaling: images are cropped to a multiple of the factor, reduced by antialiased bicubic
interpolation, and rounded to 8 bits. PSNR and SSIM are those of Y of ITU-R BT.601 in studio range (16 to 235), without
a border of as many pixels as the factor. Every number is a mean over images. The metrics are those of torchmetrics.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import Json
from continuous_unet.data.sources import Reading, open_source
from continuous_unet.diffusion.process import process_of
from continuous_unet.evaluation.costs.memory import peak_memory
from continuous_unet.images.decode import Unreadable, normalise_mode, to_array
from continuous_unet.images.ranges import to_unit_range
from continuous_unet.images.resampling import degraded, to_8_bit
from continuous_unet.tasks.restoration import RestoreOptions

NO_LPIPS = "not measured; it needs torchvision and weights from the network (--lpips)"
SSIM_WINDOW = 11
"""Side of the Gaussian window, sigma 1.5: 3.5 sigma on each side of a pixel."""


def read_images(data: str | Path, channels: int, most: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields names and images `(C, H, W)` in [0, 1], at their own sizes, in the order of their names.

    Args:
        data: what `cunet train --data` takes: a folder, an archive and so on.
        channels: 1 or 3; other images are converted.
        most: the largest number of images; all if None.

    Raises:
        InputError: if an image cannot be read, because a mean without it would describe another set.
    """
    source = open_source(str(data), Reading("test"))
    for index in range(min(len(source), most or len(source))):
        try:
            image = normalise_mode(source.load(index), channels)
        except Unreadable as error:
            raise InputError(f"{source.names[index]} in {data} cannot be read: {error}") from error
        yield source.names[index], torch.from_numpy(to_unit_range(to_array(image, channels)))


class Quality:
    """Means over images of PSNR (dB), SSIM (at most 1) and, if wanted, LPIPS (arXiv 1801.03924; lower is better)."""

    def __init__(self, lpips: bool = False) -> None:
        metrics = import_extra("torchmetrics.functional.image", "evaluation needs torchmetrics", "evaluate")
        self._psnr, self._ssim = metrics.peak_signal_noise_ratio, metrics.structural_similarity_index_measure
        self._lpips = _lpips() if lpips else None
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, restored: Tensor, clean: Tensor) -> None:
        """Adds a pair of images `(C, H, W)` on the 0–255 scale.

        Raises:
            InputError: if they are smaller than the window of SSIM.
        """
        if min(clean.shape[1:]) < SSIM_WINDOW:
            raise InputError(
                f"an image leaves {clean.shape[2]}x{clean.shape[1]} pixels to measure; SSIM needs {SSIM_WINDOW} by "
                f"{SSIM_WINDOW}; leave smaller images out"
            )
        pair = restored[None].float(), clean[None].float()
        found = {"psnr": float(self._psnr(*pair, data_range=255.0)), "ssim": self.ssim(*pair)}
        if self._lpips is not None:
            found["lpips"] = float(self._lpips(*(image.expand(-1, 3, -1, -1) / 255 for image in pair)))
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def ssim(self, restored: Tensor, clean: Tensor) -> float:
        """Returns the mean of the SSIM map of two images `(1, C, H, W)` where the whole window lies inside the image.

        Wang et al. 2004, scikit-image and others leave the padded border out; torchmetrics averages over it as well.
        """
        # in float64: variances are differences of large squares
        pair = restored.double(), clean.double()
        _, full = self._ssim(*pair, data_range=255.0, return_full_image=True)
        inner = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
        return float(full[..., inner, inner].mean())

    def means(self, prefix: str = "") -> dict[str, float | None]:
        """Returns the means by name. LPIPS is None if it was not measured."""
        return {f"{prefix}lpips": None, **{prefix + name: value / self.count for name, value in self.sums.items()}}


def _lpips() -> Callable[..., Tensor]:
    """Returns the learned perceptual distance of images in [0, 1].

    Raises:
        InputError: if its network or its weights are unavailable.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except Exception as error:  # torchvision is missing, or the download failed in one of many ways
        raise InputError(
            f"LPIPS cannot be measured here ({' '.join(str(error).split())}); leave --lpips out"
        ) from error


def luma(image: Tensor) -> Tensor:
    """Returns Y of ITU-R BT.601, 16 to 235, `(1, H, W)`, of an image `(3, H, W)` or `(1, H, W)` in [0, 1]."""
    if image.shape[0] == 1:
        return 16 + 219 * image
    weights = image.new_tensor([65.481, 128.553, 24.966])
    return 16 + (image * weights[:, None, None]).sum(dim=0, keepdim=True)


# --------------------------------------------------------------------------------------------------------- experiments


class Restorer(Protocol):
    """A pipeline that makes a better image of an image: a `DenoisingPipeline` or a `SuperResolutionPipeline`."""

    task: str
    scheduler: Any
    config: Any
    device: torch.device
    __call__: Callable[..., Any]
    bands: Callable[..., Iterator[Tensor]]


class Trial(NamedTuple):
    """One image that was made worse."""

    given: Tensor
    """What the pipeline gets, `(C, H, W)` in [0, 1]; noise is not clipped."""
    target: Tensor
    """What its result is compared with, on the 0–255 scale."""
    before: Tensor
    """What it starts from, on the scale and in the size of the target."""
    generator: torch.Generator


class Experiment(Protocol):
    """How images are made worse, how a pipeline restores them, and which part of the result counts."""

    def setting(self) -> dict[str, float]:
        """Returns the values that identify the experiment in a row of results."""

    def trial(self, name: str, image: Tensor, seed: int) -> Trial:
        """Makes an image `(C, H, W)` in [0, 1] worse."""

    def restore(self, pipeline: Restorer, trial: Trial, how: RestoreOptions) -> Tensor:
        """Returns the restored image, `(C, H, W)` in [0, 1]."""

    def compared(self, restored: Tensor) -> Tensor:
        """Returns a restored image on the scale and in the size of the target."""


@dataclass(frozen=True)
class GaussianNoise:
    """White Gaussian noise, not clipped."""

    sigma: float
    """Standard deviation on the 0–255 scale."""
    known: bool = False
    """Whether the pipeline is given the sigma; otherwise it estimates it, if it needs it at all."""

    def setting(self) -> dict[str, float]:
        return {"sigma": self.sigma}

    @property
    def number(self) -> int:
        """A whole number for the strength of the noise, on which its seed depends."""
        return int(self.sigma * 1000)

    def trial(self, name: str, image: Tensor, seed: int) -> Trial:
        generator = torch.Generator().manual_seed(derive_seed("evaluation noise", seed, self.number, name))
        noisy = image + self.sigma / 255 * torch.randn(image.shape, generator=generator)
        return Trial(noisy, image * 255, noisy * 255, generator)

    def restore(self, pipeline: Restorer, trial: Trial, how: RestoreOptions) -> Tensor:
        sigma = self.sigma if self.known else "auto"
        return pipeline(trial.given, sigma=sigma, output_type="pt", **how.arguments()).images[0]

    def compared(self, restored: Tensor) -> Tensor:
        return to_8_bit(restored) * 255


@dataclass(frozen=True)
class NoisingStep(GaussianNoise):
    """The forward process of a diffusion model up to a timestep, which the model undoes (arXiv 2310.20092).

    `sigma` has the same noise-to-signal ratio on images that are not scaled down.
    """

    step: int = 0

    @classmethod
    def of(cls, pipeline: Restorer, step: int) -> "NoisingStep":
        """Returns the experiment of a timestep of a diffusion model.

        Raises:
            InputError: for a model that is not a diffusion model, or a timestep that it does not have.
        """
        if pipeline.scheduler is None:
            raise InputError("timesteps are those of a diffusion model; this model was trained to denoise: use --sigma")
        process = process_of(pipeline.scheduler)
        if not 0 <= step < process.num_train_timesteps:
            raise InputError(f"timestep {step} must lie in 0 to {process.num_train_timesteps - 1}")
        signal, noise = process.coefficients(step)
        return cls(sigma=noise / signal * 127.5, step=step)

    def setting(self) -> dict[str, float]:
        return {"step": self.step, "sigma": self.sigma}

    @property
    def number(self) -> int:
        return self.step

    @torch.no_grad()
    def restore(self, pipeline: Restorer, trial: Trial, how: RestoreOptions) -> Tensor:
        bands = pipeline.bands(trial.given.to(pipeline.device), None, replace(how, tiles=None), self.step)
        return torch.cat(list(bands), dim=1)


@dataclass(frozen=True)
class Reduction:
    """Images reduced by bicubic interpolation, and perhaps compressed; the start is bicubic enlargement."""

    scale: int
    jpeg: int | None = None
    """JPEG quality that the small image is saved with; None for no compression."""

    def setting(self) -> dict[str, float]:
        return {"scale": self.scale} if self.jpeg is None else {"scale": self.scale, "jpeg": self.jpeg}

    def trial(self, name: str, image: Tensor, seed: int) -> Trial:
        height, width = (length // self.scale * self.scale for length in image.shape[1:])
        if not height or not width:
            raise InputError(f"{name} is smaller than {self.scale} pixels; leave it out, or give larger images")
        clean = to_8_bit(image[:, :height, :width])
        small, enlarged = degraded(clean[None], self.scale, None if self.jpeg is None else [self.jpeg])
        generator = torch.Generator().manual_seed(derive_seed("evaluation sample", seed, name))
        return Trial(small[0], self._inner(clean), self.compared(enlarged[0]), generator)

    def restore(self, pipeline: Restorer, trial: Trial, how: RestoreOptions) -> Tensor:
        return pipeline(trial.given, output_type="pt", **how.arguments()).images[0]

    def compared(self, restored: Tensor) -> Tensor:
        return self._inner(to_8_bit(restored))

    def _inner(self, image: Tensor) -> Tensor:
        inner = slice(self.scale, -self.scale)
        return luma(image)[:, inner, inner]


def measure(
    experiment: Experiment,
    pipeline: Restorer,
    images: Iterable[tuple[str, Tensor]],
    how: RestoreOptions | None = None,
    *,
    seed: int = 0,
    lpips: bool = False,
) -> Json:
    """Measures the quality of restored images, and that of the images from which they were restored.

    Args:
        experiment: how images are made worse.
        pipeline: a `DenoisingPipeline` or `SuperResolutionPipeline`.
        images: what `read_images` yields, in the model's channels.
        how: how the pipeline works; each image gets a generator of its own.
        seed: seed of the noise. The noise of an image depends on it, on the strength of the noise and on its name.
        lpips: whether LPIPS is measured too.

    Returns:
        The experiment's setting, `images`, `psnr`, `ssim`, `lpips`, the same of the start as `input_…`, and
        `megapixels_per_second` of the results.

    Raises:
        InputError: if there are no images, or one is too small.
    """
    after, before = Quality(lpips), Quality(lpips)
    pixels, seconds = 0, 0.0
    for name, image in images:
        trial = experiment.trial(name, image, seed)
        started = time.perf_counter()
        own = replace(how or RestoreOptions(), generator=trial.generator)
        restored = experiment.restore(pipeline, trial, own).cpu()
        seconds += time.perf_counter() - started
        pixels += restored[0].numel()
        after.add(experiment.compared(restored), trial.target)
        before.add(trial.before, trial.target)
    if not after.count:
        raise InputError("there are no images to evaluate on; name a folder or an archive with images")
    row = {**experiment.setting(), "images": after.count, **after.means(), **before.means("input_")}
    return {**row, "megapixels_per_second": pixels / 1e6 / seconds if seconds else 0.0}


def peak_memory_of(pipeline: Restorer, largest: Tensor, how: RestoreOptions) -> Json:
    """Measures the most bytes alive at once in the restoration of an image `(C, H, W)`, reduced first for an upscaler.

    A denoiser is given sigma 25, so that estimating it does not count.
    """
    extra: Json = {"sigma": 25.0}
    if pipeline.task == "upscale":
        height, width = (length // pipeline.config.scale for length in largest.shape[1:])
        largest, extra = largest[:, :height, :width], {}
    call = partial(pipeline, largest, output_type="pt", **how.arguments(), **extra)
    size, method = peak_memory(call, device=pipeline.device)
    return {"peak_memory_bytes": size, "peak_memory_method": method, "peak_memory_shape": list(largest.shape)}
