"""Finds the best few sampling times of a trained model, and saves them with it: the call behind `cunet schedule`."""

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.randomness import derive_seed
from continuous_unet.base.results import CallResult, Json
from continuous_unet.base.signals import StopRequest, stop_on_signals
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.schedule_search import Predict, Searched, search_times
from continuous_unet.models.fingerprint import fingerprint
from continuous_unet.tasks.facts import SamplerFacts, write_facts
from continuous_unet.tasks.generate.options import ScheduleOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.generate.prediction import Predictor
from continuous_unet.tasks.generate.prompts import text_conditions
from continuous_unet.tasks.generate.request import ask
from continuous_unet.tasks.loading import load_pipeline
from continuous_unet.tasks.packaged import refuse_packaged
from continuous_unet.tasks.saved import model_folder


@dataclass
class ScheduleResult(CallResult):
    """The times that were found, in the order of the numbers of steps."""

    model: str
    found: list[Searched]
    seconds: float

    def to_dict(self) -> Json:
        rows: list[Json] = [{"steps": len(one.times), **asdict(one), "times": list(one.times)} for one in self.found]
        return {"model": self.model, "schedules": rows, "seconds": round(self.seconds, 3)}

    def to_text(self) -> str:
        lines = [
            f"{len(one.times)} steps of {'first' if one.order == 1 else 'second'} order: error {one.error:.4f} (evenly "
            f"spread, first order: {one.even_error:.4f}), times " + " ".join(f"{time:g}" for time in one.times)
            for one in self.found
        ]
        return "\n".join([*lines, f"saved with the model; `cunet sample {self.model} --steps N` uses them"])


def find_schedules(options: ScheduleOptions, *, stop: StopRequest | None = None) -> ScheduleResult:
    """Finds the best sampling times of a model for some numbers of steps, and saves them with it.

    Args:
        options: which model, and how it is searched.
        stop: asked before every evaluation of the model. Signals stop the work if None.

    Raises:
        InputError: for options that do not fit the model, and if its folder cannot be written.
        Stopped: if `stop` ends the work; nothing is written then.
    """
    options.validate()
    refuse_packaged(options.model)
    folder, started = model_folder(Path(options.model)), time.perf_counter()
    pipeline = load_pipeline(options.model)
    known, weights = pipeline.facts.sampler, fingerprint(cast(torch.nn.Module, pipeline.unet))
    if known is not None and known.distilled:
        raise InputError(f"{options.model} was distilled, and has sampling times of its own")
    pipeline.to(pick_device(options.device))
    with stop_on_signals() if stop is None else contextlib.nullcontext(stop) as request:
        found = search(pipeline, options, request)
    new = {len(one.times): (one.times, one.order) for one in found}
    if known is not None:
        new = {len(times): (times, known.order(len(times))) for times in known.times} | new
    times = tuple(new[number][0] for number in sorted(new))
    second = tuple(number for number in sorted(new) if new[number][1] == 2)
    sampler = SamplerFacts(times, weights=weights, second_order=second)
    write_facts(folder, replace(pipeline.facts, sampler=sampler))
    return ScheduleResult(options.model, found, time.perf_counter() - started)


@torch.no_grad()
def search(pipeline: DiffusionSamplingPipeline, options: ScheduleOptions, stop: StopRequest) -> list[Searched]:
    """Returns the best sampling times of a pipeline in memory; arguments and errors are those of `find_schedules`."""
    unet, config, process = pipeline.unet, pipeline.unet.config, process_of(pipeline.scheduler)
    if config.sample_size is None:
        raise InputError("the model's config has no sample_size: set it (config.json) to say how large images are")
    size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
    device, classes = pipeline.device, config.num_class_embeds or 0
    if pipeline.facts.conditions.null_class is not None:
        classes -= 1

    def predictors(times: Sequence[float], numbers: range) -> Predict:
        labels = [number % classes for number in numbers] if classes else None
        prompts = [options.prompt[number % len(options.prompt)] for number in numbers] if options.prompt else None
        asked = ask(
            config,
            pipeline.facts,
            len(numbers),
            device,
            class_labels=labels,
            text=text_conditions(unet, pipeline.facts.text, prompts, None, len(numbers)),
            guidance_scale=options.guidance,
        )
        steps = torch.tensor(times, dtype=torch.float32, device=device)
        predictor = Predictor(unet, asked, steps, process.num_train_timesteps, len(numbers))

        def predict(x: Tensor, timestep: Tensor) -> Tensor:
            stop.check()
            return predictor(x.to(unet.dtype), timestep.float())

        return predict

    batches = []
    for start in range(0, options.num, options.batch_size):
        numbers = range(start, min(start + options.batch_size, options.num))
        generators = [torch.Generator().manual_seed(derive_seed("schedule", options.seed, k)) for k in numbers]
        noise = torch.stack([torch.randn(config.in_channels, *size, generator=one) for one in generators])
        batches.append((numbers, noise.to(device)))
    return search_times(process, predictors, batches, options.steps)
