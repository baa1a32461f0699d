"""The module that is exported: a U-Net with the same inputs and outputs in every format."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from continuous_unet.base.errors import InputError, first_line
from continuous_unet.deploy.formats import FORMATS
from continuous_unet.deploy.options import ExportOptions
from continuous_unet.deploy.standalone.runtime import Network
from continuous_unet.models import size_multiple
from continuous_unet.ode import ADAPTIVE_METHODS
from continuous_unet.tasks.loading import set_solver_steps

MOST_UNROLLED_STEPS = 4
"""The number of solver steps in a block up to which they are written out; docs/export.md has the measurement."""
LARGEST_TRACED_BATCH = 63
"""From 64 images on, diffusers' upsampling takes another path to the same values; a trace has only one path."""


class _Module(nn.Module):
    """A U-Net as `(sample, timestep[, class_labels]) -> prediction`, all tensors and positional."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Tensor:
        return self.unet(sample, timestep, class_labels=class_labels, return_dict=False)[0]


@dataclass
class ExportNetwork:
    """A U-Net prepared for export, and the shapes that it is to accept."""

    module: _Module
    unet: Any
    batch: int | None
    """The only number of images that is accepted; None for any number."""
    height: int
    width: int
    any_size: bool
    size_multiple_of: int
    loop: bool
    """Whether the solver's loop stays a loop in the graph."""
    calibration: Sequence[dict[str, np.ndarray]] = field(default_factory=list)
    """Inputs by name, as they occur in sampling, which the ranges of int8 are fitted to."""

    @property
    def class_conditional(self) -> bool:
        return self.unet.config.num_class_embeds is not None

    def example_inputs(self, batch: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Returns noise `(B, C, H, W)`, timesteps `(B,)` over the whole range, and classes if the model has them."""
        count = batch or self.batch or 2
        generator = torch.Generator().manual_seed(seed)
        shape = (count, self.unet.config.in_channels, self.height, self.width)
        sample = torch.randn(shape, generator=generator)
        timestep = torch.rand(count, generator=generator).mul(999).round()
        if not self.class_conditional:
            return sample, timestep
        return sample, timestep, torch.randint(self.unet.config.num_class_embeds, (count,), generator=generator)

    def axes(self) -> list[int | str]:
        """Returns the shape of the sample: numbers, and names of the axes that are free."""
        size: list[int | str] = ["height", "width"] if self.any_size else [self.height, self.width]
        return ["batch" if self.batch is None else self.batch, self.unet.config.in_channels, *size]

    def program(self, module: nn.Module | None = None) -> ExportedProgram:
        """Returns the network as torch's exported program, for up to 63 images.

        Args:
            module: another form of the network to trace, with the same inputs, such as the quantised one.

        Raises:
            InputError: if it cannot be traced.
        """
        per_image = {0: Dim("batch", min=1, max=LARGEST_TRACED_BATCH)} if self.batch is None else {}
        size = {2: "height", 3: "width"} if self.any_size else {}
        sample = per_image | {axis: self.size_multiple_of * Dim(name, min=1) for axis, name in size.items()}
        shapes = {"sample": sample, "timestep": per_image}
        if self.class_conditional:
            shapes["class_labels"] = per_image
        if self.loop:
            self.unet.set_solver(keep_loop=True)
        traced, inputs = self.module if module is None else module, self.example_inputs()
        with explained("be exported"), torch.no_grad():
            return torch.export.export(traced, inputs, dynamic_shapes=shapes, strict=False)


def on_arrays(module: Callable[..., Tensor]) -> Network:
    """Returns a function of tensors as a function of arrays."""

    def network(*inputs: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return module(*map(torch.tensor, inputs)).numpy()

    return network


@contextlib.contextmanager
def quiet(*loggers: str) -> Iterator[None]:
    """Inside this context, tools do not warn or log, and print nothing on standard output, where JSON may be."""
    found = [logging.root, *map(logging.getLogger, loggers)]
    levels = [logger.level for logger in found]
    for logger in found:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(found, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def explained(failure: str, *loggers: str, advice: str = "") -> Iterator[None]:
    """Inside this context, which is `quiet`, any error of a tool becomes one line: `this model cannot {failure}: …`.

    Raises:
        InputError: for whatever is raised inside.
    """
    try:
        with quiet(*loggers):
            yield
    except InputError:
        raise
    except Exception as error:  # tracing, lowering and compiling have dozens of classes
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"this model cannot {failure}: {reason}{advice}") from error


def prepare_network(unet: Any, options: ExportOptions) -> ExportNetwork:
    """Returns a copy of a U-Net on the CPU, in float32, set for inference, with the shapes that the options ask for.

    Raises:
        InputError: for a model, or a shape, that cannot be exported.
    """
    config = unet.config
    if config.class_embed_type is not None:
        raise InputError(
            f"this model's class_embed_type={config.class_embed_type!r} cannot be exported; num_class_embeds can"
        )
    unet = nn.Module.float(copy.deepcopy(unet).to("cpu")).eval().requires_grad_(False)
    if hasattr(unet, "set_solver"):
        if config.method in ADAPTIVE_METHODS:
            raise InputError(
                f"method={config.method!r} chooses its steps while it runs and cannot be exported; set a method of "
                "fixed steps (set_solver) and save the model again"
            )
        unet.set_solver(gradient="backprop")  # the values are the same; the other modes concern training
    if options.solver_steps is not None:
        set_solver_steps(unet, options.solver_steps)
    steps = unet.config.get("num_solver_steps", 1)
    found, multiple = FORMATS[options.format], size_multiple(unet)
    wants_loop = options.solver_loop == "loop" or (options.solver_loop == "auto" and steps > MOST_UNROLLED_STEPS)
    shape = options.shape()
    if shape is None:
        if config.sample_size is None:
            raise InputError("the model's config has no sample_size: give the size with --static-shape")
        size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
        shape = (0, *size)
    batch, height, width = shape
    if height % multiple or width % multiple:
        raise InputError(f"--static-shape: {height}x{width} images; this model needs multiples of {multiple}")
    return ExportNetwork(
        module=_Module(unet).eval(),
        unet=unet,
        batch=batch or (1 if found.fixed_batch else None),
        height=height,
        width=width,
        any_size=options.any_size,
        size_multiple_of=multiple,
        loop=wants_loop and steps > 1 and found.loops and options.precision != "int8",
    )
