"""A comparison from beginning to end, in pieces that are each made once: a comparison that was stopped goes on.

Every piece is a JSON file under `DIR/pieces`; what is there is not made again. Trainings are runs of the library's own
training loop under `DIR/runs`, which resume by themselves.
"""

import concurrent.futures
import contextlib
import io
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from continuous_unet.comparison import quality
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
from continuous_unet.errors import InputError
from continuous_unet.tasks.devices import pick_device
from continuous_unet.tasks.generation import generate
from continuous_unet.tasks.images import make_grid, write_png
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.schedulers import make_scheduler
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.signals import StopRequest, stop_on_signals

MAY_CHANGE = {"output", "jobs", "num_seeds", "repeats", "compiled"}
"""What may differ when a comparison goes on; what is measured already stays as it was measured."""


class Stopped(Exception):
    """A signal asked the comparison to stop; what is finished is kept."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by signal {number}")
        self.number = number


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
        return CompareResult(config.output, "", [], [], stopped_by=stopped.number)


class _Comparison:
    def __init__(self, config: CompareConfig) -> None:
        self.config = config
        self.folder = Path(config.output)
        self.device = pick_device(config.device)
        self.data, self.held_out = self._open_data()
        self.size, self.channels = self.data.report.image_size, self.data.report.channels
        scale = config.scale if config.scale != "auto" else "small" if self.size <= 32 else "base"
        sides = resolve_cuts(load_sides(config.sides, scale), self.size, self.channels)
        for side in sides:
            side.build(self.size, self.channels)
        self._claim(sides)
        self.sides = sides
        self.stop: StopRequest | None = None

    def _open_data(self) -> tuple[ImageDataset, ImageDataset]:
        config = self.config
        dataset = open_dataset(
            config.data, image_size=config.image_size, channels=config.channels, fit=config.fit,
            random_flip=config.random_flip, seed=0,
        )  # fmt: skip
        return train_validation_split(dataset, config.num_validation, 0)

    def _claim(self, sides: list[Side]) -> None:
        """Make the folder, or check that what it holds is this comparison."""
        path = self.folder / "compare.yaml"
        now = yaml.safe_load(yaml.safe_dump(self.config.to_dict()))
        if path.is_file():
            before = yaml.safe_load(path.read_text(encoding="utf-8"))
            changed = [
                f"{k} {before.get(k)!r} -> {v!r}" for k, v in now.items() if k not in MAY_CHANGE and before.get(k) != v
            ]
            if changed:
                raise InputError(
                    f"{self.folder} holds a comparison with other settings ({'; '.join(changed)}); go on with the old "
                    "ones, or choose another --output"
                )
            for side in sides:
                old = yaml.safe_load((self.folder / "sides" / f"{side.name}.yaml").read_text(encoding="utf-8"))
                if old["model_options"] != _plain(side.model_options) or old["preset"] != side.preset:
                    raise InputError(
                        f"the side {side.name} of {self.folder} was another model; choose another --output"
                    )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise InputError(f"{self.folder} is not an empty folder, nor a comparison; choose another --output")
        try:
            (self.folder / "sides").mkdir(parents=True, exist_ok=True)
            for side in sides:
                content = {"label": side.label, "preset": side.preset, "model_options": _plain(side.model_options)}
                _write(self.folder / "sides" / f"{side.name}.yaml", yaml.safe_dump(content, sort_keys=False))
            _write(path, yaml.safe_dump(now, sort_keys=False))
        except OSError as error:
            raise InputError(f"cannot write into {self.folder}: {error.strerror}") from error

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """The piece of that name: read if it is there, else made and written."""
        path = self.folder / "pieces" / f"{name}.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        if self.stop is not None and self.stop.signal is not None:
            raise Stopped(self.stop.signal)
        say(f"{name} …")
        result = make()
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, json.dumps(result, indent=1))
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
        images = {side.name: self._images(speed[side.name]["seconds_per_image"]) for side in sides}
        sweep = self._sweep(images)
        rates = {name: min(tries, key=lambda t: t["validation_loss"])["learning_rate"] for name, tries in sweep.items()}
        seeds = range(config.num_seeds)
        runs = self._train_all({
            (side.name, seed): (f"{side.name}/seed-{seed}", side, images[side.name], rates[side.name], seed)
            for seed in seeds
            for side in sides
        })  # fmt: skip

        extractor_facts, extractor = self._extractor()
        floor = self.once("floor", lambda: self._floor(extractor))
        dial = {s.name: self.once(f"dial/{s.name}", lambda s=s: self._dial(s)) for s in sides}
        dial = {name: rows for name, rows in dial.items() if rows}
        distance = {s.name: self.once(f"distance/{s.name}", lambda s=s: self._distance(s, extractor)) for s in sides}
        curves = {
            s.name: [
                self.once(
                    f"sampling/{s.name}-{name}-{n}", lambda s=s, name=name, n=n: self._point(s, name, n, extractor)
                )
                for name in SCHEDULERS
                for n in config.sampler_steps
            ]
            for s in sides
        }
        facts = {
            "config": config.to_dict(),
            "data": self.data.report.to_dict() | {"left_out": len(self.data.report.left_out)},
            "sides": [{"name": s.name, "label": s.label} for s in sides],
            "options": {s.name: {"preset": s.preset, **_plain(s.model_options)} for s in sides},
            "images": images,
            "rates": rates,
            "extractor": extractor.name,
            "extractor_facts": extractor_facts,
            "machine": machine(self.device),
        }
        measured = {
            "costs": costs, "memory": memory, "speed": speed, "latency": latency, "compiled": compiled,
            "sampling_time": sampling_time, "sweep": sweep, "floor": floor, "dial": dial, "distance": distance,
            "curves": curves,
            "runs": {name: [runs[name, seed] for seed in seeds] for name in images},
        }  # fmt: skip
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
        results = self._train_all({
            (side.name, rate): (f"{side.name}/sweep-{rate:g}", side, short[side.name], rate, 0)
            for side in self.sides
            for rate in sorted(config.learning_rates)
        })  # fmt: skip
        rows: dict[str, list[dict[str, Any]]] = {side.name: [] for side in self.sides}
        for (name, rate), result in results.items():
            loss = result["validation_loss"]
            rows[name].append({
                "learning_rate": rate,
                "images": result["images_seen"],
                "validation_loss": math.inf if loss is None else loss,
            })  # fmt: skip
        return rows

    def _train_all(self, tasks: dict[Any, tuple[str, Side, int, float, int]]) -> dict[Any, dict[str, Any]]:
        """Train what is not trained yet, several at a time if `jobs` says so; results by the keys of `tasks`."""
        config = self.config
        todo: dict[Any, tuple[str, TrainConfig]] = {}
        for key, (name, side, images, rate, seed) in tasks.items():
            if not (self.folder / "pieces" / "runs" / f"{name}.json").is_file():
                steps = images // config.batch_size
                output = str(self.folder / "runs" / name)
                todo[key] = name, config.train_config(output, side, steps=steps, learning_rate=rate, seed=seed)
        if config.jobs == 1:
            for name, train_config in todo.values():
                self.once(f"runs/{name}", lambda c=train_config: self._finished(train_side(c, None)))
        else:
            self._train_in_processes(list(todo.values()))
        return {key: self.once(f"runs/{name}", _missing) for key, (name, *_) in tasks.items()}

    def _train_in_processes(self, todo: list[tuple[str, TrainConfig]]) -> None:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(self.config.jobs, mp_context=context) as pool:
            futures = {pool.submit(train_side, train_config, 1): name for name, train_config in todo}
            bar = tqdm(total=len(futures), desc="trainings", unit="run")
            try:
                waiting = set(futures)
                while waiting:
                    done, waiting = concurrent.futures.wait(waiting, timeout=1, return_when="FIRST_COMPLETED")
                    for future in done:
                        result = self._finished(future.result())
                        self.once(f"runs/{futures[future]}", lambda result=result: result)
                        bar.update()
                    if self.stop is not None and self.stop.signal is not None:
                        raise Stopped(self.stop.signal)
            except Stopped:
                for future in waiting:
                    future.cancel()
                for pid in list(pool._processes):  # they finish their step, save, and return
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGTERM)
                raise
            finally:
                bar.close()

    def _finished(self, result: dict[str, Any]) -> dict[str, Any]:
        if result["stopped_by"] is not None:
            raise Stopped(result["stopped_by"])
        return result

    def _extractor(self) -> tuple[dict[str, Any], quality.Extractor]:
        config = self.config
        if config.extractor == "inception":
            return {}, quality.load_inception(self.device)
        path = self.folder / "extractor" / "classifier.safetensors"
        facts = self.once(
            "extractor",
            lambda: quality.train_classifier(
                self.data, self.held_out, steps=config.extractor_steps, seed=0, device=self.device, path=path
            ),
        )
        return facts, quality.load_classifier(path, facts, self.channels, self.device)

    def _real_parts(self) -> tuple[list[int], list[int]]:
        """Numbers of the images that the samples are compared with, and as many others for the floor."""
        count = min(self.config.num_samples, len(self.data) // 2)
        order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(0)).tolist()
        return order[:count], order[count : 2 * count]

    def _reference(self, extractor: quality.Extractor) -> torch.Tensor:
        if not hasattr(self, "_reference_features"):
            self._reference_features = quality.real_features(self.data, self._real_parts()[0], extractor, self.device)
        return self._reference_features

    def _floor(self, extractor: quality.Extractor) -> dict[str, Any]:
        other = quality.real_features(self.data, self._real_parts()[1], extractor, self.device)
        return {**quality.distances(self._reference(extractor), other), "num_images": len(other)}

    def _features(
        self, side: Side, scheduler: str, steps: int, count: int, extractor: quality.Extractor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        pipeline = load_pipeline(self.folder / "runs" / side.name / "seed-0", device=self.device)
        pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler.config)
        pipeline.set_progress_bar_config(disable=True)
        batches = generate(pipeline, count, seed=0, num_inference_steps=steps, batch_size=quality.BATCH)
        stop = self.stop

        def watched() -> Any:
            for batch in tqdm(
                batches, f"{side.name}, {scheduler} {steps}", math.ceil(count / quality.BATCH), leave=False
            ):
                if stop is not None and stop.signal is not None:
                    raise Stopped(stop.signal)
                yield batch

        return quality.fake_features(watched(), extractor, self.device)

    def _distance(self, side: Side, extractor: quality.Extractor) -> dict[str, Any]:
        """FID and KID with the main sampler, and a grid to look at."""
        scheduler, steps = self.config.main_sampler_parts()
        features, images = self._features(side, scheduler, steps, self.config.num_samples, extractor)
        (self.folder / "samples").mkdir(exist_ok=True)
        write_png(make_grid(images[:64], columns=8), self.folder / "samples" / f"{side.name}.png")
        return {**quality.distances(self._reference(extractor), features), "num_images": len(features)}

    def _point(self, side: Side, scheduler: str, steps: int, extractor: quality.Extractor) -> dict[str, Any]:
        features, _ = self._features(side, scheduler, steps, self.config.curve_samples, extractor)
        return {
            "scheduler": scheduler, "steps": steps, **quality.distances(self._reference(extractor), features),
            "num_images": len(features),
        }  # fmt: skip

    def _dial(self, side: Side) -> list[dict[str, Any]]:
        pipeline = load_pipeline(self.folder / "runs" / side.name / "seed-0", device=self.device)
        return measure_dial(pipeline.unet, pipeline.scheduler, self.held_out, self.device)


def train_side(config: TrainConfig, num_threads: int | None) -> dict[str, Any]:
    """One training, from the beginning or from where it was stopped; what the report needs of it."""
    from continuous_unet.training.loop import train

    if num_threads is not None:
        torch.set_num_threads(num_threads)
    started = time.perf_counter()
    folder = Path(config.output)
    with contextlib.redirect_stderr(io.StringIO()) if num_threads is not None else contextlib.nullcontext():
        result = train(config, resume=(folder / "config.yaml").is_file())
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


def _missing() -> Any:
    raise AssertionError("every training was made above")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()}


def _write(path: Path, text: str) -> None:
    """So that at every moment the file is absent, the old one, or whole."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
