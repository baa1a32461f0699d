"""Everything that one model costs, in one call."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from continuous_unet.errors import InputError
from continuous_unet.evaluation.latency import measure_latency
from continuous_unet.evaluation.macs import count_macs
from continuous_unet.evaluation.memory import peak_memory, saved_bytes


@dataclass(frozen=True)
class ModelProfile:
    """Costs of one forward pass of a batch, unless said otherwise. Sizes are bytes, times milliseconds."""

    model: str
    sample_shape: tuple[int, int, int, int]
    num_parameters: int
    macs: int
    """Multiply-accumulates of the batch, every solver stage counted."""
    flops: int
    """Two per multiply-accumulate."""
    unknown_operations: dict[str, int]
    evaluations_per_block: dict[str, int]
    """Evaluations of the field in each dynamic block; empty for models without."""
    saved_for_backward_bytes: int
    saved_parameters_bytes: int
    peak_memory_bytes: int
    """Most bytes alive at once during inference, beyond model and input."""
    peak_memory_training_bytes: int
    """The same during a forward and backward pass; gradients of the parameters included."""
    peak_memory_method: str
    latency_ms: dict[str, float]
    device: str
    dtype: str
    num_threads: int
    torch_version: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    def to_text(self) -> str:
        """A table to read."""
        latency = self.latency_ms
        rows = [
            ("model", self.model),
            ("input", "x".join(map(str, self.sample_shape))),
            ("parameters", f"{self.num_parameters:,}"),
            ("MACs", f"{self.macs / 1e6:,.1f} M"),
            ("FLOPs (2 per MAC)", f"{self.flops / 1e6:,.1f} M"),
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
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def profile_model(
    model: Any, *, sample_size: int | tuple[int, int] | None = None, batch_size: int = 1, repeats: int = 20
) -> ModelProfile:
    """Measure a U-Net of diffusers' contract, on the device and in the dtype that it is in.

    The model is left as it was found: mode, gradients, and weights.

    Args:
        model: `ContinuousUNet2DModel`, `UNet2DModel` or another with their `forward` and `config`.
        sample_size: height and width of the input; the configured one if None.
        batch_size: images at a time.
        repeats: timed forward passes.

    Raises:
        InputError: if no size is known, or the model cannot take it.
    """
    sample_size = sample_size or model.config.sample_size
    if sample_size is None:
        raise InputError("the model's config has no sample_size; say which one to profile (--sample-size)")
    height, width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
    parameter = next(model.parameters())
    device, dtype = parameter.device, parameter.dtype
    shape = (batch_size, model.config.in_channels, height, width)
    sample = torch.randn(shape, device=device, dtype=dtype)
    timestep = torch.full((batch_size,), 500, device=device)
    labels = None
    if getattr(model.config, "num_class_embeds", None) is not None:
        labels = torch.zeros(batch_size, dtype=torch.long, device=device)

    def forward() -> torch.Tensor:
        return model(sample, timestep, class_labels=labels).sample

    def train_step() -> None:
        torch.autograd.grad(forward().float().square().mean(), parameters, allow_unused=True)

    parameters = [p for p in model.parameters() if p.requires_grad]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                forward()
            except ValueError as error:
                raise InputError(f"the model cannot take the size {height}x{width}: {error}") from error
            macs = count_macs(forward)
            inference_peak, how = peak_memory(forward, device=device)
            latency = measure_latency({"forward": forward}, repeats=repeats, device=device)["forward"]
        saved = saved_bytes(forward, parameters=model.parameters())
        training_peak, _ = peak_memory(train_step, device=device)
        stats = model.solver_stats() if hasattr(model, "solver_stats") else {}
    finally:
        model.train(was_training)
    return ModelProfile(
        model=type(model).__name__,
        sample_shape=shape,
        num_parameters=_num_parameters(model),
        macs=macs.macs,
        flops=macs.flops,
        unknown_operations=macs.unknown_operations,
        evaluations_per_block={name: entry["nfe"] for name, entry in stats.items()},
        saved_for_backward_bytes=saved.activations,
        saved_parameters_bytes=saved.parameters,
        peak_memory_bytes=inference_peak,
        peak_memory_training_bytes=training_peak,
        peak_memory_method=how,
        latency_ms={
            "median": latency.median_ms, "p25": latency.p25_ms, "p75": latency.p75_ms, "repeats": latency.repeats,
        },
        device=str(device),
        dtype=str(dtype).removeprefix("torch."),
        num_threads=torch.get_num_threads(),
        torch_version=torch.__version__,
    )  # fmt: skip


def _num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
