"""The dynamic block: features evolve by a second-order ODE in place of a stack of residual blocks."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from continuous_unet.models.fields import FIELDS, FieldConfig, InitialVelocity
from continuous_unet.ode import State, check_solver, integrate


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


class DynamicBlock(nn.Module):
    """`x'' = f(t, x, x'; emb)`, `x(0)` = features, `x'(0) = g(features)`; gives `x(horizon)` (arXiv 2310.20092).

    One field, used at every step: the parameters do not grow with the number of steps.
    """

    def __init__(self, field_type: str, field: FieldConfig, solver: SolverConfig, name: str = "block") -> None:
        super().__init__()
        self.field = FIELDS[field_type](field)
        self.initial_velocity = InitialVelocity(field)
        self.solver = solver
        self.name = name
        self.last_nfe: int | None = None
        """Evaluations of the field in the last forward pass (not updated by compiled ones)."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Features `(B, C, H, W)` and embedding `(B, E)` to features `(B, C, H, W)`."""
        solver = self.solver
        state = State(x, self.initial_velocity(x))
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
        return solution.state.x
