"""The blocks of one level: features evolve by a second-order ODE in place of a stack of residual blocks.

Beside it, behind the same call, what it must be compared with: the first-order form that the paper's code ran, and the
plain weight-tied residual network.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from continuous_unet.models.fields import FIELDS, FieldConfig, FirstOrderField, InitialVelocity, ResidualField, zeroed
from continuous_unet.ode import METHODS, State, check_solver, integrate


@dataclass(frozen=True)
class SolverConfig:
    """How a block integrates, from ODE time 0 to `horizon`; `num_steps` is unused by adaptive methods."""

    num_steps: int
    horizon: float
    method: str
    gradient: str
    rtol: float = 1e-3
    atol: float = 1e-4

    def __post_init__(self) -> None:
        check_solver(self.method, self.gradient, self.num_steps)
        if not self.horizon > 0:
            raise ValueError(f"integration_time={self.horizon!r} must be positive")

    def with_changes(self, **changes: object) -> "SolverConfig":
        """A copy with the settings that are not None changed, and checked."""
        return replace(self, **{k: v for k, v in changes.items() if v is not None})  # type: ignore[arg-type]


@dataclass(frozen=True)
class BlockConfig:
    """What a block is built from. Only `DynamicBlock` uses the last three."""

    field: FieldConfig
    solver: SolverConfig
    name: str = "block"
    """What errors, warnings and statistics call the block, for example `down_blocks.0.blocks.0`."""
    field_type: str = "relaxation"
    initial_velocity: str = "features"
    read_velocity: bool = False


INITIAL_VELOCITIES = ("features", "timestep", "carried", "skips", "zero")
"""What `x'(0)` is learned from: the features; them and the timestep; them and the velocity that the block before ended
with; them and the velocity that the level ended with on the way down; or nothing: zero."""


class DynamicBlock(nn.Module):
    """`x'' = f(t, x, x'; emb)`, `x(0)` = features, `x'(0) = g(features)`; gives `x(horizon)` (arXiv 2310.20092).

    One field, used at every step: the parameters do not grow with the number of steps. With `read_velocity`, the last
    velocity is read too, through a 1x1 convolution that starts at zero.
    """

    def __init__(self, config: BlockConfig, carried_channels: int | None = None) -> None:
        super().__init__()
        kind = config.initial_velocity
        self.field = FIELDS[config.field_type](config.field)
        self.initial_velocity = (
            None if kind == "zero" else InitialVelocity(config.field, kind == "timestep", carried_channels)
        )
        channels = config.field.channels
        self.read_out = zeroed(nn.Conv2d(channels, channels, 1)) if config.read_velocity else None
        self.solver = config.solver
        self.name = config.name
        self.last_nfe: int | None = None
        """Evaluations of the field in the last forward pass (not updated by compiled ones)."""

    def forward(self, x: Tensor, emb: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Features `(B, C, H, W)` and embedding `(B, E)` to features and last velocity, both `(B, C, H, W)`.

        `carried` is a velocity that the initial one is to know, `(B, carried_channels, H, W)`: the last of the block
        before, or of the same level on the way down.
        """
        solver = self.solver
        velocity = torch.zeros_like(x) if self.initial_velocity is None else self.initial_velocity(x, emb, carried)
        state = State(x, velocity)
        if state.v.dtype != x.dtype:  # autocast: the convolution's output is half, the features may be float32
            state = State(x.float(), state.v.float())
        solution = integrate(
            self.field,
            state,
            num_steps=solver.num_steps,
            t1=solver.horizon,
            method=solver.method,
            gradient=solver.gradient,
            args=(emb,),
            rtol=solver.rtol,
            atol=solver.atol,
            name=self.name,
        )
        if not torch.compiler.is_compiling():
            self.last_nfe = solution.nfe
        x, v = solution.state
        return (x if self.read_out is None else x + self.read_out(v)), v


class FirstOrderBlock(nn.Module):
    """`z' = f(t, z; emb)` with `z(0) = (features, g(features))`; gives the first half of `z(horizon)`.

    The first-order form over the concatenated state, integrated by torchdiffeq (the `adaptive` extra), as the code of
    arXiv 2310.20092 ran it. It has four times the field of the second-order form; it is here to be compared with.
    """

    def __init__(self, config: BlockConfig, carried_channels: int | None = None) -> None:
        super().__init__()
        self.field = FirstOrderField(config.field)
        self.initial_velocity = InitialVelocity(config.field)
        self.solver = config.solver
        self.name = config.name
        self.last_nfe: int | None = None

    def forward(self, x: Tensor, emb: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """As `DynamicBlock.forward`, without a velocity."""
        try:
            import torchdiffeq
        except ImportError as error:
            raise ImportError(
                "block_type='first_order' needs torchdiffeq: pip install 'continuous-unet[adaptive]'"
            ) from error
        solver = self.solver
        scheme = METHODS.get(solver.method)
        evaluations = 0

        def derivative(t: Tensor, z: Tensor) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return self.field(t, z, emb)

        z = torch.cat([x, self.initial_velocity(x, emb).to(x.dtype)], dim=1)
        times = torch.linspace(0.0, solver.horizon, solver.num_steps + 1, dtype=z.dtype, device=z.device)
        settings = {
            "method": solver.method if scheme is None else scheme.torchdiffeq_name,
            "rtol": solver.rtol,
            "atol": solver.atol,
        }
        if solver.gradient == "adjoint" and torch.is_grad_enabled():
            # the embedding is made outside the field: the adjoint gives it a gradient only if it is told of it
            wanted = tuple(t for t in (emb, *self.field.parameters()) if t.requires_grad)
            end = torchdiffeq.odeint_adjoint(derivative, z, times, adjoint_params=wanted, **settings)[-1]
        else:
            end = torchdiffeq.odeint(derivative, z, times, **settings)[-1]
        self.last_nfe = evaluations
        return end[:, : x.shape[1]], None


class ResidualBlock(nn.Module):
    """The control: `x <- x + F(t, x; emb)`, as many times as the others take steps. No velocity, no solver.

    With another number of steps than trained with, the updates are scaled so that they sum to as much: Euler's method
    for `x' = F`.
    """

    def __init__(self, config: BlockConfig, carried_channels: int | None = None) -> None:
        super().__init__()
        self.field = ResidualField(config.field)
        self.solver = config.solver
        self.name = config.name
        self.last_nfe: int | None = None

    def forward(self, x: Tensor, emb: Tensor, carried: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """As `DynamicBlock.forward`, without a velocity."""
        solver = self.solver
        step_size = solver.horizon / solver.num_steps
        if x.dtype != torch.float32 and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # as the state of the dynamic block
        for step in range(solver.num_steps):

            def update(x: Tensor, t: float = step * step_size) -> Tensor:
                return x + step_size * self.field(t, x, emb)

            x = checkpoint(update, x, use_reentrant=False) if solver.gradient == "checkpoint" else update(x)
        self.last_nfe = solver.num_steps
        return x, None


BLOCKS: dict[str, type[DynamicBlock] | type[FirstOrderBlock] | type[ResidualBlock]] = {
    "second_order": DynamicBlock,
    "first_order": FirstOrderBlock,
    "residual": ResidualBlock,
}
"""Blocks by the name that `ContinuousUNet2DModel(block_type=...)` takes."""


def check_block(block_type: str, field_type: str, method: str, gradient: str) -> None:
    """Raise ValueError, by name, for settings of a block that cannot work together."""
    if block_type not in BLOCKS:
        raise ValueError(f"block_type={block_type!r} is unknown; expected one of {', '.join(BLOCKS)}")
    scheme = METHODS.get(method)
    if block_type == "residual" and gradient not in ("backprop", "checkpoint"):
        raise ValueError(
            f"gradient={gradient!r} is for solvers, and block_type='residual' has none; use 'backprop' or 'checkpoint'"
        )
    if block_type == "first_order":
        if gradient not in ("backprop", "adjoint"):
            raise ValueError(
                f"gradient={gradient!r} is not torchdiffeq's; block_type='first_order' has that solver only: "
                "use 'backprop' or 'adjoint'"
            )
        if scheme is not None and scheme.torchdiffeq_name is None:
            raise ValueError(
                f"method={method!r} is for second-order ODEs; block_type='first_order' needs one of "
                "torchdiffeq's, for example 'rk4'"
            )
    elif block_type == "second_order" and scheme is not None and scheme.uses_terms:
        _check_split(field_type, method)


def _check_split(field_type: str, method: str) -> None:
    if not hasattr(FIELDS[field_type], "terms"):
        raise ValueError(
            f"method={method!r} needs field_type='relaxation', and field_type={field_type!r} was given; "
            "use method='reversible_leapfrog' for it"
        )
