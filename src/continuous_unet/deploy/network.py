"""The module that is exported: a U-Net with the same inputs and outputs in every format."""

import contextlib
import copy
import inspect
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
from continuous_unet.base.results import Json
from continuous_unet.deploy.formats import FORMATS
from continuous_unet.deploy.options import ANY_STEPS, ExportOptions
from continuous_unet.deploy.standalone.runtime import Network
from continuous_unet.models import size_multiple
from continuous_unet.ode import ADAPTIVE_METHODS
from continuous_unet.tasks.loading import set_solver_steps

MOST_UNROLLED_STEPS = 4
"""The number of solver steps in a block up to which they are written out; docs/export.md has the measurement."""
LARGEST_TRACED_BATCH = 63
"""From 64 images on, diffusers' upsampling takes another path to the same values; a trace has only one path."""


class ExportModule(nn.Module):
    """A U-Net as `(sample, timestep, …) -> prediction`, all tensors and positional, in the order of `names`."""

    def __init__(self, unet: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.unet = unet
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD

        def forward(*inputs: Tensor) -> Tensor:
            given = dict(zip(names, inputs, strict=True))
            if SOLVER_STEPS.name in given and not torch.compiler.is_exporting():
                given[SOLVER_STEPS.name] = int(given[SOLVER_STEPS.name])  # type: ignore[assignment]
            prediction: Tensor = self.unet(**given, return_dict=False)[0]
            return prediction

        # torch.export names the inputs of a trace after the parameters
        forward.__signature__ = inspect.Signature([inspect.Parameter(n, kind) for n in names])  # type: ignore[attr-defined]
        self.forward = forward


@dataclass
class ExportNetwork:
    """A U-Net prepared for export, and the shapes that it is to accept."""

    module: ExportModule
    unet: Any
    batch: int | None
    """The only number of images that is accepted; None for any number."""
    height: int
    width: int
    any_size: bool
    size_multiple_of: int
    loop: bool
    """Whether the solver's loop stays a loop in the graph."""
    takes_solver_steps: bool = False
    """Whether the number of solver steps is an input of the graph."""
    frames: int | None = None
    """The number of frames of a clip; None for images."""
    text_length: int = 0
    """The number of tokens of every text, for models that are given one."""
    calibration: Sequence[dict[str, np.ndarray]] = field(default_factory=list)
    """Inputs by name, as they occur in sampling, which the ranges of int8 are fitted to."""

    @property
    def size(self) -> tuple[int, ...]:
        """Height and width of the images, or frames, height and width of the clips."""
        return (*(() if self.frames is None else (self.frames,)), self.height, self.width)

    @property
    def class_conditional(self) -> bool:
        return self.unet.config.num_class_embeds is not None

    @property
    def text_shape(self) -> tuple[int, int]:
        """The shape of an encoded text: its tokens, and the width of the states that stand for them."""
        return self.text_length, self.unet.config.cross_attention_dim

    @property
    def inputs(self) -> list["NetworkInput"]:
        """The inputs that this network has, in their order."""
        return inputs_of(self.unet, self.takes_solver_steps)

    def example_inputs(self, batch: int | None = None, seed: int = 0) -> tuple[Tensor, ...]:
        """Returns a value of every input for some images: random numbers as they occur in sampling."""
        count, generator = batch or self.batch or 2, torch.Generator().manual_seed(seed)
        return tuple(one.example(self, count, generator) for one in self.inputs)

    def axes(self) -> list[int | str]:
        """Returns the shape of the sample: numbers, and names of the axes that are free."""
        size: list[int | str] = ["height", "width"] if self.any_size else [*self.size]
        return ["batch" if self.batch is None else self.batch, self.unet.config.in_channels, *size]

    def program(self, module: nn.Module | None = None) -> ExportedProgram:
        """Returns the network as torch's exported program, for up to 63 images.

        Args:
            module: another form of the network to trace, with the same inputs, such as the quantised one.

        Raises:
            InputError: if it cannot be traced.
        """
        sides = {name: self.size_multiple_of * Dim(name, min=1) for name in ("height", "width")}
        free = {"batch": Dim("batch", min=1, max=LARGEST_TRACED_BATCH), **sides}
        shapes = {
            one.name: {axis: free[size] for axis, size in enumerate(one.shape(self)) if isinstance(size, str)}
            for one in self.inputs
        }
        if self.loop:
            self.unet.set_solver(keep_loop=True)
        traced, inputs = self.module if module is None else module, self.example_inputs()
        with explained("be exported"), torch.no_grad():
            return torch.export.export(traced, inputs, dynamic_shapes=shapes, strict=False)


@dataclass(frozen=True)
class NetworkInput:
    """One input of exported networks, which `export.json` lists for `runtime.py`.

    A further input is a row of `INPUTS`. Samplers find it in `export.json` by its name.
    """

    name: str
    """Its name in the file, and the argument of the U-Net that gets it."""
    dtype: torch.dtype
    present: Callable[[Any], bool]
    """Whether a U-Net has it, by its configuration."""
    shape: Callable[[ExportNetwork], list[int | str]]
    """Its shape: numbers, and the names of the axes that are free: batch, height and width."""
    example: Callable[[ExportNetwork, int, torch.Generator], Tensor]
    """Its values for a number of images, to trace and to measure the network with."""
    default: Callable[[Any], float | str | None] = lambda config: None
    """What `runtime.py` takes if it is given none, by the configuration: a number, the name of another input, or None
    if it must be given."""

    def describe(self, network: ExportNetwork) -> Json:
        """Returns its entry in `export.json`."""
        entry = {"name": self.name, "dtype": str(self.dtype).removeprefix("torch."), "shape": self.shape(network)}
        default = self.default(network.unet.config)
        return entry if default is None else {**entry, "default": default}


def _noise(network: ExportNetwork, count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, network.unet.config.in_channels, *network.size, generator=generator)


def _timesteps(network: ExportNetwork, count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator).mul(999).round()


def _classes(network: ExportNetwork, count: int, generator: torch.Generator) -> Tensor:
    return torch.randint(network.unet.config.num_class_embeds, (count,), generator=generator)


def _always(config: Any) -> bool:
    return True


def _per_image(network: ExportNetwork) -> list[int | str]:
    return network.axes()[:1]


def _states(network: ExportNetwork, count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, *network.text_shape, generator=generator)


def _mask(network: ExportNetwork, count: int, generator: torch.Generator) -> Tensor:
    length = network.text_shape[0]
    return torch.arange(length) < torch.randint(1, length + 1, (count, 1), generator=generator)


def _jumps(config: Any) -> bool:
    return bool(config.get("next_timestep_embedding"))


def _reads(config: Any) -> bool:
    return config.get("cross_attention_dim") is not None


INPUTS = (
    NetworkInput("sample", torch.float32, _always, ExportNetwork.axes, _noise),
    NetworkInput("timestep", torch.float32, _always, _per_image, _timesteps),
    NetworkInput("class_labels", torch.int64, lambda c: c.num_class_embeds is not None, _per_image, _classes),
    NetworkInput("encoder_hidden_states", torch.float32, _reads, lambda n: [*_per_image(n), *n.text_shape], _states),
    NetworkInput("encoder_attention_mask", torch.bool, _reads, lambda n: [*_per_image(n), n.text_shape[0]], _mask),
    NetworkInput("next_timestep", torch.float32, _jumps, _per_image, _timesteps, lambda config: "timestep"),
)
"""Every input that a network may have. The first two are those of all networks."""


SOLVER_STEPS = NetworkInput(
    "num_solver_steps",
    torch.int64,
    lambda config: config.get("block_type") == "second_order",
    lambda network: [],
    lambda network, count, generator: torch.tensor(network.unet.config.num_solver_steps),
    lambda config: config.num_solver_steps,
)
"""The input of exports that leave the number of solver steps open. It is one number for all images."""


def inputs_of(unet: Any, takes_solver_steps: bool = False) -> list[NetworkInput]:
    """Returns the inputs that the exported network of a U-Net has, in their order."""
    found = [one for one in INPUTS if one.present(unet.config)]
    return [*found, SOLVER_STEPS] if takes_solver_steps else found


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


def prepare_network(unet: Any, options: ExportOptions, text_length: int = 0) -> ExportNetwork:
    """Returns a copy of a U-Net on the CPU, in float32, set for inference, with the shapes that the options ask for.

    Args:
        unet: the model; its own text encoder is left out.
        options: how it is exported.
        text_length: number of tokens of every text, for models that read one.

    Raises:
        InputError: for a model, or a shape, that cannot be exported.
    """
    config = unet.config
    dim = getattr(unet, "dim", 2)
    if dim == 1:
        raise InputError("models of sequences are exported as planners: give a run of cunet train --task plan")
    if dim == 3 and options.any_size:
        raise InputError("--any-size is for models of images; clips have the size that the model was trained on")
    if config.class_embed_type is not None:
        raise InputError(
            f"this model's class_embed_type={config.class_embed_type!r} cannot be exported; num_class_embeds can"
        )
    unet = nn.Module.float(copy.deepcopy(unet).to("cpu")).eval().requires_grad_(False)
    if config.get("text_encoder_config") is not None:
        unet.text_encoder = None  # it is a graph of its own
    if hasattr(unet, "set_solver"):
        if config.method in ADAPTIVE_METHODS:
            raise InputError(
                f"method={config.method!r} chooses its steps while it runs and cannot be exported; set a method of "
                "fixed steps (set_solver) and save the model again"
            )
        unet.set_solver(gradient="backprop")  # the values are the same; the other modes concern training
    takes_steps = options.solver_steps == ANY_STEPS
    if takes_steps and not SOLVER_STEPS.present(config):
        raise InputError(
            f"--solver-steps {ANY_STEPS} is for continuous U-Nets of second order; leave it out for this model"
        )
    if isinstance(options.solver_steps, int):
        set_solver_steps(unet, options.solver_steps)
    steps = unet.config.get("num_solver_steps", 1)
    found, multiple = FORMATS[options.format], size_multiple(unet)
    wants_loop = options.solver_loop == "loop" or (options.solver_loop == "auto" and steps > MOST_UNROLLED_STEPS)
    shape, frames = options.shape(), None
    if dim == 3:
        if not isinstance(config.sample_size, (tuple, list)) or len(config.sample_size) != 3:
            raise InputError("the model's config has no number of frames: set sample_size to (frames, height, width)")
        frames, *sides = config.sample_size
        shape = shape or (0, sides[0], sides[1])
    elif shape is None:
        if config.sample_size is None:
            raise InputError("the model's config has no sample_size: give the size with --static-shape")
        size = (config.sample_size,) * 2 if isinstance(config.sample_size, int) else tuple(config.sample_size)
        shape = (0, *size)
    batch, height, width = shape
    if height % multiple or width % multiple:
        raise InputError(f"--static-shape: {height}x{width} images; this model needs multiples of {multiple}")
    return ExportNetwork(
        module=ExportModule(unet, [one.name for one in inputs_of(unet, takes_steps)]).eval(),
        unet=unet,
        batch=batch or (1 if found.fixed_batch else None),
        height=height,
        width=width,
        frames=frames,
        any_size=options.any_size,
        size_multiple_of=multiple,
        text_length=text_length,
        loop=takes_steps or (wants_loop and steps > 1 and found.loops and options.precision != "int8"),
        takes_solver_steps=takes_steps,
    )
