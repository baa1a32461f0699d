"""Functions of a comparison that may run in processes of their own, and how those are run and stopped."""

import concurrent.futures
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from ctypes import c_byte
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from tqdm import tqdm

from continuous_unet.base.files import replace_folder
from continuous_unet.base.signals import Stopped, StopRequest, stop_on_signals
from continuous_unet.comparison.results import CurvePoint, SampledDistance, StoppedEarly, Training, from_json
from continuous_unet.evaluation.quality.extractors import Facts, extractor_class
from continuous_unet.evaluation.quality.generation import distances, load_sampler, sampled_features
from continuous_unet.images.grids import make_grid, write_png
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.guards import TrainingDiverged
from continuous_unet.training.run import train

ExtractorSpec = tuple[str, Path, Facts]
"""Name, file and facts of an extractor."""
Task = tuple[Any, ...]
"""A function and its arguments, which can be sent to another process."""


def run_in_processes(tasks: dict[str, Task], jobs: int, stop: StopRequest, done: Callable[[str, object], None]) -> None:
    """Runs functions in processes of one thread each, `jobs` at a time.

    Args:
        tasks: functions and arguments by name.
        jobs: number of processes.
        stop: checked every second; if it is set, the workers get SIGINT, upon which a training saves and returns.
        done: receives the name and the result of each.

    Raises:
        Stopped: if a signal arrived.
    """
    context = multiprocessing.get_context("spawn")
    before = set(multiprocessing.active_children())
    told = context.RawValue("b", 0)  # without a lock, which a worker that dies could keep
    pool = concurrent.futures.ProcessPoolExecutor(jobs, context, begin_worker, (told,))
    names = iter(tasks)
    running: dict[concurrent.futures.Future[object], str] = {}
    with pool, tqdm(total=len(tasks), desc="pieces", unit="piece") as bar:
        while True:
            # no more than can run: a worker that is asked to stop must find nothing else to do
            for name in itertools.islice(names, jobs - len(running)):
                with without_interrupts():
                    running[pool.submit(quietly, *tasks[name])] = name
            if not running:
                return
            finished, _ = concurrent.futures.wait(running, timeout=1, return_when="FIRST_COMPLETED")
            for future in finished:
                done(running.pop(future), future.result())
                bar.update()
            if stop.signal is not None:
                told.value = 1
                for worker in set(multiprocessing.active_children()) - before:
                    os.kill(cast(int, worker.pid), signal.SIGINT)
                raise Stopped(stop.signal)


@contextlib.contextmanager
def without_interrupts() -> Iterator[None]:
    """Lets SIGINT wait while processes are started, because they inherit this and would die of it while they import."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


_told: c_byte | None = None
"""In a worker: becomes true before the workers get SIGINT."""


def begin_worker(told: c_byte) -> None:
    """Prepares a process of the pool, which heeds SIGINT inside `quietly` alone.

    While it waits for work, it may hold the lock of the queue. If it died then, the other workers would wait for that
    lock forever, and this process for them.
    """
    global _told
    _told = told
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # see `without_interrupts`


def quietly(function: Callable[..., object], *arguments: object) -> object:
    """Calls a function without its progress bars and lines, because those of several would overwrite each other.

    A worker that was told to stop before it could begin answers `StoppedEarly` and begins nothing.
    """
    idle = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if _told is not None and _told.value:
            return StoppedEarly(signal.SIGINT)
        with contextlib.redirect_stderr(io.StringIO()):
            return function(*arguments)
    finally:
        signal.signal(signal.SIGINT, idle)


def train_side(config: TrainConfig, snapshots: dict[int, Path] | None = None) -> Training | StoppedEarly:
    """Trains a side, from the beginning or from where it was stopped, and returns what the report needs of it.

    Args:
        config: of the training.
        snapshots: where the model is kept after some numbers of training steps.
    """
    started = time.perf_counter()
    folder = Path(config.output)
    stages = [step for step, path in sorted((snapshots or {}).items()) if not path.exists() and step < config.steps]
    try:
        for steps in [*stages, config.steps]:
            result = train(config.replaced(steps=steps), resume=(folder / "config.yaml").is_file())
            if result.stopped_by is not None:
                return StoppedEarly(result.stopped_by)
            if snapshots is not None and steps in stages:
                replace_folder(snapshots[steps], partial(shutil.copytree, folder / "model"))
    except TrainingDiverged as error:  # a learning rate that is too high is a result of the sweep
        return Training(images_seen=0, validation_loss=None, curve=[], diverged=str(error))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return Training(
        images_seen=result.images_seen,
        validation_loss=result.validation_loss,
        curve=[from_json(CurvePoint, record) for record in records if record.get("validation_loss") is not None],
        seed=config.seed,
        learning_rate=config.optimizer.learning_rate,
        loss=result.loss,
        seconds=round(time.perf_counter() - started, 1),
    )


def measure_samples(
    run: Path,
    scheduler: str,
    steps: int,
    count: int,
    spec: ExtractorSpec,
    real: Path,
    device: torch.device,
    grid: Path | None,
) -> SampledDistance | StoppedEarly:
    """Measures the distance between samples of a trained side and real images.

    Args:
        run: folder of the training.
        scheduler: name of the sampler.
        steps: number of sampling steps.
        count: number of samples.
        spec: the feature extractor.
        real: file with the features of the real images.
        device: where to compute.
        grid: file for a picture of the first 64 samples; None for no picture.
    """
    pipeline, scheduler, steps = load_sampler(run, scheduler, device, steps)
    kind, path, facts = spec
    extractor = extractor_class(kind)(path, facts, device)
    with stop_on_signals() as stop:
        try:
            sampled = sampled_features(
                pipeline, count, extractor, device, steps=steps, on_step=stop.check, title=f"{scheduler}, {steps} steps"
            )
        except Stopped as stopped:
            return StoppedEarly(stopped.signal)
    if grid is not None:
        write_png(make_grid(sampled.first, columns=8), grid)
    distance = distances(load_file(real)["features"], sampled.features)
    return SampledDistance(
        **asdict(distance), scheduler=scheduler, steps=steps, seconds_per_image=sampled.seconds_per_image
    )
