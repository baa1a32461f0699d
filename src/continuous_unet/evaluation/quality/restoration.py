"""Restoration measured as its literature measures it.

Denoising: white Gaussian noise on 8-bit values, not clipped; result rounded to 8 bits; PSNR and SSIM of the whole
image. Super-resolution: images cropped to a multiple of the scale, made small by antialiased bicubic interpolation,
rounded to 8 bits; PSNR and SSIM on Y of ITU-R BT.601 in studio range (16 to 235), a border of `scale` pixels left off.
Every number is a mean over images. Metrics are torchmetrics'.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.data.sources import open_source
from continuous_unet.evaluation.costs.memory import peak_memory
from continuous_unet.images.decode import Unreadable, normalise_mode, to_array
from continuous_unet.images.resampling import degraded, to_8_bit
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.restoration import RestoreOptions

Check = Callable[[], None]
NO_LPIPS = "not measured; it needs torchvision and weights from the network (--lpips)"
SSIM_WINDOW = 11


def nothing() -> None:
    """What is called between images unless there is something to do."""


def read_images(data: str, channels: int, most: int | None = None) -> Iterator[tuple[str, Tensor]]:
    """Names and images `(C, H, W)` in [0, 1] of what `cunet train --data` takes, at their own sizes.

    Args:
        data: a folder, an archive and so on.
        channels: 1 or 3; what images have otherwise is converted.
        most: images to give at most, the first by name.

    Raises:
        InputError: if one cannot be read: a mean without it would be of another set.
    """
    source = open_source(data, "test")
    for index in range(min(len(source), most or len(source))):
        try:
            image = normalise_mode(source.load(index), channels)
        except Unreadable as error:
            raise InputError(f"{source.names[index]} in {data} cannot be read: {error}") from error
        yield source.names[index], torch.from_numpy(to_array(image, channels) / 2 + 0.5)


class Quality:
    """PSNR (dB) and SSIM, and LPIPS if asked for, of restored images; sums that become means."""

    def __init__(self, lpips: bool = False) -> None:
        try:
            from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure
        except ImportError as error:
            raise InputError("evaluation needs torchmetrics: pip install 'continuous-unet[evaluate]'") from error
        self._psnr, self._ssim = peak_signal_noise_ratio, structural_similarity_index_measure
        self._lpips = _lpips() if lpips else None
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, restored: Tensor, clean: Tensor) -> None:
        """Two images `(C, H, W)` of values up to 255.

        Raises:
            InputError: if they are smaller than the window of SSIM.
        """
        if min(clean.shape[1:]) < SSIM_WINDOW:
            raise InputError(
                f"an image leaves {clean.shape[2]}x{clean.shape[1]} pixels to measure; SSIM needs {SSIM_WINDOW} by "
                f"{SSIM_WINDOW}"
            )
        pair = restored[None].float(), clean[None].float()
        ssim: Any = self._ssim(*pair, data_range=255.0)  # a pair only where it is asked for more
        found = {"psnr": float(self._psnr(*pair, data_range=255.0)), "ssim": float(ssim)}
        if self._lpips is not None:
            found["lpips"] = float(self._lpips(*(image.expand(-1, 3, -1, -1) / 255 for image in pair)))
        for name, value in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def means(self) -> dict[str, float | None]:
        """By name; LPIPS is None where it was not measured."""
        means: dict[str, float | None] = {name: value / self.count for name, value in self.sums.items()}
        return {"lpips": None, **means}


def _lpips() -> Callable[..., Tensor]:
    """Learned perceptual distance of images in [0, 1].

    Raises:
        InputError: where its network or its weights cannot be had.
    """
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except Exception as error:  # torchvision is missing, or the download failed in one of many ways
        raise InputError(
            f"LPIPS cannot be measured here ({' '.join(str(error).split())}); leave --lpips out"
        ) from error


def luma(image: Tensor) -> Tensor:
    """Y of ITU-R BT.601, 16 to 235, of an image `(3, H, W)` or `(1, H, W)` in [0, 1]: `(1, H, W)`."""
    if image.shape[0] == 1:
        return 16 + 219 * image
    weights = image.new_tensor([65.481, 128.553, 24.966])
    return 16 + (image * weights[:, None, None]).sum(dim=0, keepdim=True)


def evaluate_denoising(
    pipeline: Any,
    images: Iterable[tuple[str, Tensor]],
    sigma: float,
    *,
    known: bool = False,
    mode: str = "mean",
    num_inference_steps: int = 20,
    seed: int = 0,
    tiles: Tiles | None = None,
    lpips: bool = False,
    check: Check = nothing,
) -> dict[str, Any]:
    """Quality of denoised images, beside the noisy ones'.

    Args:
        pipeline: a `DenoisingPipeline`.
        images: of `read_images`, with the model's channels.
        sigma: of the noise, of 255.
        known: tell the pipeline the sigma; estimated otherwise, where it is needed at all.
        mode: of the pipeline.
        num_inference_steps: of mode `"sample"`.
        seed: of the noise; that of an image depends on it, the sigma and the image's name.
        tiles: see `Tiles`.
        lpips: measure LPIPS, too.
        check: called before each tile; what it raises ends the work.

    Returns:
        `images`, `sigma`, `psnr`, `ssim`, `lpips`, the same of the input as `input_…`, `megapixels_per_second`.
    """
    after, before = Quality(lpips), Quality(lpips)
    pixels, seconds = 0, 0.0
    for name, clean in images:
        generator = torch.Generator().manual_seed(derive_seed("evaluation noise", seed, int(sigma * 1000), name))
        noisy = clean + sigma / 255 * torch.randn(clean.shape, generator=generator)
        started = time.perf_counter()
        restored = pipeline(
            noisy,
            sigma=sigma if known else "auto",
            mode=mode,
            num_inference_steps=num_inference_steps,
            generator=generator,
            tiles=tiles,
            output_type="pt",
            before_tile=check,
        ).images[0]
        seconds += time.perf_counter() - started
        pixels += clean.shape[1] * clean.shape[2]
        after.add(to_8_bit(restored.cpu()) * 255, clean * 255)
        before.add(noisy * 255, clean * 255)
    return _row(after, before, {"sigma": sigma}, pixels, seconds)


def evaluate_upscaling(
    pipeline: Any,
    images: Iterable[tuple[str, Tensor]],
    *,
    mode: str = "mean",
    num_inference_steps: int = 20,
    seed: int = 0,
    tiles: Tiles | None = None,
    lpips: bool = False,
    check: Check = nothing,
) -> dict[str, Any]:
    """Quality of enlarged images, beside bicubic enlargement; arguments and result as of `evaluate_denoising`.

    `megapixels_per_second` are of the large images.
    """
    after, before = Quality(lpips), Quality(lpips)
    pixels, seconds = 0, 0.0
    scale = pipeline.config.scale
    for name, image in images:
        height, width = (length // scale * scale for length in image.shape[1:])
        if not height or not width:
            raise InputError(f"{name} is smaller than {scale} pixels")
        clean = to_8_bit(image[:, :height, :width])
        small, enlarged = degraded(clean[None], scale)
        generator = torch.Generator().manual_seed(derive_seed("evaluation sample", seed, name))
        started = time.perf_counter()
        restored = pipeline(
            small[0],
            mode=mode,
            num_inference_steps=num_inference_steps,
            generator=generator,
            tiles=tiles,
            output_type="pt",
            before_tile=check,
        ).images[0]
        seconds += time.perf_counter() - started
        pixels += height * width
        inner = slice(scale, -scale)
        target = luma(clean)[:, inner, inner]
        after.add(luma(to_8_bit(restored.cpu()))[:, inner, inner], target)
        before.add(luma(to_8_bit(enlarged[0]))[:, inner, inner], target)
    return _row(after, before, {"scale": scale}, pixels, seconds)


@torch.no_grad()
def evaluate_noising_step(
    pipeline: Any,
    images: Iterable[tuple[str, Tensor]],
    step: int,
    *,
    mode: str = "mean",
    num_inference_steps: int = 20,
    seed: int = 0,
    lpips: bool = False,
    check: Check = nothing,
) -> dict[str, Any]:
    """The experiment of arXiv 2310.20092: images noised to a timestep by the forward process, and brought back.

    Args:
        pipeline: a `DenoisingPipeline` of a diffusion model.
        images: of `read_images`, with the model's channels.
        step: the timestep.
        mode: `"mean"`, or `"sample"` for the reverse process.
        num_inference_steps: of mode `"sample"`.
        seed: of the noise.
        lpips: measure LPIPS, too.
        check: called before each tile.

    Returns:
        As of `evaluate_denoising`, with `step`. `sigma` is the noise of that timestep, of 255.

    Raises:
        InputError: for a model that is no diffusion model, or a step that it does not have.
    """
    if pipeline.scheduler is None:
        raise InputError("noising steps are those of a diffusion model; this model was trained to denoise: use --sigma")
    count = pipeline.scheduler.config.num_train_timesteps
    if not 0 <= step < count:
        raise InputError(f"step {step} must lie in 0 to {count - 1}")
    # the same noise-to-signal ratio on images that are not scaled down: the pipeline finds the timestep again
    alpha = float(pipeline.scheduler.alphas_cumprod[step])
    sigma = ((1 - alpha) / alpha) ** 0.5 * 127.5
    after, before = Quality(lpips), Quality(lpips)
    pixels, seconds = 0, 0.0
    for name, clean in images:
        generator = torch.Generator().manual_seed(derive_seed("evaluation noise", seed, step, name))
        noisy = clean + sigma / 255 * torch.randn(clean.shape, generator=generator)
        started = time.perf_counter()
        how = RestoreOptions(mode, num_inference_steps, generator, None, check)
        bands = pipeline.bands(noisy.to(pipeline.device), None, how, timestep=step)
        restored = torch.cat(list(bands), dim=1).cpu()
        seconds += time.perf_counter() - started
        pixels += clean.shape[1] * clean.shape[2]
        after.add(to_8_bit(restored) * 255, clean * 255)
        before.add(noisy * 255, clean * 255)
    return _row(after, before, {"step": step, "sigma": sigma}, pixels, seconds)


def _row(after: Quality, before: Quality, what: dict[str, Any], pixels: int, seconds: float) -> dict[str, Any]:
    if not after.count:
        raise InputError("there is no image to evaluate on")
    inputs = {f"input_{name}": value for name, value in before.means().items()}
    speed = pixels / 1e6 / seconds if seconds else 0.0
    return {**what, "images": after.count, **after.means(), **inputs, "megapixels_per_second": speed}


def memory_of(pipeline: Any, image: Tensor, **options: Any) -> dict[str, Any]:
    """The most bytes that a restoration of an image `(C, H, W)` has alive at once, and how that was measured."""
    size, how = peak_memory(lambda: pipeline(image, output_type="pt", **options), device=pipeline.device)
    return {"peak_memory_bytes": size, "peak_memory_method": how, "peak_memory_shape": list(image.shape)}


def evaluate_model(
    pipeline: Any,
    data: str,
    *,
    sigmas: list[float] | None = None,
    steps: list[int] | None = None,
    known_sigma: bool = False,
    most: int | None = None,
    **options: Any,
) -> Iterator[dict[str, Any]]:
    """Everything about one model on one set: a row for each strength of noise, or timestep, or for the scale.

    Args:
        pipeline: a `DenoisingPipeline` or `SuperResolutionPipeline`.
        data: what `read_images` takes.
        sigmas: strengths of noise, of 255; 15, 25 and 50 if there are none.
        steps: timesteps of a diffusion model in their place.
        known_sigma: see `evaluate_denoising`.
        most: images at most.
        options: the others of `evaluate_denoising`.

    Yields:
        The rows, with `parameters` and the peak memory of the largest image.
    """
    upscales = pipeline.task == "upscale"
    # colour belongs to the data in super-resolution, which measures luma; a denoiser is measured on what it is made for
    channels = 3 if upscales else pipeline.channels
    largest = max((image for _, image in read_images(data, channels, most)), key=lambda i: i.shape[1] * i.shape[2])
    if upscales:
        height, width = (length // pipeline.config.scale for length in largest.shape[1:])
        largest = largest[:, :height, :width]
    facts = {"parameters": pipeline.unet.num_parameters(), "mode": options.get("mode", "mean")}
    extra = {"tiles": options.get("tiles"), "mode": facts["mode"]}
    if not upscales:
        extra["sigma"] = 25.0
    facts |= memory_of(pipeline, largest, **extra)
    if upscales:
        yield {**evaluate_upscaling(pipeline, read_images(data, channels, most), **options), **facts}
    elif steps:
        options.pop("tiles", None)
        for step in steps:
            yield {**evaluate_noising_step(pipeline, read_images(data, channels, most), step, **options), **facts}
    else:
        for sigma in sigmas or [15.0, 25.0, 50.0]:
            images = read_images(data, channels, most)
            yield {**evaluate_denoising(pipeline, images, sigma, known=known_sigma, **options), **facts}
