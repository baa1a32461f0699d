"""The contract of a block, and the block of this project: features that evolve by a second-order ODE.

A block maps features and a `Conditioning` to features of the same shape. The blocks that it must be compared with are
in `controls.py`.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from continuous_unet.models.conditioning import Conditioning, StepSizeEmbedding
from continuous_unet.models.fields import FIELDS, FieldConfig, InitialVelocity
from continuous_unet.ode import METHODS, State, check_solver, integrate


@dataclass(frozen=True)
class SolverConfig:
    """How a block integrates, from ODE time 0 to `horizon`. Adaptive methods do not use `num_steps`."""

    num_steps: int
    horizon: float
    method: str
    gradient: str
    rtol: float = 1e-3
    atol: float = 1e-4
    keep_loop: bool = False
    """Whether exported steps stay a loop in the graph, see `integrate`."""

    def __post_init__(self) -> None:
        check_solver(self.method, self.gradient, self.num_steps)
        if not self.horizon > 0:
            raise ValueError(f"integration_time={self.horizon!r} must be positive")

    def with_changes(self, **changes: Any) -> "SolverConfig":
        """Returns a copy with the settings that are not None changed, and checked."""
        return replace(self, **{name: value for name, value in changes.items() if value is not None})


@dataclass(frozen=True)
class BlockConfig:
    """The settings that a block is built from. Only `DynamicBlock` uses `field_type` and `initial_velocity`."""

    field: FieldConfig
    solver: SolverConfig
    name: str = "block"
    """The name of the block in errors, warnings and statistics, for example `down_blocks.0.blocks.0`."""
    field_type: str = "relaxation"
    initial_velocity: str = "features"
    elastic_depth: bool = False
    """Whether the block knows how long its solver steps are."""


class Block(nn.Module):
    """The base of the blocks.

    A subclass has a `field` with a `trunk`, which runs once for each evaluation of the field. `forward(x, conditioning,
    num_steps=None)` returns features of the shape of `x`, `(B, C, *size)`. `num_steps` is the number of solver steps of
    this call; None stands for the solver's own.
    """

    field: nn.Module

    def __init__(self, config: BlockConfig) -> None:
        super().__init__()
        self.solver = config.solver
        self.name = config.name
        self.step_size: StepSizeEmbedding | None = None
        if config.elastic_depth:
            self.step_size = StepSizeEmbedding(config.field.emb_channels, config.solver.horizon)

    def at_depth(self, conditioning: Conditioning, num_steps: int | Tensor | None = None) -> Conditioning:
        """Returns the conditioning of a call with this number of solver steps: it knows their length if it should."""
        if self.step_size is None:
            return conditioning
        h: Any = self.solver.horizon / (self.solver.num_steps if num_steps is None else num_steps)
        embedding = conditioning.embedding
        return conditioning._replace(embedding=embedding + self.step_size(h, embedding), step_size=h)

    @classmethod
    def check(cls, field_type: str, method: str, gradient: str) -> None:
        """Raises ValueError, by name, for settings that cannot work together in this block."""

    def times(self, num_steps: int | None = None) -> tuple[float, ...] | None:
        """Returns the ODE times at which a call evaluates the field, in order; None for adaptive methods."""
        method = METHODS.get(self.solver.method)
        if method is None:
            return None
        steps = self.solver.num_steps if num_steps is None else num_steps
        return method.times(0.0, self.solver.horizon / steps, steps)


class DynamicBlock(Block):
    """The dynamic block: features `x` evolve by a second-order ODE (arXiv 2310.20092).

    It solves `x'' = f(t, x, x'; emb)` from `x(0)` = features and `x'(0) = g(features)`, and returns `x(horizon)`. One
    field is used at every solver step, so the parameters do not grow with the number of steps.
    """

    def __init__(self, config: BlockConfig) -> None:
        super().__init__(config)
        self.field = FIELDS[config.field_type](config.field)
        self.initial_velocity = InitialVelocity(config.field, config.initial_velocity == "timestep")

    @classmethod
    def check(cls, field_type: str, method: str, gradient: str) -> None:
        scheme = METHODS.get(method)
        if scheme is not None and scheme.uses_terms and not hasattr(FIELDS[field_type], "terms"):
            raise ValueError(
                f"method={method!r} needs field_type='relaxation', 'separable' or 'gradient', and "
                f"field_type={field_type!r} was given; use method='reversible_leapfrog' for it"
            )

    def forward(self, x: Tensor, conditioning: Conditioning, num_steps: int | Tensor | None = None) -> Tensor:
        solver, conditioning = self.solver, self.at_depth(conditioning, num_steps)
        state = State(x, self.initial_velocity(x, conditioning))
        if state.v.dtype != x.dtype:  # autocast: the convolution's output is half, the features may be float32
            state = State(x.float(), state.v.float())
        solution = integrate(
            self.field,
            state,
            num_steps=solver.num_steps if num_steps is None else num_steps,
            t1=solver.horizon,
            method=solver.method,
            gradient=solver.gradient,
            args=(conditioning,),
            rtol=solver.rtol,
            atol=solver.atol,
            # torch.compile guards on the name, so that each would be compiled by itself
            name=None if torch.compiler.is_compiling() else self.name,
            keep_loop=solver.keep_loop,
        )
        return solution.state.x


@contextlib.contextmanager
def count_evaluations(unet: nn.Module) -> Iterator[Counter[str]]:
    """Counts the evaluations of each block's field inside this context, by the block's name.

    It is meant for measurements: it puts hooks on the blocks, and counts the evaluations of all threads. It does not
    count those of compiled blocks.
    """
    counts: Counter[str] = Counter()
    with contextlib.ExitStack() as hooks:
        for block in (module for module in unet.modules() if isinstance(module, Block)):
            trunk = block.field.get_submodule("trunk")
            hook = trunk.register_forward_pre_hook(lambda *_, name=block.name: counts.update([name]))
            hooks.enter_context(hook)
        yield counts
