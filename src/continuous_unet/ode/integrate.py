"""`integrate`: the one call of this package."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from continuous_unet.ode.adaptive import ADAPTIVE_METHODS, solve_torchdiffeq
from continuous_unet.ode.forms import SplitField
from continuous_unet.ode.loop import Counter, Problem, Solution
from continuous_unet.ode.methods import METHODS, Method
from continuous_unet.ode.modes import solve_backprop, solve_checkpoint, solve_reversible
from continuous_unet.ode.state import State

_SOLVES = {"backprop": solve_backprop, "checkpoint": solve_checkpoint, "reversible": solve_reversible}
GRADIENTS = (*_SOLVES, "adjoint")
"""The gradient modes; see `modes.py` for what each costs and gives."""


def check_solver(method: str, gradient: str, num_steps: int | Tensor | None) -> None:
    """Raises `ValueError` for a combination that cannot work, whatever the field.

    The number of steps may be a tensor while a graph is exported that has it as an input.

    Owners of a solver's settings call it, to fail when these are set rather than at the first solve.
    """
    known = (*METHODS, *ADAPTIVE_METHODS)
    if method not in known:
        raise ValueError(f"method={method!r} is unknown; expected one of {', '.join(known)}")
    if gradient not in GRADIENTS:
        raise ValueError(f"gradient={gradient!r} is unknown; expected one of {', '.join(GRADIENTS)}")
    if method in ADAPTIVE_METHODS:
        if gradient not in ("backprop", "adjoint"):
            raise ValueError(
                f"gradient={gradient!r} needs fixed steps, and method={method!r} is adaptive; "
                "use gradient='backprop' or 'adjoint'"
            )
        return
    if isinstance(num_steps, Tensor) and torch.compiler.is_exporting() and gradient == "backprop":
        return
    if not isinstance(num_steps, int) or isinstance(num_steps, bool) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} is not a number of steps; expected an integer of at least 1")
    if gradient == "reversible" and not METHODS[method].reversible:
        reversible = ", ".join(name for name, m in METHODS.items() if m.reversible)
        raise ValueError(
            f"gradient='reversible' needs a reversible method ({reversible}), and method={method!r} is not; "
            "use one of these, or gradient='checkpoint'"
        )
    if gradient == "adjoint" and METHODS[method].torchdiffeq_name is None:
        mapped = ", ".join(name for name, m in METHODS.items() if m.torchdiffeq_name)
        raise ValueError(
            f"gradient='adjoint' is torchdiffeq's, which has no {method!r}; use one of {mapped}, "
            f"{', '.join(ADAPTIVE_METHODS)}, or another gradient mode"
        )


def integrate(
    field: Callable[..., Tensor] | SplitField,
    state: State,
    *,
    num_steps: int | Tensor | None = None,
    t0: float = 0.0,
    t1: float = 1.0,
    method: str = "reversible_leapfrog",
    gradient: str = "backprop",
    args: tuple[object, ...] = (),
    rtol: float = 1e-5,
    atol: float = 1e-6,
    name: str | None = None,
    keep_loop: bool = False,
) -> Solution:
    """Solves `x'' = field(t, x, x', *args)` from `t0` to `t1`.

    Args:
        field: `field(t, x, v, *args) -> acceleration`, of the shape of `x`. An `nn.Module` if it has parameters. `t` is
            a float (a 0-d tensor where torchdiffeq does the solving). The drift-kick methods need a split field, one
            that offers `terms(t, x, *args)` (see `split_field`).
        state: position and velocity at `t0`, of one shape (any), floating dtype and device.
        num_steps: steps of equal length; required by all but the adaptive methods. In exports with the gradient mode
            `"backprop"` it may be a 0-d integer tensor, an input of the graph, which then has a loop.
        t0: start, in the ODE's own time.
        t1: end; less than `t0` integrates backwards.
        method: a name in `METHODS`, or an adaptive one of torchdiffeq (`ADAPTIVE_METHODS`).
        gradient: `"backprop"`, `"checkpoint"`, `"reversible"` or `"adjoint"`; see `modes.py`.
        args: further arguments of the field. Tensors among them, also inside tuples or dictionaries (conditioning,
            embeddings), get their gradients in every mode. A tensor that requires grad and that the field merely
            captures is refused where it would get none.
        rtol: relative tolerance, adaptive methods only.
        atol: absolute tolerance, adaptive methods only.
        name: the name of this solve in warnings and errors; the field's class name if None.
        keep_loop: whether an exported solve is a loop in the graph (torch's `while_loop`), which then does not grow
            with the number of steps. For export without gradients; the field is called with a 0-d tensor as `t` there.

    Returns:
        The state at `t1`, and the number of evaluations of the field that it took.

    Raises:
        ValueError: for settings that cannot work together; it names them and a remedy.
        RuntimeError: for a captured tensor that requires grad (in `reversible` and `adjoint`, when differentiating),
            and for these modes inside transforms of `torch.func`.
        ImportError: where torchdiffeq is needed and missing.

    Under autocast a half-precision state is brought to float32 and stays there: a reversible backward pass cannot
    rebuild bits that rounding took. Second derivatives work with `backprop` and `checkpoint`; the other modes raise.
    """
    check_solver(method, gradient, num_steps)
    _check_state(state)
    # comparisons, not math.isfinite: where models of different horizons are compiled, Dynamo has symbols for the times
    if not (abs(t0) < math.inf and abs(t1) < math.inf and t0 != t1):
        raise ValueError(f"t0={t0!r} and t1={t1!r} do not span an interval; expected two different finite times")
    scheme = METHODS.get(method)
    if scheme is not None and scheme.uses_terms and not hasattr(field, "terms"):
        raise ValueError(
            f"method={method!r} needs a split field, one with terms(t, x), and {type(field).__name__} has none; "
            "wrap a function that returns Damped or Relaxation with split_field(), or use method='reversible_leapfrog'"
        )

    adaptive = scheme is None
    steps_input = num_steps if isinstance(num_steps, Tensor) else None
    known_steps = None if isinstance(num_steps, Tensor) or adaptive else num_steps
    problem = Problem(
        field=field,
        method=Method() if scheme is None else scheme,  # torchdiffeq's take no steps of ours
        num_steps=known_steps or 1,
        t0=float(t0),
        t1=float(t1),
        name=name or str(getattr(field, "__name__", type(field).__name__)),
        keep_loop=keep_loop,
        steps_input=steps_input,
    )
    state = _full_precision(state)
    if adaptive or gradient == "adjoint":
        counter = Counter()
        other = method if scheme is None else scheme.torchdiffeq_name
        assert other is not None  # check_solver refused the others
        end = solve_torchdiffeq(problem, other, adaptive, gradient == "adjoint", state, args, counter, rtol, atol)
        return Solution(end, counter.count, known_steps)

    assert scheme is not None
    tracing = torch.compiler.is_compiling()  # a traced region must not change Python objects from outside it
    fixed_counter = None if tracing else Counter()
    if not tracing and torch.jit.is_tracing():
        # OpenVINO converts models by such traces, which hold neither autograd functions nor hooks
        gradient = "backprop"
    end = _SOLVES[gradient](problem, state, args, fixed_counter)
    nfe = scheme.num_evaluations(known_steps or 0) if fixed_counter is None else fixed_counter.count
    return Solution(end, nfe, known_steps)


def _check_state(state: State) -> None:
    x, v = state
    if x.shape != v.shape or x.dtype != v.dtype or x.device != v.device:
        raise ValueError(
            f"x and v of a state must match: x has shape {tuple(x.shape)}, {x.dtype} on {x.device}, "
            f"v has shape {tuple(v.shape)}, {v.dtype} on {v.device}"
        )
    if not x.is_floating_point():
        raise ValueError(f"a state must be of floating dtype, got {x.dtype}; convert x and v, for example by .float()")


def _full_precision(state: State) -> State:
    device_type = state.x.device.type
    half = state.x.dtype in (torch.float16, torch.bfloat16)
    if half and torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type):
        return State(state.x.float(), state.v.float())
    return state
