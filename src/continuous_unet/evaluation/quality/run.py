"""The library calls behind `cunet evaluate`: how good restored and generated images are."""

import contextlib
import dataclasses
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.data import ImageDataset, open_dataset, train_validation_split
from continuous_unet.deploy.calibration import origin
from continuous_unet.evaluation import options as opts
from continuous_unet.evaluation.costs.image import image_cost
from continuous_unet.evaluation.quality import generation, restoration
from continuous_unet.evaluation.quality.classes import Wanted, wanted_classes
from continuous_unet.evaluation.quality.extractors import Preparation, chosen_extractor, extractor_class
from continuous_unet.evaluation.quality.extractors.classifier import Classifier
from continuous_unet.images.tiling import Tiles
from continuous_unet.tasks.denoise.options import DenoiseOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.loading import load_restorer, set_solver_steps
from continuous_unet.tasks.options import ModeOptions
from continuous_unet.tasks.restoration import RestoreOptions
from continuous_unet.tasks.upscale.options import UpscaleOptions

MOST_HELD_OUT = 5000
"""Largest number of real images that are held out, to measure the accuracy of the classifier on."""
VERBS: dict[str, type[ModeOptions]] = {"denoise": DenoiseOptions, "upscale": UpscaleOptions}


@dataclass
class EvaluationResult(CallResult):
    """Rows of figures, one for each model and experiment; those that were finished if a signal stopped the work."""

    rows: list[Json] = field(default_factory=list)
    stopped_by: int | None = None

    def notes(self) -> list[str]:
        return [] if self.stopped_by is None else [f"stopped; {len(self.rows)} rows are finished"]


@contextlib.contextmanager
def collecting(result: EvaluationResult, stop: StopRequest | None) -> Iterator[StopRequest]:
    """Inside this context, `Stopped` ends the block. The result records the signal and keeps the finished rows."""
    with contextlib.nullcontext(stop) if stop is not None else stop_on_signals() as request:
        try:
            yield request
        except Stopped as stopped:
            result.stopped_by = stopped.signal


@dataclass
class RestorationResult(EvaluationResult):
    """Quality, speed and memory of restoration models."""

    lpips: str = restoration.NO_LPIPS

    def to_text(self) -> str:
        return "\n".join(map(_restoration_line, self.rows))


def evaluate_denoising(options: opts.EvaluateDenoiseOptions, *, stop: StopRequest | None = None) -> RestorationResult:
    """Measures how well models remove noise from clean images to which it was added.

    Args:
        options: models, images, and noise levels or timesteps.
        stop: a request to stop; the finished rows are returned then.

    Raises:
        InputError: for options, models or images that cannot be used.
    """

    def experiments(pipeline: restoration.Restorer) -> list[restoration.Experiment]:
        if options.timesteps:
            return [restoration.NoisingStep.of(pipeline, step) for step in options.timesteps]
        return [restoration.GaussianNoise(sigma, options.known_sigma) for sigma in options.sigma or (15.0, 25.0, 50.0)]

    return _evaluate("denoise", "denoise-grey", options, experiments, stop)


def evaluate_upscaling(options: opts.EvaluateUpscaleOptions, *, stop: StopRequest | None = None) -> RestorationResult:
    """Measures how well models enlarge images that were reduced; arguments and errors are as for `evaluate_denoising`.

    `megapixels_per_second` counts the pixels of the large images.
    """

    def experiments(pipeline: restoration.Restorer) -> list[restoration.Experiment]:
        return [restoration.Reduction(pipeline.config.scale, options.jpeg)]

    return _evaluate("upscale", f"upscale-x{options.scale or 2}", options, experiments, stop)


def _evaluate(
    task: str,
    packaged: str,
    options: opts.RestorationOptions,
    experiments: Callable[[restoration.Restorer], list[restoration.Experiment]],
    stop: StopRequest | None,
) -> RestorationResult:
    options.validate()
    result = RestorationResult(lpips="measured" if options.lpips else restoration.NO_LPIPS)
    verb = VERBS[task]
    tiles = Tiles(options.tile or verb.tile, verb.overlap if options.overlap is None else options.overlap)
    device = pick_device(options.device)
    with collecting(result, stop) as request:
        how = RestoreOptions(options.mode, options.sampling_steps, tiles=tiles, before_tile=request.check)
        for name in options.model or [packaged]:
            pipeline = load_restorer(name, task, device=device)
            if options.solver_steps is not None:
                set_solver_steps(pipeline.unet, options.solver_steps)
            chosen = experiments(pipeline)  # refuses timesteps before anything is measured
            # upscaling is scored on luma, so colour images are kept; a denoiser is scored in its own channels
            channels = 3 if task == "upscale" else pipeline.channels
            read = partial(restoration.read_images, options.data, channels, options.num)
            largest = max((image for _, image in read()), key=lambda image: image[0].numel())
            facts = {"parameters": pipeline.unet.num_parameters(), "mode": options.mode}
            facts |= restoration.peak_memory_of(pipeline, largest, how)
            for experiment in chosen:
                row = restoration.measure(experiment, pipeline, read(), how, seed=options.seed, lpips=options.lpips)
                result.rows.append({"model": name, "data": options.data, **row, **facts})
    return result


SETTINGS = {"step": "timestep {}", "sigma": "sigma {:g}", "scale": "x{}"}
"""How a line names an experiment, by the first key that its row has."""


def _restoration_line(row: Json) -> str:
    name, form = next((key, form) for key, form in SETTINGS.items() if key in row)
    what = form.format(row[name])
    if "jpeg" in row:
        what += f", JPEG quality {row['jpeg']}"
    lpips = "" if row["lpips"] is None else f", LPIPS {row['lpips']:.4f}"
    return (
        f"{row['model']} on {row['data']} ({row['images']} images), {what}: PSNR {row['psnr']:.2f} dB, SSIM "
        f"{row['ssim']:.4f}{lpips} (before: {row['input_psnr']:.2f} dB, {row['input_ssim']:.4f}); "
        f"{row['megapixels_per_second']:.2f} megapixels/s, {row['peak_memory_bytes'] / 2**20:.0f} MiB"
    )


# ---------------------------------------------------------------------------------------------------------- generation


@dataclass
class GenerationResult(EvaluationResult):
    """Distances of models and of folders of images to real images."""

    extractor: str = ""
    """A description of the features. Distances in other features cannot be compared with these."""
    floor: generation.Distance | None = None
    """The distance of real images to the same number of others, which is what a perfect model would reach."""
    noise: generation.Distance | None = None
    """The distance of pure noise to real images, about that of a model that makes no pictures."""
    class_accuracy_of_real_images: float | None = None
    """The share of held-out real images that the classifier of `class_accuracy` assigns to their class."""
    note: str | None = None
    """What a person should know about the choice of the features."""

    def notes(self) -> list[str]:
        return [*super().notes(), *([] if self.note is None else [f"note: {self.note}"])]

    def to_text(self) -> str:
        bounds = {"real images": self.floor, "noise": self.noise}
        rows = [*self.rows, *({"name": k, **dataclasses.asdict(v)} for k, v in bounds.items() if v is not None)]
        if not rows:
            return ""
        lines = [*map(_generation_line, rows), f"features: {self.extractor}"]
        if self.class_accuracy_of_real_images is not None:
            share = f"{self.class_accuracy_of_real_images:.1%}"
            lines.append(f"class accuracy is that of a classifier, which assigns {share} of held-out real images right")
        return "\n".join(lines)


def _generation_line(row: Json) -> str:
    name = row["name"]
    if "sampling_steps" in row:
        guided = "" if row["guidance"] is None else f", guidance {row['guidance']:g}"
        name += f", {row['scheduler']}, {row['sampling_steps']} steps{guided}"
    shares = ", ".join(f"{name} {row[name]:.3f}" for name in ("precision", "recall", "density", "coverage"))
    line = (
        f"{name} ({row['num_images']} images): FID {row['fid']:.3f}, KID x 1000 {row['kid'] * 1000:.2f} ± "
        f"{row['kid_std'] * 1000:.2f}, {shares}"
    )
    if row.get("class_accuracy") is not None:
        line += f", class accuracy {row['class_accuracy']:.1%}"
    if "macs_per_image" in row:
        line += (
            f"; {row['parameters'] / 1e6:.2f} M parameters, {row['evaluations']} evaluations and "
            f"{row['macs_per_image'] / 1e9:.3f} G MACs an image, {row['seconds_per_image']:.4f} s an image"
        )
    return line


def evaluate_generation(options: opts.EvaluateGenerateOptions, *, stop: StopRequest | None = None) -> GenerationResult:
    """Measures how far models, or generated images, are from real images, and what the images cost.

    The real images are split: one half is compared with, and the distance of the other half to it is the floor. A
    class-conditional model makes images of its classes in proportion to the real ones. The share of them that a
    classifier assigns to their class is measured too, if the real images have the same classes.

    Args:
        options: models, images and how to compare them.
        stop: a request to stop; the finished rows are returned then.

    Raises:
        InputError: for options, models or images that cannot be used.
    """
    options.validate()
    device = pick_device(options.device)
    all_steps: list[int | None] = [*options.sampling_steps] or [None]
    loaded = {
        (name, steps): generation.load_sampler(name, options.scheduler, device, steps)
        for name in options.model
        for steps in all_steps
    }
    pipelines = {name: loaded[name, all_steps[0]][0] for name in options.model}
    for pipeline, *_ in loaded.values():
        set_solver_steps(pipeline.unet, options.solver_steps)
    real = _real_images(options, pipelines)
    extractor_name, note = chosen_extractor(options.extractor, real.report.channels)
    kind = extractor_class(extractor_name)
    kind.check(device)
    shape: Json = {"image_size": real.report.image_size, "channels": real.report.channels}
    folders = {name: open_dataset(name, fit="crop", seed=0, **shape) for name in options.images}
    wanted = {name: wanted_classes(pipeline, options.num, real) for name, pipeline in pipelines.items()}
    train, held_out = train_validation_split(real, min(MOST_HELD_OUT, len(real) // 10), 0)
    result = GenerationResult(note=note)
    with collecting(result, stop) as request, tempfile.TemporaryDirectory() as folder:
        path, check = Path(folder) / "extractor.safetensors", request.check
        given = Preparation(train, held_out, path, device, options.extractor_steps, options.seed, check)
        facts = kind.prepare(given)
        extractor = kind(path, facts, device)
        result.extractor = extractor.name
        judge = None
        if any(classes.shown is not None for classes in wanted.values()):
            if not isinstance(extractor, Classifier):
                given = replace(given, path=path.with_name("judge.safetensors"))
                facts = Classifier.prepare(given)
            judge = extractor if isinstance(extractor, Classifier) else Classifier(given.path, facts, device)
            result.class_accuracy_of_real_images = float(facts["accuracy"] or 0)
        halves = generation.real_halves(train, options.num, options.seed)
        reference, other = (generation.real_features(train, half, extractor, device, check) for half in halves)
        result.floor = generation.distances(reference, other)
        noise = generation.noise_images(len(reference), real.report.channels, real.report.image_size)
        result.noise = generation.distances(reference, generation.fake_features(noise, extractor, device)[0])
        for (name, _), (pipeline, sampler, steps) in loaded.items():
            scales: list[float | None] = [*options.guidance] or [None]
            for scale in scales:
                how: Json = {} if scale is None else {"guidance_scale": scale}
                classes, found = wanted[name], _Found(judge)
                cost = image_cost(pipeline, steps, class_labels=classes.labels[0], **how)
                sampled = generation.sampled_features(
                    pipeline,
                    options.num,
                    extractor,
                    device,
                    title=name,
                    steps=steps,
                    on_step=check,
                    seed=options.seed,
                    batch_size=options.batch_size,
                    wanted=classes,
                    on_images=found.add,
                    **how,
                )
                row = {"name": name, **dataclasses.asdict(generation.distances(reference, sampled.features))}
                row |= {"scheduler": sampler, "sampling_steps": steps, "guidance": scale}
                row |= {"class_accuracy": found.accuracy(classes), **dataclasses.asdict(cost)}
                result.rows.append({**row, "seconds_per_image": sampled.seconds_per_image})
        for name, images in folders.items():
            numbers = list(range(min(options.num, len(images))))
            features = generation.real_features(images, numbers, extractor, device, check)
            result.rows.append({"name": name, **dataclasses.asdict(generation.distances(reference, features))})
    return result


@dataclass
class _Found:
    """The classes that a classifier finds in samples."""

    judge: Classifier | None
    found: list[torch.Tensor] = field(default_factory=list)

    def add(self, images: torch.Tensor) -> None:
        if self.judge is not None:
            self.found.append(self.judge.classes(images).cpu())

    def accuracy(self, wanted: Wanted) -> float | None:
        """Returns the share of the samples whose class is the one that was asked for."""
        if self.judge is None or wanted.shown is None:
            return None
        return float((torch.cat(self.found) == wanted.expected()).double().mean())


def _real_images(
    options: opts.EvaluateGenerateOptions, pipelines: dict[str, DiffusionSamplingPipeline]
) -> ImageDataset:
    """Opens the real images in the size and the channels that the models make."""
    size: Any = options.image_size  # diffusers annotates sample_size as a tuple of any length
    channels: Any = None
    for name, pipeline in pipelines.items():
        own_channels, height, width = pipeline.image_shape
        own = height if height == width else (height, width)
        size, channels = size or own, channels or own_channels
        if (own, own_channels) != (size, channels):
            raise InputError(
                f"{name} makes images of {own} pixels and {own_channels} channels, and the others are of {size} pixels "
                f"and {channels} channels; evaluate it by itself"
            )
    given: list[str | None] = [options.fit, *(origin(name).config.data.fit for name in pipelines)]
    fit = next((fit for fit in given if fit is not None), "crop")
    data = open_dataset(options.data, image_size=size, channels=channels, fit=fit, seed=0)
    if len(data) < 2.5 * generation.FEWEST:
        raise InputError(
            f"{options.data} has {len(data)} images; FID and KID need at least {5 * generation.FEWEST // 2}"
        )
    return data
