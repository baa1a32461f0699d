"""The library call behind `cunet profile`."""

from pathlib import Path
from typing import Any

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.signals import StopRequest
from continuous_unet.deploy.timing import exported_latency
from continuous_unet.evaluation.costs.latency import measure_latency
from continuous_unet.evaluation.costs.profile import (
    ModelProfile,
    WholeImage,
    example_conditions,
    profile_model,
    sample_shape,
)
from continuous_unet.evaluation.options import ProfileOptions
from continuous_unet.tasks.facts import Facts, read_facts
from continuous_unet.tasks.loading import load_model_or_preset
from continuous_unet.tasks.packaged import is_model
from continuous_unet.tasks.saved import model_folder


def profile(options: ProfileOptions, *, stop: StopRequest | None = None) -> ModelProfile:
    """Measures what a model costs: parameters, MACs, memory and latency.

    Args:
        options: the model, the size of its input, and how to measure.
        stop: unused; profiling takes seconds.

    Raises:
        InputError: for options or a model that cannot be used.
    """
    options.validate()
    model = load_model_or_preset(options.model, options.sample_size, options.channels, options.solver_steps)
    model = model.to(pick_device(options.device))
    found = profile_model(
        model, sample_size=options.sample_size, batch_size=options.batch_size, repeats=options.repeats
    )
    found.whole_image = _whole_image(options, model, found)
    facts = read_facts(model_folder(Path(options.model))) if is_model(options.model) else Facts()
    if facts.solver_steps is not None:
        found.solver_steps_by_noise = facts.solver_steps.steps
    return found


def _whole_image(options: ProfileOptions, model: Any, found: ModelProfile) -> WholeImage:
    times = {"eager": found.latency_ms["median"] / options.batch_size}
    if "compiled" in options.runtimes:
        times["compiled"] = times["eager"] * _compiled_ratio(model, options)
    exported = [name for name in options.runtimes if name != "compiled"]
    for name, ratio in exported_latency(model, exported, options.repeats).items():
        times[name] = ratio * times["eager"]
    steps = options.sampling_steps or _own_steps(options.model) or 20
    evaluations = steps * (1 if options.guidance == 1 else 2)
    runtime = min(times, key=times.__getitem__)
    macs = evaluations * found.macs // options.batch_size
    return WholeImage(steps, evaluations, macs, evaluations * times[runtime] / 1000, runtime, times)


def _compiled_ratio(model: Any, options: ProfileOptions) -> float:
    """Returns the latency of a compiled model for one image, relative to eager PyTorch in the same rounds."""
    device = model.device
    sample = torch.zeros(sample_shape(model, options.sample_size, 1), device=device)
    conditions = {
        name: value.to(device) for name, value in example_conditions(model.config, 1, 32, model.dtype).items()
    }
    compiled = torch.compile(model, dynamic=False)
    with torch.no_grad():
        functions = {
            "eager": lambda: model(sample, 500, **conditions),
            "compiled": lambda: compiled(sample, 500, **conditions),
        }
        return measure_latency(functions, repeats=options.repeats, device=device)["compiled"].ratio


def _own_steps(model: str) -> int | None:
    """Returns the most sampling steps that a distilled model takes; None for other models and for presets."""
    sampler = read_facts(model_folder(Path(model))).sampler if is_model(model) else None
    return max(sampler.numbers) if sampler is not None and sampler.distilled else None
