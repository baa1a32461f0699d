"""What the sides cost, measured together: speeds in turns in one process, so that a slow moment slows all of them.

Every ratio is to the first model given, the median over the rounds of the ratio within a round.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from continuous_unet.data import ImageDataset
from continuous_unet.diffusion.samplers import make_scheduler
from continuous_unet.evaluation import measure_latency, profile_model, saved_bytes
from continuous_unet.ode import METHODS
from continuous_unet.tasks.generate.pipeline import DiffusionSamplingPipeline
from continuous_unet.training.validation import validation_loss

STEPS = (1, 2, 3, 4, 6, 8)
"""Solver steps that a trained model is tried with."""


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _inputs(model: Any, batch_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    size = model.config.sample_size
    generator = torch.Generator().manual_seed(0)
    sample = torch.randn(batch_size, model.config.in_channels, size, size, generator=generator)
    timesteps = torch.randint(1000, (batch_size,), generator=generator)
    return sample.to(_device(model)), timesteps.to(_device(model))


def measure_costs(models: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Parameters, MACs and memory of one forward pass of one image, by name."""
    costs = {}
    for name, model in models.items():
        profile = profile_model(model, repeats=1, warmup=0).to_dict()
        kept = ("num_parameters", "macs", "flops", "unknown_operations", "saved_for_backward_bytes",
                "peak_memory_bytes", "peak_memory_training_bytes", "peak_memory_method")  # fmt: skip
        costs[name] = {k: profile[k] for k in kept} | {"evaluations": sum(profile["evaluations_per_block"].values())}
    return costs


def measure_memory(models: dict[str, Any]) -> list[dict[str, Any]]:
    """Bytes saved for the backward pass of one image, by side, gradient mode and number of solver steps.

    Every exact mode that a model has; a discrete U-Net has gradient checkpointing.
    """
    rows = []

    def measure(name: str, model: Any, mode: str, steps: int | None) -> None:
        sample, timesteps = _inputs(model, 1)
        saved = saved_bytes(lambda: model(sample, timesteps).sample, parameters=[*model.parameters(), *model.buffers()])
        rows.append({"side": name, "gradient": mode, "solver_steps": steps, "saved_bytes": saved.activations})

    for name, model in models.items():
        if hasattr(model, "set_solver"):
            before = model.config.num_solver_steps, model.config.gradient
            for mode in ("backprop", "checkpoint", "reversible"):
                for steps in STEPS:
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


def measure_training_speed(models: dict[str, Any], batch_size: int, repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds per training image (forward, backward, AdamW).

    The learning rate is zero: the models stay as they are.
    """
    steps: dict[str, Callable[[], None]] = {}
    for name, model in models.items():
        sample, timesteps = _inputs(model, batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)

        def step(model: Any = model, sample: Any = sample, timesteps: Any = timesteps, opt: Any = optimizer) -> None:
            model(sample, timesteps).sample.square().mean().backward()
            opt.step()
            opt.zero_grad()

        steps[name] = step
    times = measure_latency(steps, repeats=repeats, warmup=2, device=_device(next(iter(models.values()))))
    return {
        name: {
            "seconds_per_image": time.median_ms / 1000 / batch_size,
            "images_per_second": 1000 * batch_size / time.median_ms,
            **time.to_dict(),
        }
        for name, time in times.items()
    }


def measure_latencies(models: dict[str, Any], repeats: int, *, compiled: bool) -> dict[str, dict[str, Any]]:
    """Milliseconds of a forward pass of one image. `compiled`: by `torch.compile`, compiled before the first round.

    A side that cannot be compiled gets a row that says why.
    """
    if compiled:
        # torch compiles a function for 8 shapes at most and runs it uncompiled for others: too few for all sides,
        # where one with breaks in its graph (torchdiffeq's solvers) has layers compiled by themselves
        with torch._dynamo.config.patch(recompile_limit=8 * len(models)):
            return _latencies(models, repeats, lambda model: torch.compile(model, dynamic=False))
    return _latencies(models, repeats, lambda model: model)


def _latencies(
    models: dict[str, Any], repeats: int, prepare: Callable[[Any], Callable[..., Any]]
) -> dict[str, dict[str, Any]]:
    functions: dict[str, Callable[[], Any]] = {}
    failed: dict[str, dict[str, Any]] = {}
    for name, model in models.items():
        sample, timesteps = _inputs(model, 1)
        network = prepare(model)

        def forward(network: Any = network, sample: Any = sample, timesteps: Any = timesteps) -> Any:
            return network(sample, timesteps, return_dict=False)

        try:
            with torch.no_grad():
                forward()
            functions[name] = forward
        except Exception as error:  # a compiler fails in any way
            failed[name] = {
                "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            }
    with torch.no_grad():
        times = measure_latency(functions, repeats=repeats, device=_device(next(iter(models.values()))))
    return {name: failed[name] if name in failed else times[name].to_dict() for name in models}


def measure_sampling_time(
    models: dict[str, Any], scheduler: str, steps: int, repeats: int
) -> dict[str, dict[str, Any]]:
    """Seconds per image of whole sampling runs, 8 images at a time."""
    from diffusers import DDPMScheduler

    batch = 8
    functions: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        pipeline = DiffusionSamplingPipeline(model, make_scheduler(scheduler, DDPMScheduler().config))
        pipeline.set_progress_bar_config(disable=True)
        functions[name] = lambda pipeline=pipeline: pipeline(
            batch_size=batch, num_inference_steps=steps, generator=torch.Generator().manual_seed(0), output_type="pt"
        )
    times = measure_latency(functions, repeats=repeats, warmup=1, device=_device(next(iter(models.values()))))
    return {
        name: {
            "seconds_per_image": time.median_ms / 1000 / batch,
            **time.to_dict(),
        }
        for name, time in times.items()
    }


def measure_dial(unet: Any, scheduler: Any, held_out: ImageDataset, device: torch.device) -> list[dict[str, Any]]:
    """Validation loss of a trained model at other numbers of solver steps than it was trained with.

    Nothing if it has no solver of fixed steps.
    """
    if not hasattr(unet, "set_solver") or unet.config.method not in METHODS:
        return []
    trained = unet.config.num_solver_steps
    rows = []
    for steps in STEPS:
        unet.set_solver(num_steps=steps)
        losses = validation_loss(unet, scheduler, held_out, seed=0, with_labels=False, device=device)
        rows.append({"solver_steps": steps, "trained_with": trained, **losses})
    unet.set_solver(num_steps=trained)
    return rows
