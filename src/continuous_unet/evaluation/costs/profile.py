"""Everything that one model costs, in one call."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import CallResult
from continuous_unet.evaluation.costs.latency import measure_latency
from continuous_unet.evaluation.costs.macs import count_macs
from continuous_unet.evaluation.costs.memory import peak_memory, saved_bytes
from continuous_unet.models.blocks import count_evaluations


@dataclass(frozen=True)
class WholeImage:
    """What one image costs, from noise to the end of sampling."""

    sampling_steps: int
    evaluations: int
    """Guidance takes two for each sampling step."""
    macs: int
    seconds: float
    """Evaluations times the least latency of one."""
    runtime: str
    evaluation_ms: dict[str, float]
    """Latency of one evaluation for one image, by runtime."""


@dataclass
class ModelProfile(CallResult):
    """Costs of one forward pass of a batch, unless stated otherwise. Sizes are in bytes, times in milliseconds."""

    model: str
    sample_shape: tuple[int, ...]
    num_parameters: int
    macs: int
    """Multiply-accumulates of the batch, every solver stage counted."""
    flops: int
    """Two per multiply-accumulate."""
    unknown_operations: dict[str, int]
    evaluations_per_block: dict[str, int]
    """Evaluations of the field in each dynamic block; empty for models without."""
    saved_for_backward_bytes: int
    """Bytes kept for the backward pass, without parameters and buffers."""
    saved_parameters_bytes: int
    peak_memory_bytes: int
    """Most bytes alive at once during inference, beyond model and input; see `peak_memory`."""
    peak_memory_training_bytes: int
    """The same during a forward and backward pass; gradients of the parameters included."""
    peak_memory_method: str
    latency_ms: dict[str, float]
    """Latency of inference: `median`, `p25`, `p75`, `min`, and the number of `repeats`."""
    batch_size: int
    device: str
    dtype: str
    num_threads: int
    torch_version: str
    whole_image: WholeImage | None = None
    solver_steps_by_noise: tuple[int, ...] | None = None
    """The solver steps that `auto` takes, from least noise up, if the model has such a table."""

    def to_text(self) -> str:
        """Returns a table to read."""
        latency = self.latency_ms
        rows = [
            ("model", self.model),
            ("input", "x".join(map(str, self.sample_shape))),
            ("parameters", f"{self.num_parameters:,}"),
            ("MACs", f"{self.macs / 1e6:,.1f} M" + self._per_image(self.macs)),
            ("FLOPs (2 per MAC)", f"{self.flops / 1e6:,.1f} M" + self._per_image(self.flops)),
            ("saved for backward", f"{self.saved_for_backward_bytes / 2**20:,.2f} MiB"),
            ("peak memory, inference", f"{self.peak_memory_bytes / 2**20:,.2f} MiB ({self.peak_memory_method})"),
            ("peak memory, training", f"{self.peak_memory_training_bytes / 2**20:,.2f} MiB"),
            ("latency", f"{latency['median']:.2f} ms ({latency['p25']:.2f} to {latency['p75']:.2f})"),
            ("on", f"{self.device}, {self.dtype}, {self.num_threads} threads, torch {self.torch_version}"),
        ]
        if self.evaluations_per_block:
            counts = self.evaluations_per_block
            rows.insert(5, ("evaluations", f"{sum(counts.values())} in {len(counts)} dynamic blocks"))
        if self.unknown_operations:
            rows.insert(5, ("not counted", ", ".join(self.unknown_operations)))
        if (steps := self.solver_steps_by_noise) is not None:
            mean = sum(steps) / len(steps)
            rows.append(
                ("solver steps, auto", f"{' '.join(map(str, steps))} from least noise up ({mean:.2f} in the mean)")
            )
        if (image := self.whole_image) is not None:
            others = ", ".join(f"{name} {ms:.2f} ms" for name, ms in image.evaluation_ms.items())
            rows += [
                ("one evaluation", others),
                ("a whole image", f"{image.evaluations} evaluations, {image.macs / 1e9:,.3f} G MACs"),
                ("", f"{image.seconds:.4f} s in the fastest runtime ({image.runtime})"),
            ]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def _per_image(self, count: int) -> str:
        return f" ({count / self.batch_size / 1e6:,.1f} M an image)" if self.batch_size > 1 else ""


def profile_model(
    model: Any,
    *,
    sample_size: int | tuple[int, ...] | None = None,
    batch_size: int = 1,
    class_labels: torch.Tensor | None = None,
    tokens: int = 32,
    repeats: int = 20,
    warmup: int = 3,
) -> ModelProfile:
    """Measures a U-Net of diffusers' contract, on its own device and in its own dtype.

    Everything is measured in evaluation mode, the training step too: without the masks of dropout. The model keeps
    its modes, gradients and weights, and the random state does not change.

    Args:
        model: `ContinuousUNet2DModel`, `UNet2DModel` or another with their
            `forward(sample, timestep, class_labels=None)` and a `config` with `in_channels`.
        sample_size: height and width of the input, its length, or frames, height and width; as configured if None.
        batch_size: number of images at a time.
        class_labels: (batch_size, ...), for a model with class conditioning; if None and the config has
            `num_class_embeds`, class 0 for all.
        tokens: number of tokens of each text, for a model that is conditioned on text.
        repeats: number of timed forward passes.
        warmup: number of forward passes before those that are timed.

    Raises:
        InputError: if no size is known, the model cannot take it, or a number is below 1.
    """
    shape = sample_shape(model, sample_size, batch_size)
    if repeats < 1 or warmup < 0:
        raise InputError(f"repeats={repeats}, warmup={warmup}: at least one timed pass, and no negative warmup")
    everything = [*model.parameters(), *model.buffers()]
    if not everything:
        raise InputError(
            f"{type(model).__name__} has no parameters, so its device and dtype are unknown; give one with weights"
        )
    device, dtype = everything[0].device, everything[0].dtype
    sample = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    timestep = torch.full((batch_size,), 500, device=device)
    conditions = example_conditions(model.config, batch_size, tokens, dtype)
    if class_labels is not None:
        conditions["class_labels"] = class_labels
    conditions = {name: value.to(device) for name, value in conditions.items()}
    trained = [p for p in model.parameters() if p.requires_grad]

    def forward() -> torch.Tensor:
        return model(sample, timestep, **conditions).sample

    def train_step() -> None:
        loss = forward().float().square().mean()
        if trained:  # a frozen model has no backward pass
            torch.autograd.grad(loss, trained, allow_unused=True)

    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode(False), torch.no_grad():
            size = f"{'x'.join(map(str, shape[2:]))} (input of shape {shape})"
            with count_evaluations(model) as evaluations, refusing(f"the model cannot take the size {size}"):
                forward()
            macs = count_macs(forward)
            inference_peak, how = peak_memory(forward, device=device)
            latency = measure_latency({"forward": forward}, repeats=repeats, warmup=warmup, device=device)["forward"]
            with torch.enable_grad():
                saved = saved_bytes(forward, parameters=everything)
                training_peak, _ = peak_memory(train_step, device=device)
    finally:
        for module, training in modes.items():  # one by one: part of a model may be frozen in evaluation mode
            module.training = training
    return ModelProfile(
        model=type(model).__name__,
        sample_shape=shape,
        num_parameters=sum(p.numel() for p in model.parameters()),
        macs=macs.macs,
        flops=macs.flops,
        unknown_operations=macs.unknown_operations,
        evaluations_per_block=dict(evaluations),
        saved_for_backward_bytes=saved.activations,
        saved_parameters_bytes=saved.parameters,
        peak_memory_bytes=inference_peak,
        peak_memory_training_bytes=training_peak,
        peak_memory_method=how,
        latency_ms={name: getattr(latency, f"{name}_ms") for name in ("median", "p25", "p75", "min")}
        | {"repeats": repeats},
        batch_size=batch_size,
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )


def example_conditions(config: Any, batch_size: int, tokens: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Returns conditions of the kinds that a model takes: class 0, a vector of zeros, and random texts."""
    conditions = {}
    if getattr(config, "num_class_embeds", None) is not None:
        conditions["class_labels"] = torch.zeros(batch_size, dtype=torch.long)
    vector = getattr(config, "global_cond_dim", None)
    if vector is not None:
        conditions["global_cond"] = torch.zeros(batch_size, vector, dtype=dtype)
    width = getattr(config, "cross_attention_dim", None)
    if width is not None:
        shape = (batch_size, tokens, width)
        text = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        conditions["encoder_hidden_states"] = text.to(dtype)
    return conditions


def sample_shape(model: Any, sample_size: int | tuple[int, ...] | None, batch_size: int) -> tuple[int, ...]:
    """Returns the shape of the input of a model; raises InputError if no size is known, or it makes no sense.

    The number of frames of a model of clips is the configured one, unless it is given. Sequences have a length alone.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "in_channels"):
        raise InputError(
            f"{type(model).__name__} has no config with in_channels; a U-Net of diffusers' kind is expected"
        )
    own: Any = getattr(config, "sample_size", None)
    sample_size = own if sample_size is None else sample_size
    if sample_size is None:
        raise InputError("the model's config has no sample_size; give one with --sample-size")
    dim = getattr(model, "dim", 2)
    sides = (sample_size,) * min(dim, 2) if isinstance(sample_size, int) else tuple(sample_size)
    if dim == 3 and len(sides) == 2:
        if isinstance(own, int) or own is None or len(own) != 3:
            raise InputError(
                "the model's config has no number of frames; set its sample_size to (frames, height, width)"
            )
        sides = (own[0], *sides)
    if len(sides) != dim or min(sides) < 1:
        wanted = {1: "one number, the length,", 2: "one or two numbers (height, width)"}.get(dim, "(height, width)")
        raise InputError(f"sample_size={sample_size} must be {wanted} of at least 1")
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    return (batch_size, config.in_channels, *sides)


@contextlib.contextmanager
def refusing(what: str) -> Iterator[None]:
    """Inside this context, a first pass of a model fails with a clear error: diffusers fails deep inside.

    Raises:
        InputError: says `what` and why; running out of memory stays torch's own error.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{what}: {error}") from error
