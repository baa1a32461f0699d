"""The order of things in a comparison: costs, sweep, trainings, samples. Every step is a piece that is made once."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load_file, save_file

from continuous_unet.base.errors import InputError
from continuous_unet.comparison import measure
from continuous_unet.comparison import results as res
from continuous_unet.comparison.config import CURVE_SCHEDULERS, CompareConfig
from continuous_unet.comparison.pieces import PieceStore
from continuous_unet.comparison.sides import Side, square_side
from continuous_unet.comparison.workers import ExtractorSpec, Task, measure_samples, train_side
from continuous_unet.data import ImageDataset
from continuous_unet.evaluation.costs.latency import Latency
from continuous_unet.evaluation.quality import generation as quality
from continuous_unet.evaluation.quality.extractors import Extractor, Facts, Preparation, extractor_class
from continuous_unet.evaluation.quality.generation import OWN
from continuous_unet.tasks.facts import read_facts
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.saved import model_folder

Kind = TypeVar("Kind")
Timed = dict[str, Latency | res.Failed]
SideTask = tuple[Side, str, Task]
"""A side, the name of a piece of it, and how the piece is made."""


@dataclass
class Protocol:
    """Holds what one comparison needs."""

    config: CompareConfig
    data: ImageDataset
    """Images to train on."""
    held_out: ImageDataset
    """Images to validate on."""
    sides: list[Side]
    """The models, with their cuts carried out."""
    pieces: PieceStore
    """Where measurements are kept."""
    device: torch.device

    def run(self, machine: res.Machine) -> res.Comparison:
        """Measures everything that is not measured yet.

        Raises:
            InputError: if the training of a side diverged.
            Stopped: if a signal arrived.
        """
        config, sides = self.config, self._costs()
        if config.costs_only:
            return res.Comparison(config, self.data.report, machine, list(sides.values()))
        images = {name: self._images(side.speed.seconds_per_image) for name, side in sides.items()}
        images |= {side.name: 0 for side in self.sides if side.saved is not None}
        sweep = self._sweep(images)
        rates = {
            name: min(tries, key=lambda t: t.validation_loss).learning_rate if tries else 0.0
            for name, tries in sweep.items()
        }
        runs = self._train(images, rates)
        spec, scale = self._scale()
        distances, sampling = self._sample(runs, spec)
        progress = self._progress(images, spec)
        for side in self.sides:
            name = side.name
            losses = self.pieces.once(f"dial/{name}", list[res.SolverStepsLosses], self._solver_steps, side)
            found = sweep[name], runs[name], distances[name], sampling[name], losses, progress[name]
            sides[name] = replace(sides[name], trained=res.TrainedSide(rates[name], images[name], *found))
        return res.Comparison(config, self.data.report, machine, list(sides.values()), scale)

    def _costs(self) -> dict[str, res.SideResult]:
        config, once = self.config, self.pieces.once
        # the reference of all ratios comes first: the discrete U-Net, if there is one
        ordered = sorted(self.sides, key=lambda side: side.name != "discrete")
        size, channels = square_side(self.data.report), self.data.report.channels
        models = {side.name: side.build(size, channels).to(self.device).eval() for side in ordered}
        costs = once("costs", dict[str, res.SideCost], measure.measure_costs, models)
        memory = once("memory", list[res.SavedMemory], measure.measure_memory, models)
        steps = models, config.batch_size, config.repeats
        speed = once("training-speed", dict[str, res.Speed], measure.measure_training_speed, *steps)
        eager = once("latency-eager", Timed, measure.measure_latencies, models, config.repeats)
        compiled: Timed = {}
        if config.compiled:
            compiled = once("latency-compiled", Timed, measure.measure_latencies, models, config.repeats, compiled=True)
        runs = models, config.scheduler, config.sampling_steps, max(2, config.repeats // 4)
        sampling = once("sampling-time", dict[str, res.Speed], measure.measure_sampling_time, *runs)
        exported: dict[str, dict[str, float]] = {side.name: {} for side in self.sides}
        for form in config.runtimes:
            args = models, (form,), config.repeats
            timed = once(f"latency-{form}", dict[str, dict[str, float]], measure.measure_exported, *args)
            for name, ratios in timed.items():
                exported[name] |= ratios
        return {
            name: res.SideResult(
                name,
                side.label,
                costs[name],
                [row for row in memory if row.side == name],
                speed[name],
                sampling[name],
                eager[name],
                compiled.get(name),
                exported=exported[name],
                own_steps=max(own_numbers(side), default=None),
            )
            for name, side in ((side.name, side) for side in self.sides)
        }

    def _images(self, seconds_per_image: float) -> int:
        """Returns the number of training images of a side, in whole batches."""
        kind, size = self.config.budget_parts()
        images = size if kind == "images" else 60 * size / seconds_per_image
        return max(1, round(images / self.config.batch_size)) * self.config.batch_size

    def _by_side(self, kind: type[Kind], tasks: list[SideTask]) -> dict[str, list[Kind]]:
        """Makes pieces that do not depend on each other, and returns them by the name of their side."""
        made = self.pieces.all(kind, {name: task for _, name, task in tasks})
        pairs = list(zip(tasks, made, strict=True))
        return {side.name: [piece for (owner, *_), piece in pairs if owner is side] for side in self.sides}

    def _run(self, side: Side, name: str) -> Path:
        return self.pieces.folder / "runs" / side.name / name

    def _training(
        self, name: str, side: Side, images: int, rate: float, seed: int, points: int, *snapshots: dict[int, Path]
    ) -> SideTask:
        output, steps = str(self._run(side, name)), images // self.config.batch_size
        config = self.config.train_config(output, side, steps=steps, learning_rate=rate, seed=seed, points=points)
        return side, f"runs/{side.name}/{name}", (train_side, config, *snapshots)

    @property
    def _to_train(self) -> list[Side]:
        return [side for side in self.sides if side.saved is None]

    def _snapshots(self, side: Side, images: int) -> dict[int, Path]:
        """Returns where the model of the first seed is kept during its training, by training steps."""
        if self.config.fid_every is None:
            return {}
        batch, every = self.config.batch_size, self.config.fid_every
        steps = sorted({round(seen / batch) for seen in range(every, images, every)})
        folder = self.pieces.folder / "snapshots" / side.name
        return {step: folder / f"images-{step * batch}" for step in steps if step * batch < images}

    def _sweep(self, images: dict[str, int]) -> dict[str, list[res.SweepPoint]]:
        """Returns each side's validation loss at each learning rate after a short training."""
        config, rates = self.config, sorted(self.config.learning_rates)
        short = {name: config.sweep_images or max(config.batch_size, count // 4) for name, count in images.items()}
        keys = [(side, rate) for rate in rates for side in self._to_train]
        tasks = [self._training(f"sweep-{rate:g}", side, short[side.name], rate, 0, 1) for side, rate in keys]
        return {
            name: [
                res.SweepPoint(rate, run.images_seen, math.inf if run.validation_loss is None else run.validation_loss)
                for rate, run in zip(rates, runs, strict=True)
            ]
            for name, runs in self._by_side(res.Training, tasks).items()
            if runs
        } | {side.name: [] for side in self.sides if side.saved is not None}

    def _train(self, images: dict[str, int], rates: dict[str, float]) -> dict[str, list[res.Training]]:
        """Returns the trainings that count, by side, a list over the seeds."""
        seeds = range(self.config.num_seeds)
        keys = [(side, seed) for seed in seeds for side in self._to_train if seed < (side.max_seeds or len(seeds))]
        tasks = []
        for side, seed in keys:
            kept = [] if seed else [found for found in [self._snapshots(side, images[side.name])] if found]
            tasks.append(self._training(f"seed-{seed}", side, images[side.name], rates[side.name], seed, 8, *kept))
        found = self._by_side(res.Training, tasks)
        for name, runs in found.items():
            for seed, run in enumerate(runs):
                if run.diverged is not None:
                    raise InputError(
                        f"the training of the side {name} with seed {seed} diverged ({run.diverged}); compare again "
                        "in another --output with lower --learning-rates"
                    )
        return found

    @property
    def _real(self) -> Path:
        """The file with the features of the real images that samples are compared with."""
        return self.pieces.folder / "extractor" / "real.safetensors"

    def _scale(self) -> tuple[ExtractorSpec, res.Scale]:
        """Makes the extractor, and measures the distances between which FIDs lie."""
        config, path = self.config, self._real.with_name("classifier.safetensors")
        kind = extractor_class(config.extractor)
        given = Preparation(self.data, self.held_out, path, self.device, config.extractor_steps)
        facts = self.pieces.once("extractor", Facts, kind.prepare, given)
        extractor = kind(path, facts, self.device)
        floor = self.pieces.once("floor", quality.Distance, self._floor, extractor)
        noise = self.pieces.once("noise", quality.Distance, self._noise, extractor)
        curve_floor = self.pieces.once("curve-floor", quality.Distance, self._curve_floor, extractor)
        return (config.extractor, path, facts), res.Scale(extractor.name, floor, noise, curve_floor)

    def _floor(self, extractor: Extractor) -> quality.Distance:
        """Returns the distance between two sets of real images of equal size; writes the features of the first."""
        parts = quality.real_halves(self.data, self.config.num_samples)
        reference, other = (quality.real_features(self.data, part, extractor, self.device) for part in parts)
        self._real.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": reference.contiguous()}, self._real)
        return quality.distances(reference, other)

    def _curve_floor(self, extractor: Extractor) -> quality.Distance:
        """Returns the distance of as many other real images as the quality curves have samples: FID falls with more."""
        _, other = quality.real_halves(self.data, self.config.num_samples)
        features = quality.real_features(self.data, other[: self.config.curve_samples], extractor, self.device)
        return quality.distances(load_file(self._real)["features"], features)

    def _noise(self, extractor: Extractor) -> quality.Distance:
        """Returns the distance of pure noise to the real images, about that of a side that makes no pictures."""
        reference = load_file(self._real)["features"]
        images = quality.noise_images(len(reference), self.data.report.channels, square_side(self.data.report))
        return quality.distances(reference, quality.fake_features(images, extractor, self.device)[0])

    def _sample(
        self, runs: dict[str, list[res.Training]], spec: ExtractorSpec
    ) -> tuple[dict[str, list[res.SampledDistance]], dict[str, list[res.SampledDistance]]]:
        """Returns distances of the models of all seeds, and curves over sampling steps of those of the first seed."""
        config, samples = self.config, self.pieces.folder / "samples"
        samples.mkdir(exist_ok=True)

        def task(side: Side, seed: int, scheduler: str, steps: int, count: int, grid: Path | None = None) -> Task:
            run = self._run(side, f"seed-{seed}") if side.saved is None else Path(side.saved)
            return measure_samples, run, scheduler, steps, count, spec, self._real, self.device, grid

        distances, curves = [], []
        for side in self.sides:
            own = own_numbers(side)
            sampler, steps = (OWN, max(own)) if own else (config.scheduler, config.sampling_steps)
            for seed in [run.seed for run in runs[side.name]] if side.saved is None else [0]:
                grid = None if seed else samples / f"{side.name}.png"
                made = task(side, seed, sampler, steps, config.num_samples, grid)
                distances.append((side, f"distance/{side.name}/seed-{seed}", made))
            for name in (OWN,) if own else CURVE_SCHEDULERS[config.process]:
                for steps in own or config.curve_steps:
                    made = task(side, 0, name, steps, config.curve_samples)
                    curves.append((side, f"sampling/{side.name}-{name}-{steps}", made))
        return self._by_side(res.SampledDistance, distances), self._by_side(res.SampledDistance, curves)

    def _progress(self, images: dict[str, int], spec: ExtractorSpec) -> dict[str, list[res.ProgressPoint]]:
        """Returns the distances of the models that were kept during training, by side."""
        config, batch = self.config, self.config.batch_size
        kept = {side.name: self._snapshots(side, images[side.name]) for side in self._to_train}
        how = config.scheduler, config.sampling_steps, config.num_samples, spec, self._real, self.device, None
        tasks = [
            (side, f"progress/{side.name}/images-{step * batch}", (measure_samples, path, *how))
            for side in self._to_train
            for step, path in kept[side.name].items()
        ]
        return {
            name: [
                res.ProgressPoint(step * batch, distance)
                for step, distance in zip(kept.get(name, {}), found, strict=True)
            ]
            for name, found in self._by_side(res.SampledDistance, tasks).items()
        }

    def _solver_steps(self, side: Side) -> list[res.SolverStepsLosses]:
        if side.saved is not None:  # its objective may be another, and with it its loss
            return []
        pipeline = load_pipeline(self._run(side, "seed-0"), device=self.device)
        return measure.measure_solver_steps(pipeline, self.held_out)


def own_numbers(side: Side) -> list[int]:
    """Returns the numbers of sampling steps that a side was distilled for; none for all other sides."""
    sampler = None if side.saved is None else read_facts(model_folder(Path(side.saved))).sampler
    return sampler.numbers if sampler is not None and sampler.distilled else []
