"""The reversible solve: constant memory, gradients exact to rounding.

Each carry is rebuilt from the one after it (`Method.inverse`), and the step is differentiated there. So only the last
carry is kept. One evaluation of the field serves both: a training step costs as much as four evaluations, where
backpropagation costs as much as three.
"""

from __future__ import annotations  # torch.compile cannot trace the annotations of inner functions

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten

from continuous_unet.ode.forms import Form
from continuous_unet.ode.guards import find_edges, sample_values, should_check_drift, warn_if_drifted
from continuous_unet.ode.loop import Counter, Problem, evaluator
from continuous_unet.ode.methods import Carry
from continuous_unet.ode.state import State


def reversible_end(
    problem: Problem, state: State, args: tuple[object, ...], parameters: tuple[Tensor, ...], counter: Counter | None
) -> State:
    """Returns the state after the last step, with a backward pass that rebuilds the states before it.

    `parameters` are those of the field that require grad.
    """
    if state.x is state.v:
        state = State(state.x, state.v.clone())  # torch.compile wants every input of an autograd function to be its own
    leaves, structure = tree_flatten(args)
    tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
    template = tuple(None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves)
    spec = _Reversal(problem, template, structure, len(tensors), parameters, counter)
    return State(*_ReversibleSolve.apply(spec, *state, *tensors, *parameters))


@dataclass(frozen=True)
class _Reversal:
    """The arguments of the autograd function that are not tensors."""

    problem: Problem
    template: tuple[tuple[object] | None, ...]
    """One entry for each leaf of the field's arguments: None where a tensor goes, else the value in a tuple."""
    structure: TreeSpec
    """How the arguments are put together from their leaves."""
    num_tensors: int
    parameters: tuple[Tensor, ...]
    counter: Counter | None

    def fill(self, tensors: Sequence[Tensor]) -> tuple[object, ...]:
        remaining = iter(tensors)
        leaves = [next(remaining) if entry is None else entry[0] for entry in self.template]
        return tree_unflatten(leaves, self.structure)

    def split(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Parts what belongs to argument tensors from what belongs to parameters."""
        return tuple(values[: self.num_tensors]), tuple(values[self.num_tensors :])


class _ReversibleSolve(torch.autograd.Function):
    """`(spec, x, v, *argument tensors, *parameters) -> (x, v)` after the last step.

    The gradients of argument tensors and parameters leave through the function's inputs, so they reach whatever made
    the tensors, hooks and DistributedDataParallel's reducer included.
    """

    @staticmethod
    def forward(ctx: Any, spec: _Reversal, x: Tensor, v: Tensor, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        tensors, _ = spec.split(inputs)
        problem = spec.problem
        evaluate = evaluator(problem, spec.fill(tensors), spec.counter)
        tracing = torch.compiler.is_compiling()
        ctx.autocast = None if tracing else _autocast_setting(x.device.type)
        ctx.randomness = None if tracing else _RandomStates(x.device)
        random_state = None if tracing else ctx.randomness.current()
        carry = problem.method.start(State(x, v))
        for step in range(problem.num_steps):
            carry = problem.method.step(evaluate, problem.time(step), problem.step_size, carry)
            if not tracing:
                random_state = ctx.randomness.keep_if_moved(step, random_state)
        ctx.spec = spec
        samples = () if tracing else (sample_values(x), sample_values(v))
        ctx.num_samples = len(samples)
        ctx.save_for_backward(*samples, *inputs, *carry)
        return problem.method.finish(carry)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        spec: _Reversal = ctx.spec
        problem, method = spec.problem, spec.problem.method
        saved = ctx.saved_tensors
        samples = saved[: ctx.num_samples]
        num_inputs = len(ctx.needs_input_grad) - 3
        tensors, parameters = spec.split(saved[ctx.num_samples : ctx.num_samples + num_inputs])
        carry = saved[ctx.num_samples + num_inputs :]
        tensors_wanted, _ = spec.split(ctx.needs_input_grad[3:])
        tracing = torch.compiler.is_compiling()
        if not tracing:
            # The field is evaluated again with the parameters that it has now. (The saved ones serve as autograd's
            # check against changes in place; hooks on saved tensors may have put copies in their place.)
            parameters = problem.parameters()
            if [id(p) for p in parameters] != [id(p) for p in spec.parameters]:
                raise RuntimeError(
                    f"the parameters of the field of {problem.name!r} were replaced between the forward and the "
                    "backward pass (torch.func.functional_call does that); use gradient='checkpoint' or 'backprop'"
                )
        pullback = _pullback_traced if tracing else _pullback

        everything = slice(None)
        carry_grads = pullback(lambda *c: tuple(method.finish(c)), carry)(grads, everything)
        inputs = _Inputs(tensors, tensors_wanted, parameters, {})
        sums: Gradients = (None,) * (sum(tensors_wanted) + len(parameters))
        with contextlib.nullcontext() if ctx.autocast is None else torch.autocast(**ctx.autocast):
            for step in reversed(range(problem.num_steps)):
                with contextlib.nullcontext() if ctx.randomness is None else ctx.randomness.replay(step):
                    carry, carry_grads, grads_here = _reverse_step(spec, problem.time(step), carry, carry_grads, inputs)
                sums = tuple(_sum(a, b) for a, b in zip(sums, grads_here, strict=True))
        first = method.finish(carry)
        state_grads = pullback(lambda *s: method.start(State(*s)), tuple(first))(carry_grads, everything)
        if samples and should_check_drift(first.x.device):
            in_half = ctx.autocast is not None and ctx.autocast["enabled"]
            warn_if_drifted(problem, first, samples, ctx.autocast["dtype"] if in_half else None)
        by_tensor = iter(sums)
        tensor_grads = tuple(next(by_tensor) if wanted else None for wanted in tensors_wanted)
        parameter_grads = list(by_tensor)
        for number, edge in inputs.elsewhere.items():  # after all evaluations, which recast gradients, too
            torch.autograd.backward([edge], [parameter_grads[number]])
            parameter_grads[number] = None
        return (None, *state_grads, *tensor_grads, *parameter_grads)


Gradients = tuple[Tensor | None, ...]
"""An entry is None if the tensor was not used."""


def _sum(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return b if a is None else a if b is None else a + b


class _Inputs(NamedTuple):
    """The inputs of the field besides its point."""

    tensors: Carry
    wanted: tuple[bool, ...]
    """Which tensors need gradients."""
    parameters: Carry
    elsewhere: dict[int, GradientEdge]
    """By the number of a parameter: where its gradient is added, if not to the function's input.

    Layerwise casting stores a parameter in another dtype than it computes in (offloading, on another device). Through
    the function's input, autograd would round the gradient to the stored dtype, where it may underflow. So the gradient
    is added where backpropagation adds it.
    """


def _reverse_step(
    spec: _Reversal, t: float, carry: Carry, carry_grads: Carry, inputs: _Inputs
) -> tuple[Carry, Carry, Gradients]:
    """Undoes one step and pulls the gradient back through it, with one evaluation of the field.

    `inverse` evaluates the field exactly where `step` did. So the field is differentiated there, and the step itself,
    which is cheap arithmetic, is replayed with the field's value put in as an independent variable.

    It returns the carry before the step, its gradient, and the gradients of wanted tensors and of parameters.
    """
    method, h = spec.problem.method, spec.problem.step_size
    tracing = torch.compiler.is_compiling()
    pullback, pull_field = (_pullback_traced, _pull_field_traced) if tracing else (_pullback, _pull_field)
    pulls = []
    values: list[tuple[Tensor, ...]] = []
    rebuilds = []

    def evaluate_and_keep(t_field: float, *point: Tensor) -> Tensor | Form:
        value, rebuild, pull = pull_field(spec, t_field, point, inputs)
        pulls.append(pull)
        values.append(value)
        rebuilds.append(rebuild)
        return rebuild(value)

    before = tuple(c.detach() for c in method.inverse(evaluate_and_keep, t, h, carry))
    # One evaluation a step (`Method.reversible` promises it), so there is one value and one point.
    (pull,), (value,), (rebuild,) = pulls, values, rebuilds

    def replay(*inputs: Tensor) -> tuple[Tensor, ...]:
        points: list[Tensor] = []

        def recorded(_: float, *point: Tensor) -> Tensor | Form:
            points.extend(point)
            return rebuild(inputs[len(before) :])

        after = method.step(recorded, t, h, inputs[: len(before)])
        return (*after, *points)

    # Of the replay's inputs and outputs: the carries come first, the field's value and its point after them.
    pull_step = pullback(replay, (*before, *value))
    value_grads = pull_step(carry_grads, slice(len(before), None))
    point_grads, other_grads = pull(value_grads)
    before_grads = pull_step((*carry_grads, *point_grads), slice(len(before)))
    return before, before_grads, other_grads


Pull = Callable[[Sequence[Tensor], slice], tuple[Tensor, ...]]
Rebuild = Callable[[Sequence[Tensor]], Tensor | Form]
PullField = Callable[[Sequence[Tensor]], tuple[Carry, Gradients]]


def _pullback(function: Callable[..., tuple[Tensor, ...]], inputs: Carry) -> Pull:
    """Returns the map from gradients of the first outputs of `function` to those of a slice of its inputs."""
    leaves = tuple(i.detach().requires_grad_() for i in inputs)
    with torch.enable_grad():
        outputs = function(*leaves)

    def pull(grads: Sequence[Tensor], wanted: slice) -> tuple[Tensor, ...]:
        first = outputs[: len(grads)]
        # Zeros where there is no path are right here: the leaves were made above, and no hook has touched them.
        return torch.autograd.grad(first, leaves[wanted], grads, retain_graph=True, materialize_grads=True)

    return pull


def _pullback_traced(function: Callable[..., tuple[Tensor, ...]], inputs: Carry) -> Pull:
    # torch.compile traces torch.func.vjp, but not torch.autograd.grad; it removes what is not used
    outputs, pull_all = torch.func.vjp(function, *inputs)  # type: ignore[misc]

    def pull(grads: Sequence[Tensor], wanted: slice) -> tuple[Tensor, ...]:
        rest = tuple(torch.zeros_like(o) for o in outputs[len(grads) :])
        return pull_all((*grads, *rest))[wanted]

    return pull


def _unpack(value: Tensor | Form) -> tuple[Carry, Rebuild]:
    """Returns a field's value as tensors, and the way back: an acceleration is one, a form a named tuple of them."""
    if isinstance(value, Tensor):
        return (value,), lambda tensors: tensors[0]
    return tuple(value), lambda tensors: type(value)(*tensors)


def _pull_field(spec: _Reversal, t: float, point: Carry, inputs: _Inputs) -> tuple[Carry, Rebuild, PullField]:
    """Returns the field's value at a point, as `_unpack` does, and the map from its gradient to those of its inputs.

    The latter are those of (point), (wanted tensors, parameters).
    """
    leaves = tuple(p.detach().requires_grad_() for p in point)
    arguments = tuple(a.detach().requires_grad_(w) for a, w in zip(inputs.tensors, inputs.wanted, strict=True))
    targets = (*leaves, *(a for a in arguments if a.requires_grad), *inputs.parameters)
    with torch.enable_grad():
        value, rebuild = _unpack(evaluator(spec.problem, spec.fill(arguments), None)(t, *leaves))
    edges = find_edges(spec.problem, value, targets)

    def pull(value_grads: Sequence[Tensor]) -> tuple[Carry, Gradients]:
        pairs = [(v, g.to(v.dtype)) for v, g in zip(value, value_grads, strict=True) if v.requires_grad]
        grads: list[Tensor | None] = [None] * len(targets)
        if edges:
            outputs, output_grads = zip(*pairs, strict=True)
            parts = torch.autograd.grad(outputs, [edge for _, edge in edges], output_grads)
            for (number, edge), part in zip(edges, parts, strict=True):
                grads[number] = _sum(grads[number], part)
                if edge.node is not get_gradient_edge(targets[number]).node:
                    inputs.elsewhere[number - len(targets) + len(inputs.parameters)] = edge
        # a point that is not in the graph of the field's value is not used by it
        at_point = tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads))
        return at_point, tuple(grads[len(leaves) :])

    return tuple(v.detach() for v in value), rebuild, pull


def _pull_field_traced(spec: _Reversal, t: float, point: Carry, given: _Inputs) -> tuple[Carry, Rebuild, PullField]:
    field = spec.problem.field
    names = [n for n, p in field.named_parameters() if p.requires_grad] if isinstance(field, nn.Module) else []
    rebuilds = []

    def value_of(*inputs: Tensor) -> tuple[Tensor, ...]:
        here = inputs[: len(point)]
        rest = iter(inputs[len(point) : len(inputs) - len(names)])
        arguments = spec.fill([next(rest) if w else a for a, w in zip(given.tensors, given.wanted, strict=True)])
        if isinstance(field, nn.Module):
            replaced = dict(zip(names, inputs[len(inputs) - len(names) :], strict=True))
            # functional_call knows `forward` only, where a SplitFieldModule gives its terms for v=None
            called = (*here, None) if spec.problem.method.uses_terms else here
            output = torch.func.functional_call(field, replaced, (t, *called, *arguments))
        else:
            output = evaluator(spec.problem, arguments, None)(t, *here)
        value, rebuild = _unpack(output)
        rebuilds.append(rebuild)
        return value

    wanted = (a for a, w in zip(given.tensors, given.wanted, strict=True) if w)
    value, pull_all = torch.func.vjp(value_of, *point, *wanted, *given.parameters)  # type: ignore[misc]

    def pull(value_grads: Sequence[Tensor]) -> tuple[Carry, Gradients]:
        grads = pull_all(tuple(g.to(v.dtype) for v, g in zip(value, value_grads, strict=True)))
        return grads[: len(point)], grads[len(point) :]

    return value, rebuilds[0], pull


def _autocast_setting(device_type: str) -> dict[str, Any] | None:
    """Returns the arguments by which `torch.autocast` enters the present setting again; None on devices without it."""
    if not torch.amp.is_autocast_available(device_type):  # the meta device, for one
        return None
    dtype, enabled = torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type)
    return {"device_type": device_type, "dtype": dtype, "enabled": enabled}


class _RandomStates:
    """Remembers the random state before each step of a field that draws random numbers (dropout), and replays it.

    States are kept only where a step moved the generator. They are kept per step, a few kilobytes each, because a
    generator cannot run backwards.
    """

    def __init__(self, device: torch.device) -> None:
        self.cuda = [device] if device.type == "cuda" else []
        self.states: dict[int, list[Tensor]] = {}

    def current(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self.cuda)]

    def keep_if_moved(self, step: int, before: list[Tensor]) -> list[Tensor]:
        """Returns the state after a step, and keeps the one before it if they differ."""
        after = self.current()
        if any(not torch.equal(a, b) for a, b in zip(before, after, strict=True)):
            self.states[step] = before
        return after

    @contextlib.contextmanager
    def replay(self, step: int) -> Iterator[None]:
        with torch.random.fork_rng(self.cuda, enabled=step in self.states):
            for state, device in zip(self.states.get(step, ()), [None, *self.cuda]):
                torch.set_rng_state(state) if device is None else torch.cuda.set_rng_state(state, device)
            yield
