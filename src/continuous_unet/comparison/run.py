"""A comparison from beginning to end, in pieces that are each made once: a comparison that was stopped goes on.

Every piece is a JSON file under `DIR/pieces`; what is there is not made again. Trainings are runs of the library's own
training loop under `DIR/runs`, which resume by themselves.
"""

import concurrent.futures
import contextlib
import importlib.util
import io
import itertools
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import replace_text
from continuous_unet.base.signals import Stopped, StopRequest, leave_on_signals, stop_on_signals
from continuous_unet.comparison.config import SCHEDULERS, CompareConfig
from continuous_unet.comparison.measure import (
    measure_costs,
    measure_dial,
    measure_latencies,
    measure_memory,
    measure_sampling_time,
    measure_training_speed,
)
from continuous_unet.comparison.report import write_reports
from continuous_unet.comparison.sides import Side, load_sides, resolve_cuts
from continuous_unet.data import ImageDataset, open_dataset, train_validation_split
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation.quality import generation as quality
from continuous_unet.images.grids import make_grid, write_png
from continuous_unet.tasks.generate.pipeline import generate
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.training.config import TrainConfig, read_yaml

MAY_CHANGE = {"output", "jobs", "num_seeds", "repeats", "compiled", "costs_only"}
"""What may differ when a comparison goes on; what is measured already stays as it was measured."""


@dataclass(frozen=True)
class CompareResult:
    """Where the comparison is, and its verdicts."""

    output: str
    report: str
    results: list[dict[str, Any]]
    """A row per side, as in `results.csv`."""
    verdicts: list[dict[str, Any]]
    stopped_by: int | None = None


def compare(config: CompareConfig) -> CompareResult:
    """Train and measure all sides, and write the report; go on where an earlier call stopped.

    Args:
        config: all settings. `config.output` may hold an unfinished comparison of the same settings.

    Raises:
        InputError: for settings, data or files that cannot be used.
    """
    config.validate()
    comparison = _Comparison(config)
    try:
        with stop_on_signals() as stop:
            return comparison.run(stop)
    except Stopped as stopped:
        return CompareResult(config.output, "", [], [], stopped_by=stopped.signal)


class _Comparison:
    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.device = pick_device(config.device)
        self.data, self.held_out = self._open_data()
        self.size, self.channels = self.data.report.image_size, self.data.report.channels
        scale = config.scale if config.scale != "auto" else "small" if self.size <= 32 else "base"
        self.sides = resolve_cuts(load_sides(config.sides, scale), self.size, self.channels)
        # Everything that can be refused is refused before anything is written.
        for side in self.sides:
            _try(side, self.size, self.channels)
        _check_packages()
        if config.extractor == "inception" and not config.costs_only:
            quality.load_inception(self.device)
        self._claim(self.sides)
        self.stop = StopRequest()

    def _open_data(self) -> tuple[ImageDataset, ImageDataset]:
        """Images to train on, and those held out: none for costs alone."""
        config = self.config
        dataset = open_dataset(
            config.data, image_size=config.image_size, channels=config.channels, fit=config.fit,
            random_flip=config.random_flip, seed=0,
        )  # fmt: skip
        data, held_out = train_validation_split(dataset, 0 if config.costs_only else config.num_validation, 0)
        if len(data) < 200 and not config.costs_only:
            raise InputError(
                f"{config.data} leaves {len(data)} images to train on; a comparison of quality needs at least 200 "
                "(half to compare samples with, half for the floor); give more data, or use --costs-only"
            )
        return data, held_out

    def _claim(self, sides: list[Side]) -> None:
        """Make the folder, or check that what it holds is this comparison."""
        path = self.folder / "compare.yaml"
        now = yaml.safe_load(yaml.safe_dump(self.config.to_dict()))
        if path.is_file():
            before = read_yaml(path, list(now))
            changed = [
                f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if k not in MAY_CHANGE and before.get(k) != v
            ]
            if changed:
                raise InputError(
                    f"{self.folder} holds a comparison with other settings ({'; '.join(changed)}); go on with the old "
                    "ones, or choose another --output"
                )
            for side in sides:
                old = read_yaml(self.folder / "sides" / f"{side.name}.yaml", ["label", "preset", "model_options"])
                if (old.get("preset"), old.get("model_options")) != (side.preset, _plain(side.model_options)):
                    raise InputError(
                        f"the side {side.name} of {self.folder} was another model; choose another --output"
                    )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is not an empty folder, nor a comparison; choose another --output")
        try:
            (self.folder / "sides").mkdir(parents=True, exist_ok=True)
            for side in sides:
                content = {"label": side.label, "preset": side.preset, "model_options": _plain(side.model_options)}
                replace_text(self.folder / "sides" / f"{side.name}.yaml", yaml.safe_dump(content, sort_keys=False))
            replace_text(path, yaml.safe_dump(now, sort_keys=False))
        except OSError as error:
            raise InputError(f"cannot write into {self.folder}: {error.strerror}") from error

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The piece of that name: read if it is there, else made and written."""
        path = self._path(name)
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.stop.signal is not None:
            raise Stopped(self.stop.signal)
        say(f"{name} …")
        try:
            with leave_on_signals(self.stop):  # compilers and the classifier take minutes; trainings save by themselves
                result = make()
        except KeyboardInterrupt as interrupt:
            if self.stop.signal is None:
                raise
            raise Stopped(self.stop.signal) from interrupt
        return self._write_piece(name, result)

    def _path(self, name: str) -> Path:
        return self.folder / "pieces" / f"{name}.json"

    def _write_piece(self, name: str, result: Any) -> Any:
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(result, indent=1))
        return result

    def run(self, stop: StopRequest) -> CompareResult:
        self.stop = stop
        config, sides = self.config, self.sides
        # the reference of all ratios first: the discrete U-Net where it is there
        ordered = sorted(sides, key=lambda side: side.name != "discrete")
        models = {side.name: side.build(self.size, self.channels).to(self.device).eval() for side in ordered}
        costs = self.once("costs", lambda: measure_costs(models))
        memory = self.once("memory", lambda: measure_memory(models))
        speed = self.once("training-speed", lambda: measure_training_speed(models, config.batch_size, config.repeats))
        latency = self.once("latency-eager", lambda: measure_latencies(models, config.repeats, compiled=False))
        compiled = None
        if config.compiled:
            compiled = self.once("latency-compiled", lambda: measure_latencies(models, config.repeats, compiled=True))
        scheduler, steps = config.main_sampler_parts()
        sampling_time = self.once(
            "sampling-time", lambda: measure_sampling_time(models, scheduler, steps, max(2, config.repeats // 4))
        )
        facts: dict[str, Any] = {
            "config": config.to_dict(),
            "data": self.data.report.to_dict() | {"left_out": len(self.data.report.left_out)},
            "sides": [{"name": s.name, "label": s.label} for s in sides],
            "options": {s.name: {"preset": s.preset, **_plain(s.model_options)} for s in sides},
            "machine": machine(self.device),
        }
        measured: dict[str, Any] = {
            "costs": costs, "memory": memory, "speed": speed, "latency": latency, "compiled": compiled,
            "sampling_time": sampling_time,
        }  # fmt: skip
        if not config.costs_only:
            images = {side.name: self._images(speed[side.name]["seconds_per_image"]) for side in sides}
            facts["images"] = images
            measured["sweep"] = self._sweep(images)
            facts["rates"] = {
                name: min(tries, key=lambda t: t["validation_loss"])["learning_rate"]
                for name, tries in measured["sweep"].items()
            }
            measured["runs"] = self._train(images, facts["rates"])
            facts["extractor"], more = self._sample(measured["runs"])
            measured |= more
        rows, verdicts = write_reports(self.folder, facts, measured)
        return CompareResult(str(self.folder), str(self.folder / "report.html"), rows, verdicts)

    def _images(self, seconds_per_image: float) -> int:
        """Training images of a side, in whole batches."""
        kind, size = self.config.budget_parts()
        images = size if kind == "images" else 60 * size / seconds_per_image
        return max(1, round(images / self.config.batch_size)) * self.config.batch_size

    def _sweep(self, images: dict[str, int]) -> dict[str, list[dict[str, Any]]]:
        """Each side's validation loss at each learning rate after a short training."""
        config = self.config
        short = {name: config.sweep_images or max(config.batch_size, count // 4) for name, count in images.items()}
        rates = sorted(config.learning_rates)
        keys = [(side, rate) for rate in rates for side in self.sides]
        results = self._all({
            f"runs/{side.name}/sweep-{rate:g}": self._training(f"{side.name}/sweep-{rate:g}", side, short, rate, 0, 1)
            for side, rate in keys
        })  # fmt: skip
        rows: dict[str, list[dict[str, Any]]] = {side.name: [] for side in self.sides}
        for (side, rate), result in zip(keys, results, strict=True):
            loss = result["validation_loss"]
            rows[side.name].append({
                "learning_rate": rate,
                "images": result["images_seen"],
                "validation_loss": math.inf if loss is None else loss,
            })  # fmt: skip
        return rows

    def _train(self, images: dict[str, int], rates: dict[str, float]) -> dict[str, list[dict[str, Any]]]:
        """The trainings that count, by side, a list over the seeds."""
        seeds = range(self.config.num_seeds)
        keys = [
            (side, seed) for seed in seeds for side in self.sides if side.max_seeds is None or seed < side.max_seeds
        ]
        results = self._all({
            f"runs/{side.name}/seed-{seed}": self._training(
                f"{side.name}/seed-{seed}", side, images, rates[side.name], seed, 8
            )
            for side, seed in keys
        })  # fmt: skip
        for (side, seed), result in zip(keys, results, strict=True):
            if "diverged" in result:
                raise InputError(
                    f"the training of the side {side.name} with seed {seed} diverged ({result['diverged']}); compare "
                    "again in another --output with lower --learning-rates"
                )
        return _by_side(self.sides, keys, results)

    def _training(
        self, name: str, side: Side, images: dict[str, int], rate: float, seed: int, points: int
    ) -> tuple[Any, ...]:
        output = str(self.folder / "runs" / name)
        steps = images[side.name] // self.config.batch_size
        return train_side, self.config.train_config(
            output, side, steps=steps, learning_rate=rate, seed=seed, points=points
        )

    def _all(self, tasks: dict[str, tuple[Any, ...]]) -> list[Any]:
        """Pieces that do not depend on each other: function and arguments by name; made `jobs` at a time.

        A function says by `stopped_by` in its result that a signal ended it early.
        """
        todo = {name: task for name, task in tasks.items() if not self._path(name).is_file()}
        if self.config.jobs == 1:
            for name, (function, *arguments) in todo.items():
                self.once(name, lambda f=function, a=arguments: _whole(f(*a)))
        elif todo:
            self._all_in_processes(todo)
        return [json.loads(self._path(name).read_text(encoding="utf-8")) for name in tasks]

    def _all_in_processes(self, todo: dict[str, tuple[Any, ...]]) -> None:
        context = multiprocessing.get_context("spawn")
        pool = concurrent.futures.ProcessPoolExecutor(self.config.jobs, context, torch.set_num_threads, (1,))
        names = iter(todo)
        running: dict[Any, str] = {}
        with pool, tqdm(total=len(todo), desc="pieces", unit="piece") as bar:
            while True:
                # only as many as can run: a worker that is told to stop must find nothing else to do
                for name in itertools.islice(names, self.config.jobs - len(running)):
                    running[pool.submit(quietly, *todo[name])] = name
                if not running:
                    return
                done, _ = concurrent.futures.wait(running, timeout=1, return_when="FIRST_COMPLETED")
                for future in done:
                    self._write_piece(running.pop(future), _whole(future.result()))
                    bar.update()
                if self.stop.signal is not None:
                    for pid in list(pool._processes):  # a training finishes its step, saves, and returns
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGTERM)
                    raise Stopped(self.stop.signal)

    def _sample(self, runs: dict[str, list[dict[str, Any]]]) -> tuple[str, dict[str, Any]]:
        """Quality by samples: the extractor's name; floor, noise, distances, curves, losses at other solver steps.

        Distances are of the models of all seeds; curves, grids and other solver steps of those of the first.
        """
        config, sides = self.config, self.sides
        path = self.folder / "extractor" / "classifier.safetensors"
        classifier = None
        if config.extractor == "classifier":
            facts = self.once(
                "extractor",
                lambda: quality.train_classifier(
                    self.data, self.held_out, steps=config.extractor_steps, seed=0, device=self.device, path=path
                ),
            )
            classifier = str(path), facts, self.channels
        extractor = quality.load_extractor(classifier, self.device)
        real = self.folder / "extractor" / "real.safetensors"
        floor = self.once("floor", lambda: self._floor(extractor, real))
        noise = self.once("noise", lambda: self._noise(extractor, real))
        scheduler, steps = config.main_sampler_parts()

        def points(side: Side, seed: int, name: str, n: int, count: int, grid: str | None) -> tuple[Any, ...]:
            run = str(self.folder / "runs" / side.name / f"seed-{seed}")
            return measure_samples, run, name, n, count, classifier, str(real), str(self.device), grid

        (self.folder / "samples").mkdir(exist_ok=True)
        models = [(s, run["seed"]) for s in sides for run in runs[s.name]]
        distance = self._all({
            f"distance/{s.name}/seed-{seed}": points(
                s, seed, scheduler, steps, config.num_samples,
                None if seed else str(self.folder / "samples" / f"{s.name}.png"),
            )
            for s, seed in models
        })  # fmt: skip
        keys = [(s, name, n) for s in sides for name in SCHEDULERS for n in config.sampler_steps]
        curves = self._all({
            f"sampling/{s.name}-{name}-{n}": points(s, 0, name, n, config.curve_samples, None)
            for s, name, n in keys
        })  # fmt: skip
        dial = [self.once(f"dial/{side.name}", lambda side=side: self._dial(side)) for side in sides]
        return extractor.name, {
            "floor": floor,
            "noise": noise,
            "distance": _by_side(sides, models, distance),
            "curves": _by_side(sides, keys, curves),
            "dial": {side.name: rows for side, rows in zip(sides, dial, strict=True) if rows},
        }

    def _floor(self, extractor: quality.Extractor, path: Path) -> dict[str, Any]:
        """Write the features of the real images that samples are compared with; their distance to as many others."""
        count = min(self.config.num_samples, len(self.data) // 2)
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0)).tolist()
        parts = (order[:count], order[count : 2 * count])
        reference, other = (quality.real_features(self.data, part, extractor, self.device) for part in parts)
        save_file({"features": reference.contiguous()}, path)
        return {**quality.distances(reference, other), "num_images": len(other)}

    def _noise(self, extractor: quality.Extractor, path: Path) -> dict[str, Any]:
        """The distance of pure noise to the same real images: about where a side is that makes no pictures."""
        reference = load_file(path)["features"]
        generator = torch.Generator().manual_seed(0)
        sizes = [min(quality.BATCH, len(reference) - start) for start in range(0, len(reference), quality.BATCH)]
        images = (torch.randn(n, self.channels, self.size, self.size, generator=generator) for n in sizes)
        fake, _ = quality.fake_features(((x.clamp(-1, 1) + 1) / 2 for x in images), extractor, self.device)
        return quality.distances(reference, fake)

    def _dial(self, side: Side) -> list[dict[str, Any]]:
        pipeline = load_pipeline(self.folder / "runs" / side.name / "seed-0", device=self.device)
        return measure_dial(pipeline.unet, pipeline.scheduler, self.held_out, self.device)


def _by_side(sides: list[Side], keys: Sequence[tuple[Any, ...]], results: list[Any]) -> dict[str, list[Any]]:
    """Results by the name of their side, which comes first in each one's key."""
    return {
        side.name: [result for (other, *_), result in zip(keys, results, strict=True) if other is side]
        for side in sides
    }


def _try(side: Side, size: int, channels: int) -> None:
    """Build a side and run it once.

    Raises:
        InputError: if it cannot be made, or cannot take images of this size.
    """
    model = side.build(size, channels).eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, channels, size, size), 0)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the side {side.name} cannot take images of {size}x{size} pixels: {error}") from error


def _check_packages() -> None:
    for name in ("torchmetrics", "matplotlib"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"a comparison needs the package {name}: pip install 'continuous-unet[compare]'")


def _whole(result: dict[str, Any]) -> dict[str, Any]:
    """A result as it is, unless a signal ended it early."""
    if result.get("stopped_by") is not None:
        raise Stopped(result["stopped_by"])
    return result


def quietly(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function without its bars and lines, where several would write over each other."""
    with contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def measure_samples(
    run: str,
    scheduler: str,
    steps: int,
    count: int,
    classifier: tuple[str, dict[str, Any], int] | None,
    real: str,
    device: str,
    grid: str | None,
) -> dict[str, Any]:
    """Distances between samples of a trained side and real images.

    Args:
        run: folder of the training.
        scheduler: `"ddim"` or `"dpm++"`.
        steps: evaluations of the model per image.
        count: samples.
        classifier: of the features, see `quality.load_extractor`.
        real: file with the features of the real images.
        device: where to compute.
        grid: file for a picture of the first 64 samples, if one is wanted.
    """
    pipeline = load_pipeline(run, device=device)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    extractor = quality.load_extractor(classifier, torch.device(device))
    batches = generate(pipeline, count, seed=0, num_inference_steps=steps, batch_size=quality.BATCH)
    with stop_on_signals() as stop:

        def watched() -> Iterator[torch.Tensor]:
            for batch in tqdm(batches, f"{scheduler}, {steps} steps", math.ceil(count / quality.BATCH), leave=False):
                if stop.signal is not None:
                    raise Stopped(stop.signal)
                yield batch

        try:
            features, images = quality.fake_features(watched(), extractor, torch.device(device))
        except Stopped as stopped:
            return {"stopped_by": stopped.signal}
    if grid is not None:
        write_png(make_grid(images[:64], columns=8), Path(grid))
    distances = quality.distances(load_file(real)["features"], features)
    return {"scheduler": scheduler, "steps": steps, **distances, "num_images": len(features)}


def train_side(config: TrainConfig) -> dict[str, Any]:
    """One training, from the beginning or from where it was stopped; what the report needs of it."""
    from continuous_unet.training.trainer import TrainingDiverged, train

    started = time.perf_counter()
    folder = Path(config.output)
    try:
        result = train(config, resume=(folder / "config.yaml").is_file())
    except TrainingDiverged as error:  # a rate that is too high is a result of the sweep
        return {"stopped_by": None, "diverged": str(error), "validation_loss": None, "images_seen": 0, "curve": []}
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    validations = [record for record in records if record.get("validation_loss") is not None]
    names = ("images_seen", "seconds", *(k for k in (validations or [{}])[-1] if k.startswith("validation_loss")))
    return {
        "stopped_by": result.stopped_by,
        "images_seen": result.images_seen,
        "loss": result.loss,
        "validation_loss": result.validation_loss,
        "learning_rate": config.learning_rate,
        "seed": config.seed,
        "seconds": round(time.perf_counter() - started, 1),
        "curve": [{name: record.get(name) for name in names} for record in validations],
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": str(device), "name": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    import platform

    return platform.processor() or platform.machine()


def say(text: str) -> None:
    """A line for people, on stderr."""
    tqdm.write(text, file=sys.stderr)


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}
