"""Integration methods for `x'' = f(t, x, x')`, one class each.

A method advances a *carry*, a tuple of tensors, over one step `[t, t + h]`. For most methods the carry is `(x, v)`; a
method that needs more (the reversible leapfrog) adds to it in `start` and drops it in `finish`. `evaluate` is the only
access to the field, so that evaluations can be counted, recorded and replayed. `evaluate(t, x, v)` gives the
acceleration; for methods with `uses_terms`, `evaluate(t, x)` gives the velocity-free terms of the field (`forms.py`).

A new method is a class here, an entry in `METHODS`, and an entry in the table of `tests/ode/problems.py`.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from continuous_unet.ode.state import State

Carry = tuple[Tensor, ...]
Evaluate = Callable[..., Any]


class Method:
    """The base of the methods: the properties that each declares, and its step."""

    name: str
    order: int
    nodes: tuple[float, ...]
    """Where in a step the field is evaluated, as fractions of the step, in order: at `t + node * h`."""

    reversible: bool = False
    """Whether `inverse` rebuilds the carry before a step from the one after it, with one evaluation."""
    uses_terms: bool = False
    """Whether the field must be a split field (offer `terms(t, x)`)."""
    torchdiffeq_name: str | None = None
    """The same method in torchdiffeq, on the first-order system `(x, v)' = (v, f)`; None where it has none."""

    def start(self, state: State) -> Carry:
        """Returns the carry before the first step, without an evaluation."""
        return (state.x, state.v)

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        """Returns the carry at `t + h` from the carry at `t`."""
        raise NotImplementedError

    def inverse(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        """Returns the carry at `t` from the carry at `t + h`, evaluating the field where `step` did."""
        raise NotImplementedError(f"method {self.name!r} is not reversible")

    def finish(self, carry: Carry) -> State:
        """Returns the state that a carry stands for."""
        return State(carry[0], carry[1])

    @property
    def evaluations_per_step(self) -> int:
        return len(self.nodes)

    def num_evaluations(self, num_steps: int) -> int:
        """Returns the number of evaluations of the field over a whole solve."""
        return self.evaluations_per_step * num_steps

    def times(self, t0: float, step_size: float, num_steps: int) -> tuple[float, ...]:
        """Returns the times of these evaluations, in order: exactly the floats that `step` gives the field."""
        starts = (t0 + step * step_size for step in range(num_steps))
        return tuple(start + node * step_size for start in starts for node in self.nodes)


class ReversibleLeapfrog(Method):
    """Leapfrog for a force that depends on the velocity, made reversible by an auxiliary velocity `w`.

    Order 2 with one evaluation a step, also where plain velocity Verlet drops to order 1. The field sees the position
    at half the step and `w` there, where `w` is the velocity reflected at `v`:

        w_{n+1/2} = 2 v_n - w_{n-1/2}           (first step: w_{1/2} = v_0)
        x_{n+1/2} = x_n + h/2 v_n
        v_{n+1}   = v_n + h f(t_{n+1/2}, x_{n+1/2}, w_{n+1/2})
        x_{n+1}   = x_{n+1/2} + h/2 v_{n+1}

    Every line can be solved for the old value on its right-hand side, so the inverse is exact up to rounding and costs
    one evaluation. Memory: the carry `(x, v, w)`. The idea is that of the asynchronous leapfrog integrator (Mutze 2013;
    MALI, Zhuang et al., ICLR 2021), applied to a second-order system. Not to be confused with the leapfrog of
    Hamiltonian dynamics, which is symplectic but needs a force free of the velocity. Its limit, shared by symmetric
    reversible methods: under damping `w` grows by a factor of 1.07 to 1.6 a step, harmless over the 1 to 8 steps of a
    block, useless over long solves.
    """

    name = "reversible_leapfrog"
    order = 2
    nodes = (1 / 2,)
    reversible = True

    def start(self, state: State) -> Carry:
        # 2 v_0 - v_0 = v_0: with w_{-1/2} = v_0 the first step needs no special case
        return (state.x, state.v, state.v)

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v, w = carry
        w = 2 * v - w
        x = x + (h / 2) * v
        v = v + h * evaluate(t + h / 2, x, w)
        x = x + (h / 2) * v
        return (x, v, w)

    def inverse(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v, w = carry
        x = x - (h / 2) * v
        v = v - h * evaluate(t + h / 2, x, w)
        x = x - (h / 2) * v
        w = 2 * v - w
        return (x, v, w)


class DriftKickDrift(Method):
    """Strang splitting of a split field: half a drift, the exact kick, half a drift.

        x += h/2 v;   v <- exact solution of v' = terms(t + h/2, x) over h;   x += h/2 v

    Order 2, one evaluation a step, exactly invertible, stable at every damping, since the damping is solved exactly (an
    exponential integrator; Hochbruck and Ostermann, Acta Numerica 2010, and the splitting of Leimkuhler and Matthews
    without its noise). The inverse multiplies rounding errors by `exp(c h)` a step.
    """

    name = "drift_kick_drift"
    order = 2
    nodes = (1 / 2,)
    reversible = True
    uses_terms = True

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        x = x + (h / 2) * v
        v = evaluate(t + h / 2, x).kick(v, h)
        x = x + (h / 2) * v
        return (x, v)

    def inverse(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        x = x - (h / 2) * v
        v = evaluate(t + h / 2, x).inverse_kick(v, h)
        x = x - (h / 2) * v
        return (x, v)


class KickDrift(Method):
    """The exact kick, then a whole drift: order 1, one evaluation a step, exactly invertible.

        v <- exact solution of v' = terms(t, x) over h;   x += h v

    This one of the two splittings trains better at two solver steps a block. Its last kick reaches the position with
    the full weight `h`, where drift-kick-drift gives it half. With a relaxation form of infinite rate and `h = 1` it is
    the plain weight-tied residual network.
    """

    name = "kick_drift"
    order = 1
    nodes = (0.0,)
    reversible = True
    uses_terms = True

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        v = evaluate(t, x).kick(v, h)
        return (x + h * v, v)

    def inverse(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        x = x - h * v
        return (x, evaluate(t, x).inverse_kick(v, h))


class SemiImplicitEuler(Method):
    """Euler's method with the new velocity in the position: order 1, one evaluation a step, not reversible.

    v_{n+1} = v_n + h f(t_n, x_n, v_n);   x_{n+1} = x_n + h v_{n+1}

    Symplectic where `f` does not depend on the velocity (Hairer, Lubich and Wanner, Geometric Numerical Integration).
    """

    name = "semi_implicit_euler"
    order = 1
    nodes = (0.0,)

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        v = v + h * evaluate(t, x, v)
        return (x + h * v, v)


def _weighted_sum(start: Tensor, h: float, weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    for weight, slope in zip(weights, slopes, strict=True):
        if weight:
            start = start + (h * weight) * slope
    return start


class ExplicitRungeKutta(Method):
    """An explicit Runge-Kutta method on the first-order system `(x, v)' = (v, f(t, x, v))`, given by its tableau."""

    matrix: tuple[tuple[float, ...], ...] = ()
    """Row i: the weights of slopes 0 to i - 1 in stage i."""
    weights: tuple[float, ...] = ()

    def step(self, evaluate: Evaluate, t: float, h: float, carry: Carry) -> Carry:
        x, v = carry
        slopes_x: list[Tensor] = []
        slopes_v: list[Tensor] = []
        for node, row in zip(self.nodes, self.matrix, strict=True):
            stage_x = _weighted_sum(x, h, row, slopes_x)
            stage_v = _weighted_sum(v, h, row, slopes_v)
            slopes_x.append(stage_v)
            slopes_v.append(evaluate(t + node * h, stage_x, stage_v))
        return (_weighted_sum(x, h, self.weights, slopes_x), _weighted_sum(v, h, self.weights, slopes_v))


class Midpoint(ExplicitRungeKutta):
    """The explicit midpoint rule (Runge 1895): order 2, two evaluations a step."""

    name = "midpoint"
    order = 2
    torchdiffeq_name = "midpoint"
    nodes = (0.0, 1 / 2)
    matrix = ((), (1 / 2,))
    weights = (0.0, 1.0)


class Heun(ExplicitRungeKutta):
    """Heun's method, the explicit trapezoidal rule: order 2, two evaluations a step."""

    name = "heun"
    order = 2
    torchdiffeq_name = "heun2"
    nodes = (0.0, 1.0)
    matrix = ((), (1.0,))
    weights = (1 / 2, 1 / 2)


class RungeKutta4(ExplicitRungeKutta):
    """Kutta's 3/8 rule (1901): order 4, four evaluations a step.

    The variant that torchdiffeq calls `rk4`, and therefore the one that the code of arXiv 2310.20092 ran. It is not the
    classic one with weights (1, 2, 2, 1)/6, which has the same order and cost: here values agree with torchdiffeq's to
    rounding.
    """

    name = "rk4"
    order = 4
    torchdiffeq_name = "rk4"
    nodes = (0.0, 1 / 3, 2 / 3, 1.0)
    matrix = ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0))
    weights = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


_ALL = (ReversibleLeapfrog, DriftKickDrift, KickDrift, SemiImplicitEuler, Midpoint, Heun, RungeKutta4)
METHODS: dict[str, Method] = {method.name: method() for method in _ALL}
"""The fixed-step methods by name. Adaptive ones are torchdiffeq's: `adaptive.py`."""
