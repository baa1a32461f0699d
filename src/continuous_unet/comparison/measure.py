"""What the sides cost, measured together: speeds in turns in one process, so that a slow moment affects all of them.

Every ratio is to the first model given, the median over the rounds of the ratio within a round.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

from continuous_unet.base.errors import first_line
from continuous_unet.comparison.results import Failed, SavedMemory, SideCost, SolverStepsLosses, Speed, from_json
from continuous_unet.data import ImageDataset
from continuous_unet.deploy.timing import exported_latency
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation import Latency, measure_latency, profile_model, saved_bytes
from continuous_unet.ode import METHODS
from continuous_unet.tasks.generate.options import GenerateTraining
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.tasks.generate.training import GenerateTask
from continuous_unet.training.validation import validate

Models = Mapping[str, Any]
"""U-Nets of diffusers' contract by the name of their side."""
SOLVER_STEPS = (1, 2, 3, 4, 6, 8)
"""Numbers of solver steps with which a trained model is evaluated."""


def _device(models: Models) -> torch.device:
    return next(iter(models.values())).device


def _inputs(model: Any, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.config.sample_size
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch_size, model.config.in_channels, size, size, generator=generator)
    timesteps = torch.randint(1000, (batch_size,), generator=generator)
    return sample.to(model.device), timesteps.to(model.device)


def measure_costs(models: Models) -> dict[str, SideCost]:
    """Returns parameters, MACs and memory of one forward pass of one image, by name."""
    costs = {}
    for name, model in models.items():
        profile = profile_model(model, repeats=1, warmup=0)
        evaluations = sum(profile.evaluations_per_block.values())
        costs[name] = from_json(SideCost, {**profile.to_dict(), "evaluations": evaluations})
    return costs


def measure_memory(models: Models) -> list[SavedMemory]:
    """Returns bytes saved for the backward pass of one image, by side, gradient mode and number of solver steps.

    Every exact mode that a model has is measured; a discrete U-Net has gradient checkpointing.
    """
    rows = []

    def measure(name: str, model: Any, mode: str, steps: int | None) -> None:
        rows.append(SavedMemory(name, mode, steps, saved_bytes(model, *_inputs(model, 1)).activations))

    for name, model in models.items():
        if hasattr(model, "set_solver"):
            before = model.config.num_solver_steps, model.config.gradient
            for mode in ("backprop", "checkpoint", "reversible"):
                for steps in SOLVER_STEPS:
                    try:
                        model.set_solver(num_steps=steps, gradient=mode)
                    except ValueError:  # a mode that this kind of block does not have
                        continue
                    measure(name, model, mode, steps)
            model.set_solver(num_steps=before[0], gradient=before[1])
        else:
            measure(name, model, "backprop", None)
            model.enable_gradient_checkpointing()
            model.train()  # diffusers checkpoints in training only
            measure(name, model, "checkpoint", None)
            model.disable_gradient_checkpointing()
            model.eval()
    return rows


def measure_training_speed(models: Models, batch_size: int, repeats: int) -> dict[str, Speed]:
    """Returns the speed of training steps (forward, backward, AdamW), by name.

    The learning rate is zero: the models stay as they are.
    """

    def stepping(model: Any) -> Callable[[], None]:
        sample, timesteps = _inputs(model, batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

        def step() -> None:
            model(sample, timesteps).sample.square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

        return step

    return _speeds(models, stepping, batch_size, repeats, 2)


def measure_sampling_time(models: Models, scheduler: str, steps: int, repeats: int) -> dict[str, Speed]:
    """Returns the speed of whole sampling runs, 8 images at a time, by name."""
    batch = 8

    def sampling(model: Any) -> Callable[[], object]:
        pipeline = DiffusionSamplingPipeline(model, make_scheduler(scheduler, DDPMScheduler().config))
        pipeline.set_progress_bar_config(disable=True)
        return lambda: pipeline(
            batch_size=batch, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="pt"
        )

    return _speeds(models, sampling, batch, repeats, 1)


def _speeds(
    models: Models, prepare: Callable[[Any], Callable[[], object]], batch_size: int, repeats: int, warmup: int
) -> dict[str, Speed]:
    functions = {name: prepare(model) for name, model in models.items()}
    times = measure_latency(functions, repeats=repeats, warmup=warmup, device=_device(models))
    return {
        name: Speed(**time.to_dict(), seconds_per_image=time.median_ms / 1000 / batch_size)
        for name, time in times.items()
    }


def measure_latencies(models: Models, repeats: int, *, compiled: bool = False) -> dict[str, Latency | Failed]:
    """Returns the latency of a forward pass of one image, by name.

    With `compiled`, every side is compiled by `torch.compile` before the first round. A side that cannot be compiled
    gets an entry that says why.
    """
    functions: dict[str, Callable[[], object]] = {}
    failed: dict[str, Failed] = {}
    # torch compiles a function for 8 shapes at most and runs it uncompiled for others: too few for all sides,
    # where one with breaks in its graph (torchdiffeq's solvers) has layers compiled by themselves
    with torch.no_grad(), torch._dynamo.config.patch(recompile_limit=8 * len(models)):
        for name, model in models.items():
            prepared = torch.compile(model, dynamic=False) if compiled else model
            forward = partial(prepared, *_inputs(model, 1), return_dict=False)
            try:
                forward()
                functions[name] = forward
            except Exception as error:  # a compiler fails in any way
                failed[name] = Failed(f"{type(error).__name__}: {first_line(error)[:200]}")
        times = measure_latency(functions, repeats=repeats, device=_device(models))
    return {name: failed[name] if name in failed else times[name] for name in models}


def measure_exported(models: Models, formats: Sequence[str], repeats: int) -> dict[str, dict[str, float]]:
    """Returns the latency of exported sides relative to eager PyTorch, one image each, by name and runtime."""
    return {name: exported_latency(model, formats, repeats) for name, model in models.items()}


def measure_solver_steps(pipeline: DiffusionSamplingPipeline, held_out: ImageDataset) -> list[SolverStepsLosses]:
    """Returns validation losses of a trained model with other numbers of solver steps than it was trained with.

    The list is empty if the model has no solver with a fixed number of steps. A class-conditional model gets the
    classes of the images.
    """
    unet: Any = pipeline.unet
    if not hasattr(unet, "set_solver") or unet.config.method not in METHODS:
        return []
    trained = unet.config.num_solver_steps
    conditional = unet.config.num_class_embeds is not None
    task = GenerateTask(GenerateTraining(class_conditional=conditional), process_of(pipeline.scheduler))
    rows = []
    for steps in SOLVER_STEPS:
        unet.set_solver(num_steps=steps)
        losses = validate(task, unet, held_out, seed=0)
        rows.append(from_json(SolverStepsLosses, {"solver_steps": steps, "trained_with": trained, **losses}))
    unet.set_solver(num_steps=trained)
    return rows
