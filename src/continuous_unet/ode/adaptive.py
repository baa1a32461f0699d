"""torchdiffeq behind the same call: adaptive methods, and the continuous adjoint.

The continuous adjoint (Chen et al., NeurIPS 2018) integrates a second ODE backwards for the gradient. For second order,
Norcliffe et al. (arXiv 2006.07220) show that the coupled first-order system used here is the cheaper form. The adjoint
needs constant memory and works with any method. But its gradient is that of the continuous problem: at few steps it
differs from the exact gradient of the computed solution by the solver's own error.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from continuous_unet.ode import guards
from continuous_unet.ode.loop import Counter, Problem
from continuous_unet.ode.modes import argument_tensors
from continuous_unet.ode.state import State

ADAPTIVE_METHODS = ("dopri5", "dopri8", "bosh3", "fehlberg2", "adaptive_heun")
"""torchdiffeq's adaptive methods, by its names."""


def import_torchdiffeq(purpose: str) -> ModuleType:
    """Returns torchdiffeq.

    Raises:
        ImportError: if it is missing, with the `purpose` that needs it and the command that installs it.
    """
    try:
        import torchdiffeq
    except ImportError as error:
        raise ImportError(f"{purpose} torchdiffeq: pip install 'continuous-unet[adaptive]'") from error
    return torchdiffeq


def solve_torchdiffeq(
    problem: Problem,
    torchdiffeq_method: str,
    adaptive: bool,
    adjoint: bool,
    state: State,
    args: tuple[object, ...],
    counter: Counter,
    rtol: float,
    atol: float,
) -> State:
    """Integrates `(x, v)' = (v, f)` over the problem's interval with torchdiffeq."""
    torchdiffeq = import_torchdiffeq("adaptive methods and gradient='adjoint' need")
    x = state.x
    wanted = (a for a in argument_tensors(args) if a.requires_grad)
    parameters = (*wanted, *problem.parameters())

    def derivative(t: Tensor, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        position, velocity = pair
        counter.count += 1
        acceleration = problem.field(t, position, velocity, *args)
        if adjoint and torch.is_grad_enabled() and acceleration.requires_grad:
            guards.refuse_lost_gradients(problem, (acceleration,), (t, position, velocity, *parameters))
        return velocity, acceleration.to(velocity.dtype)

    times = torch.tensor([problem.t0, problem.t1], dtype=x.dtype, device=x.device)
    options = {} if adaptive else {"grid_constructor": lambda _, __, t: _uniform_grid(t, problem.num_steps)}
    common: dict[str, Any] = {"rtol": rtol, "atol": atol, "method": torchdiffeq_method, "options": options}
    pair = (state.x, state.v)
    differentiable = torch.is_grad_enabled() and any(t.requires_grad for t in (*pair, *parameters))
    if adjoint and differentiable:
        guards.refuse_transforms(problem, "adjoint", state)
        xs, vs = torchdiffeq.odeint_adjoint(derivative, pair, times, adjoint_params=parameters, **common)
        guards.refuse_second_derivatives(problem, State(xs, vs), "adjoint")
    else:
        xs, vs = torchdiffeq.odeint(derivative, pair, times, **common)
        if adjoint and xs.requires_grad:
            raise RuntimeError(guards.captured_message(problem.name))
    return State(xs[-1], vs[-1])


def _uniform_grid(times: Tensor, num_steps: int) -> Tensor:
    # not torchdiffeq's step_size option: rounding can make that take one step more
    return torch.cat([times[0] + (times[-1] - times[0]) / num_steps * torch.arange(num_steps).to(times), times[-1:]])
