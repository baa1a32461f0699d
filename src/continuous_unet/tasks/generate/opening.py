"""Opens a model for `cunet sample`, which is the same for models of images and of clips."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch

from continuous_unet.base.devices import pick_device
from continuous_unet.base.processes import Processes
from continuous_unet.base.results import Json
from continuous_unet.tasks.generate.options import SampleOptions
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline, choose_sampler
from continuous_unet.tasks.generate.prediction import SolverSteps, find_solver_steps
from continuous_unet.tasks.generate.speed import fitting_batch, usual_dtype

Opened = TypeVar("Opened", bound=DiffusionSamplingPipeline)


def open_sampler(
    options: SampleOptions, processes: Processes, load: Callable[..., Opened]
) -> tuple[Opened, int, SolverSteps]:
    """Returns a model with its sampler, and the numbers of sampling steps and of solver steps.

    Args:
        options: what is made.
        processes: those that share the work.
        load: `load_pipeline`, or a function with its arguments.

    Raises:
        InputError: for a model that cannot be loaded, and options that do not fit it.
    """
    device = pick_device(options.device) if processes.state is None else processes.state.device
    dtype = usual_dtype(device) if options.dtype is None else getattr(torch, options.dtype)
    pipeline = load(options.model, device=device, dtype=dtype, variant=options.variant)
    steps = choose_sampler(pipeline, options.scheduler, options.steps)
    pipeline.set_progress_bar_config(desc="sampling", disable=not processes.main)
    solver_steps = find_solver_steps(pipeline.unet, pipeline.facts, options.solver_steps)
    if options.compile:
        cast(torch.nn.Module, pipeline.unet).compile()  # in place
    return pipeline, steps, solver_steps


def batch_size_of(options: SampleOptions, pipeline: DiffusionSamplingPipeline, processes: Processes) -> int:
    """Returns how many images are made at a time: what was asked for, or what fits the device."""
    if options.batch_size is not None:
        return options.batch_size
    found: int = processes.from_main(fitting_batch(pipeline.unet, pipeline.unet.device))
    return found


class Visited:
    """Takes note of the timestep of each sampling step, the same for all images: a `callback_on_step_end`."""

    def __init__(self) -> None:
        self._by_number: dict[int, float] = {}

    def __call__(self, pipeline: Any, number: int, timestep: Any, tensors: Json) -> Json:
        self._by_number[number] = float(timestep)
        return {}

    @property
    def timesteps(self) -> list[float]:
        """Those of the steps that were taken."""
        return list(self._by_number.values())
