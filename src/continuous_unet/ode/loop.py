"""The time loop, the one place where steps are taken, and the problem that it solves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from continuous_unet.ode.methods import Carry, Evaluate, Method
from continuous_unet.ode.state import State


@dataclass(frozen=True)
class Problem:
    """A field, the interval `[t0, t1]`, and how to step over it.

    `t` is the ODE's own time (depth inside a block), never the diffusion's timestep. Times are Python floats, so that
    no float64 tensor is made on devices that have none.
    """

    field: Callable[..., Any]
    method: Method
    num_steps: int
    t0: float
    t1: float
    name: str
    """The name of this solve in warnings and errors, for example `down_blocks.0`."""
    keep_loop: bool = False
    """Whether an exported solve without gradients is a loop in the graph."""
    steps_input: Tensor | None = None
    """The number of steps, 0-d, where it is an input of an exported graph; `num_steps` is unknown then."""

    @property
    def step_size(self) -> Any:
        """The length of a step: a number, or 0-d like `steps_input`."""
        return (self.t1 - self.t0) / (self.num_steps if self.steps_input is None else self.steps_input)

    def time(self, step: int) -> float:
        """Returns the time at which a step starts."""
        return self.t0 + step * self.step_size

    def parameters(self) -> tuple[Tensor, ...]:
        """Returns the parameters of the field that require grad; a plain function has none."""
        field = self.field
        return tuple(p for p in field.parameters() if p.requires_grad) if isinstance(field, nn.Module) else ()


@dataclass
class Counter:
    """The number of evaluations of the field, counted where they happen."""

    count: int = 0


@dataclass(frozen=True)
class Solution:
    """The result of `integrate`."""

    state: State
    nfe: int
    """Number of evaluations of the field on the way forward, each for the whole batch. They are counted while running.
    A graph under `torch.compile` cannot count and has the number that the method declares; tests hold them equal. It is
    0 where the number of steps is an input of the graph."""
    num_steps: int | None
    """Number of steps; None for adaptive methods, which do not report it, and for an input of an exported graph."""


def evaluator(problem: Problem, args: tuple[object, ...], counter: Counter | None) -> Evaluate:
    """Returns the function by which a method evaluates the field: it adds `args`, and counts."""
    function = problem.field.terms if problem.method.uses_terms else problem.field  # type: ignore[attr-defined]

    def evaluate(t: float, *point: Tensor) -> Any:
        if counter is not None:
            counter.count += 1
        return function(t, *point, *args)

    return evaluate


def advance(problem: Problem, evaluate: Evaluate, carry: Carry) -> Carry:
    """Takes all steps from `t0` to `t1`."""
    looping = problem.keep_loop and problem.num_steps > 1 and torch.compiler.is_exporting()
    if looping or problem.steps_input is not None:
        return _advance_in_graph(problem, evaluate, carry)
    for step in range(problem.num_steps):
        carry = problem.method.step(evaluate, problem.time(step), problem.step_size, carry)
    return carry


def _advance_in_graph(problem: Problem, evaluate: Evaluate, carry: Carry) -> Carry:
    from torch._higher_order_ops.while_loop import while_loop

    count = problem.num_steps if problem.steps_input is None else problem.steps_input

    def more(step: Tensor, *carry: Tensor) -> Tensor:
        return step < count

    def body(step: Tensor, *carry: Tensor) -> tuple[Tensor, ...]:
        t: Any = problem.t0 + step.to(torch.float32) * problem.step_size
        return step + 1, *apart(problem.method.step(evaluate, t, problem.step_size, carry))

    def apart(carry: Carry) -> Carry:  # what goes into a loop, and comes out, must not share memory
        return tuple(c.clone() for c in carry)

    _, *carry_at_end = while_loop(more, body, (torch.zeros((), dtype=torch.int64), *apart(carry)))
    return tuple(carry_at_end)
