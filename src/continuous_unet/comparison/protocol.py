"""The order of things in a comparison: costs, sweep, trainings, samples. Every step is a piece that is made once."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

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
from continuous_unet.evaluation.quality.extractors import Extractor, Facts, extractor_class
from continuous_unet.tasks.loading import load_pipeline

Result = TypeVar("Result")


class Protocol:
    """One comparison.

    Args:
        config: all settings.
        data: images to train on.
        held_out: images to validate on.
        sides: the models, cuts carried out.
        pieces: where measurements are kept.
        device: where to compute.
    """

    def __init__(
        self,
        config: CompareConfig,
        data: ImageDataset,
        held_out: ImageDataset,
        sides: list[Side],
        pieces: PieceStore,
        device: torch.device,
    ) -> None:
        self.config = config
        self.data = data
        self.held_out = held_out
        self.sides = sides
        self.pieces = pieces
        self.folder = pieces.folder
        self.device = device
        self.size, self.channels = square_side(data.report), data.report.channels

    def run(self, machine: res.Machine) -> res.Comparison:
        """Measures everything that is not measured yet."""
        sides = self._costs()
        if self.config.costs_only:
            return res.Comparison(self.config, self.data.report, machine, list(sides.values()))
        images = {name: self._images(side.speed.seconds_per_image) for name, side in sides.items()}
        sweep = self._sweep(images)
        rates = {name: min(tries, key=lambda t: t.validation_loss).learning_rate for name, tries in sweep.items()}
        runs = self._train(images, rates)
        spec, scale = self._scale()
        distances, sampling = self._sample(runs, spec)
        for side in self.sides:
            name = side.name
            losses = self.pieces.once(f"dial/{name}", list[res.SolverStepsLosses], self._solver_steps, side)
            trained = res.TrainedSide(
                rates[name], images[name], sweep[name], runs[name], distances[name], sampling[name], losses
            )
            sides[name] = replace(sides[name], trained=trained)
        return res.Comparison(self.config, self.data.report, machine, list(sides.values()), scale)

    def _costs(self) -> dict[str, res.SideResult]:
        config, once = self.config, self.pieces.once
        # the reference of all ratios comes first: the discrete U-Net, if there is one
        ordered = sorted(self.sides, key=lambda side: side.name != "discrete")
        models = {side.name: side.build(self.size, self.channels).to(self.device).eval() for side in ordered}
        costs = once("costs", dict[str, res.SideCost], measure.measure_costs, models)
        memory = once("memory", list[res.SavedMemory], measure.measure_memory, models)
        steps = models, config.batch_size, config.repeats
        speed = once("training-speed", dict[str, res.Speed], measure.measure_training_speed, *steps)
        kinds = ("eager", "compiled") if config.compiled else ("eager",)
        latency = {
            kind: once(
                f"latency-{kind}",
                dict[str, Latency | res.Failed],
                measure.measure_latencies,
                models,
                config.repeats,
                compiled=kind == "compiled",
            )
            for kind in kinds
        }
        runs = models, config.scheduler, config.sampling_steps, max(2, config.repeats // 4)
        sampling = once("sampling-time", dict[str, res.Speed], measure.measure_sampling_time, *runs)
        return {
            side.name: res.SideResult(
                name=side.name,
                label=side.label,
                cost=costs[side.name],
                memory=[row for row in memory if row.side == side.name],
                speed=speed[side.name],
                sampling_time=sampling[side.name],
                eager=latency["eager"][side.name],
                compiled=latency.get("compiled", {}).get(side.name),
            )
            for side in self.sides
        }

    def _images(self, seconds_per_image: float) -> int:
        """Returns the training images of a side, in whole batches."""
        kind, size = self.config.budget_parts()
        images = size if kind == "images" else 60 * size / seconds_per_image
        return max(1, round(images / self.config.batch_size)) * self.config.batch_size

    def _sweep(self, images: dict[str, int]) -> dict[str, list[res.SweepPoint]]:
        """Returns each side's validation loss at each learning rate after a short training."""
        config = self.config
        short = {name: config.sweep_images or max(config.batch_size, count // 4) for name, count in images.items()}
        keys = [(side, rate) for rate in sorted(config.learning_rates) for side in self.sides]
        tasks = {
            f"runs/{side.name}/sweep-{rate:g}": self._training(f"sweep-{rate:g}", side, short, rate, 0, 1)
            for side, rate in keys
        }
        points = [
            res.SweepPoint(rate, run.images_seen, math.inf if run.validation_loss is None else run.validation_loss)
            for (_, rate), run in zip(keys, self.pieces.all(res.Training, tasks), strict=True)
        ]
        return _by_side(self.sides, [side for side, _ in keys], points)

    def _train(self, images: dict[str, int], rates: dict[str, float]) -> dict[str, list[res.Training]]:
        """Returns the trainings that count, by side, a list over the seeds."""
        seeds = range(self.config.num_seeds)
        keys = [(side, seed) for seed in seeds for side in self.sides if seed < (side.max_seeds or len(seeds))]
        tasks = {
            f"runs/{side.name}/seed-{seed}": self._training(f"seed-{seed}", side, images, rates[side.name], seed, 8)
            for side, seed in keys
        }
        runs = self.pieces.all(res.Training, tasks)
        for (side, seed), run in zip(keys, runs, strict=True):
            if run.diverged is not None:
                raise InputError(
                    f"the training of the side {side.name} with seed {seed} diverged ({run.diverged}); compare again "
                    "in another --output with lower --learning-rates"
                )
        return _by_side(self.sides, [side for side, _ in keys], runs)

    def _training(self, name: str, side: Side, images: dict[str, int], rate: float, seed: int, points: int) -> Task:
        output = str(self.folder / "runs" / side.name / name)
        steps = images[side.name] // self.config.batch_size
        return train_side, self.config.train_config(
            output, side, steps=steps, learning_rate=rate, seed=seed, points=points
        )

    @property
    def _real(self) -> Path:
        """The file with the features of the real images that samples are compared with."""
        return self.folder / "extractor" / "real.safetensors"

    def _scale(self) -> tuple[ExtractorSpec, res.Scale]:
        """Makes the extractor, and measures what FIDs stand between."""
        config, path = self.config, self.folder / "extractor" / "classifier.safetensors"
        kind = extractor_class(config.extractor)
        how: dict[str, Any] = {"steps": config.extractor_steps, "seed": 0, "device": self.device, "path": path}
        facts = self.pieces.once("extractor", Facts, kind.prepare, self.data, self.held_out, **how)
        extractor = kind(path, facts, self.device)
        floor = self.pieces.once("floor", quality.Distance, self._floor, extractor)
        noise = self.pieces.once("noise", quality.Distance, self._noise, extractor)
        return (config.extractor, path, facts), res.Scale(extractor.name, floor, noise)

    def _floor(self, extractor: Extractor) -> quality.Distance:
        """Returns the distance of real images to as many others; writes the features of the former."""
        parts = quality.real_halves(self.data, self.config.num_samples)
        reference, other = (quality.real_features(self.data, part, extractor, self.device) for part in parts)
        self._real.parent.mkdir(parents=True, exist_ok=True)
        save_file({"features": reference.contiguous()}, self._real)
        return quality.distances(reference, other)

    def _noise(self, extractor: Extractor) -> quality.Distance:
        """Returns the distance of pure noise to the real images, about that of a side that makes no pictures."""
        reference = load_file(self._real)["features"]
        images = quality.noise_images(len(reference), self.channels, self.size)
        return quality.distances(reference, quality.fake_features(images, extractor, self.device)[0])

    def _sample(
        self, runs: dict[str, list[res.Training]], spec: ExtractorSpec
    ) -> tuple[dict[str, list[res.SampledDistance]], dict[str, list[res.SampledDistance]]]:
        """Returns distances of the models of all seeds, and curves over sampling steps of those of the first seed."""
        config = self.config

        def task(side: Side, seed: int, scheduler: str, steps: int, count: int, grid: str | None = None) -> Task:
            run = str(self.folder / "runs" / side.name / f"seed-{seed}")
            return measure_samples, run, scheduler, steps, count, spec, str(self._real), str(self.device), grid

        (self.folder / "samples").mkdir(exist_ok=True)
        models = [(side, run.seed) for side in self.sides for run in runs[side.name]]
        distances = {}
        for side, seed in models:
            grid = None if seed else str(self.folder / "samples" / f"{side.name}.png")
            name = f"distance/{side.name}/seed-{seed}"
            distances[name] = task(side, seed, config.scheduler, config.sampling_steps, config.num_samples, grid)
        keys = [(side, s, n) for side in self.sides for s in CURVE_SCHEDULERS for n in config.curve_steps]
        curves = {
            f"sampling/{side.name}-{scheduler}-{steps}": task(side, 0, scheduler, steps, config.curve_samples)
            for side, scheduler, steps in keys
        }
        return (
            _by_side(self.sides, [side for side, _ in models], self.pieces.all(res.SampledDistance, distances)),
            _by_side(self.sides, [side for side, *_ in keys], self.pieces.all(res.SampledDistance, curves)),
        )

    def _solver_steps(self, side: Side) -> list[res.SolverStepsLosses]:
        run = self.folder / "runs" / side.name / "seed-0"
        return measure.measure_solver_steps(load_pipeline(run, device=self.device), self.held_out)


def _by_side(sides: list[Side], owners: Sequence[Side], results: Sequence[Result]) -> dict[str, list[Result]]:
    """Returns results by the name of the side that each belongs to."""
    return {
        side.name: [result for owner, result in zip(owners, results, strict=True) if owner is side] for side in sides
    }
