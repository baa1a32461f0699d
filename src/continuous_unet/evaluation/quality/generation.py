"""How far generated images are from real ones, in the features of a named extractor.

FID is that of Heusel et al. 2017 (arXiv 1706.08500) and KID that of Bińkowski et al. 2018 (arXiv 1801.01401), both as
torchmetrics computes them. Precision, recall, density and coverage are those of `neighbours`.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from continuous_unet.base.errors import InputError
from continuous_unet.base.packages import import_extra
from continuous_unet.data import ImageDataset
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.variance_preserving import VariancePreserving
from continuous_unet.evaluation.quality.classes import Wanted, wanted_classes
from continuous_unet.evaluation.quality.extractors import Extractor
from continuous_unet.evaluation.quality.neighbours import neighbours
from continuous_unet.tasks.generate.pipeline import OWN, DiffusionSamplingPipeline, choose_sampler, generate
from continuous_unet.tasks.loading import load_pipeline

BATCH = 128
KID_SUBSETS = 50
FEWEST = 100
"""Smallest number of images for a distance."""


@dataclass(frozen=True)
class Distance:
    """How far a set of images is from the real ones."""

    fid: float
    """Fréchet distance of the features, at least 0; lower is better, and fewer images give a higher value."""
    kid: float
    """Unbiased squared maximum mean discrepancy, mean over 50 subsets; lower is better, and it may be below 0."""
    kid_std: float
    """Standard deviation of the KID over subsets of the images."""
    num_images: int | None = None
    precision: float | None = None
    """See `Neighbours`; None for distances that were measured by an earlier version, as for the next three."""
    recall: float | None = None
    density: float | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Sampled:
    """Samples of a model."""

    features: Tensor
    """`(N, F)`."""
    first: Tensor
    """The first 64 images, `(64, C, H, W)` in [0, 1]."""
    seconds_per_image: float
    """Wall-clock time of the sampling, in batches; features are not part of it."""


def distances(real: Tensor, fake: Tensor) -> Distance:
    """Returns the distances between features `(N, F)` of real images and `(M, F)` of others.

    Raises:
        InputError: for fewer than 100 features on a side, or without torchmetrics.
    """
    parts = [
        import_extra(f"torchmetrics.image.{n}", "FID and KID need torchmetrics", "evaluate") for n in ("fid", "kid")
    ]
    if min(len(real), len(fake)) < FEWEST:
        raise InputError(f"{len(real)} and {len(fake)} images are too few for a distance; at least {FEWEST} are needed")
    identity = nn.Identity()
    identity.num_features = real.shape[1]  # type: ignore[assignment]  # torchmetrics asks for it
    subset = min(1000, min(len(real), len(fake)) // 2)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # KID warns that it keeps features, which it is given here anyway
        torch.manual_seed(0)  # KID draws its subsets from torch's global generator
        fid = parts[0].FrechetInceptionDistance(feature=identity)
        kid = parts[1].KernelInceptionDistance(feature=identity, subsets=KID_SUBSETS, subset_size=subset)
        for metric in (fid, kid):
            metric.update(real, real=True)
            metric.update(fake, real=False)
        mean, deviation = kid.compute()
        near = neighbours(real, fake)
        return Distance(float(fid.compute()), float(mean), float(deviation), len(fake), **asdict(near))


def real_halves(data: ImageDataset, most: int, seed: int = 0) -> tuple[list[int], list[int]]:
    """Returns the indices of the real images to compare with, and of the same number of others, at most `most`."""
    count = min(most, len(data) // 2)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    return order[:count], order[count : 2 * count]


def real_features(
    data: ImageDataset,
    numbers: list[int],
    extractor: Extractor,
    device: torch.device,
    before_batch: Callable[[], None] = lambda: None,
) -> Tensor:
    """Returns features `(N, F)` of some images of a data set, without augmentation."""
    parts = []
    for start in range(0, len(numbers), BATCH):
        before_batch()
        images = torch.stack([data[i]["image"] for i in numbers[start : start + BATCH]])
        parts.append(extractor.features(images.to(device)).cpu())
    return torch.cat(parts)


def fake_features(
    images: Iterable[Tensor],
    extractor: Extractor,
    device: torch.device,
    on_images: Callable[[Tensor], None] = lambda images: None,
) -> tuple[Tensor, Tensor]:
    """Returns features `(N, F)` of batches of images in [0, 1], and the first 64 images.

    The images are rounded to 8 bits first, as they would be in a file. `on_images` is given each batch as the
    extractor is.
    """
    parts: list[Tensor] = []
    kept: list[Tensor] = []
    for batch in images:
        rounded = (batch * 255).round() / 255
        seen = (rounded * 2 - 1).to(device)
        parts.append(extractor.features(seen).cpu())
        on_images(seen)
        if sum(len(k) for k in kept) < 64:
            kept.append(rounded.cpu())
    return torch.cat(parts), torch.cat(kept)[:64]


def noise_images(count: int, channels: int, size: int | tuple[int, int]) -> Iterator[Tensor]:
    """Yields batches of pure noise in [0, 1]: the output of a model that has learned nothing."""
    generator = torch.Generator().manual_seed(0)
    height, width = (size, size) if isinstance(size, int) else size
    for start in range(0, count, BATCH):
        shape = (min(BATCH, count - start), channels, height, width)
        yield (torch.randn(shape, generator=generator).clamp(-1, 1) + 1) / 2


def samples(pipeline: DiffusionSamplingPipeline, wanted: Wanted, **options: Any) -> Iterator[Tensor]:
    """Yields batches `(B, C, H, W)` in [0, 1] of the classes that are wanted; `options` are those of `generate`."""
    for label, (start, end) in zip(wanted.labels, pairwise(wanted.bounds), strict=True):
        yield from generate(pipeline, end - start, first=start, class_label=label, **options)


def load_sampler(
    model: str | Path, scheduler: str | None, device: torch.device, steps: int | None = None
) -> tuple[DiffusionSamplingPipeline, str, int]:
    """Loads a run or a saved model that samples with a named sampler, without progress bars.

    Args:
        model: what `load_pipeline` takes.
        scheduler: name of the sampler, or `own` for the one that is saved with the model. If None, `own` for a
            distilled model, DPM-Solver++ for other variance-preserving ones, and otherwise the usual one.
        device: where to put it.
        steps: number of sampling steps. If None, the largest that a distilled model has, and 20 for others.

    Returns:
        The pipeline, the name of its sampler, and the number of sampling steps.

    Raises:
        InputError: for a model that cannot be used, or a sampler that does not fit.
    """
    pipeline = load_pipeline(model, device=device)
    pipeline.set_progress_bar_config(disable=True)
    own = pipeline.facts.sampler
    if scheduler == OWN or (own is not None and own.distilled):
        return pipeline, OWN, choose_sampler(pipeline, scheduler, steps)
    process = process_of(pipeline.scheduler)
    usual = "dpm++" if process.name == VariancePreserving.name else None
    pipeline.scheduler = process.make_sampler(scheduler or usual)
    return pipeline, scheduler or usual or type(pipeline.scheduler).__name__, steps or 20


def sampled_features(
    pipeline: DiffusionSamplingPipeline,
    count: int,
    extractor: Extractor,
    device: torch.device,
    *,
    title: str,
    steps: int,
    on_step: Callable[[], None],
    seed: int = 0,
    batch_size: int = BATCH,
    wanted: Wanted | None = None,
    on_images: Callable[[Tensor], None] = lambda images: None,
    **request: Any,
) -> Sampled:
    """Samples, with a progress bar that has a title, and computes the features.

    Args:
        pipeline: the model and its sampler.
        count: number of samples.
        extractor: computes the features.
        device: where the extractor is.
        title: of the progress bar.
        steps: number of sampling steps.
        on_step: called before each evaluation of the model.
        seed: of the samples.
        batch_size: number of samples at a time.
        wanted: the classes of the images; all classes equally often if None.
        on_images: called with each batch of samples in [-1, 1].
        request: further arguments of the pipeline, such as `guidance_scale`.
    """
    options = {"seed": seed, "num_inference_steps": steps, "batch_size": batch_size, "on_step": on_step, **request}
    wanted = wanted or wanted_classes(pipeline, count)
    seconds = 0.0

    def timed() -> Iterator[Tensor]:
        nonlocal seconds
        batches = samples(pipeline, wanted, **options)
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            seconds += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    bar = tqdm(timed(), title, ceil(count / batch_size), leave=False)
    features, first = fake_features(bar, extractor, device, on_images)
    return Sampled(features, first, seconds / count)
