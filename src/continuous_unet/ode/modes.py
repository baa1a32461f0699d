"""Four ways to differentiate a solve. Each takes a problem and its first state, and returns the last state.

| mode         | memory in the number of steps     | gradient                                            |
| ------------ | --------------------------------- | --------------------------------------------------- |
| `backprop`   | grows: every activation           | exact, of the discrete solution                     |
| `checkpoint` | grows: one carry a step           | exact                                               |
| `reversible` | constant                          | exact to rounding; reversible methods only          |
| `adjoint`    | constant                          | of the continuous problem: off by the solver's error |

The reversible solve itself is in `reversal.py`. `adjoint` is in `adaptive.py`, because it is torchdiffeq's.
"""

from __future__ import annotations  # torch.compile cannot trace the annotations of inner functions

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from continuous_unet.ode.forms import SplitFieldModule
from continuous_unet.ode.guards import captured_message, refuse_second_derivatives, refuse_transforms
from continuous_unet.ode.loop import Counter, Problem, advance, evaluator
from continuous_unet.ode.methods import Carry
from continuous_unet.ode.reversal import reversible_end
from continuous_unet.ode.state import State


def solve_backprop(problem: Problem, state: State, args: tuple[object, ...], counter: Counter | None) -> State:
    """Lets autograd record every operation."""
    method = problem.method
    return method.finish(advance(problem, evaluator(problem, args, counter), method.start(state)))


def solve_checkpoint(problem: Problem, state: State, args: tuple[object, ...], counter: Counter | None) -> State:
    """Stores the carry before each step and runs the step again in the backward pass (torch's checkpoint)."""
    evaluate = evaluator(problem, args, counter)
    carry = problem.method.start(state)
    for step in range(problem.num_steps):

        def take_step(*tensors: Tensor, t: float = problem.time(step)) -> Carry:
            return problem.method.step(evaluate, t, problem.step_size, tensors)

        carry = torch_checkpoint(take_step, *carry, use_reentrant=False)
    return problem.method.finish(carry)


def solve_reversible(problem: Problem, state: State, args: tuple[object, ...], counter: Counter | None) -> State:
    """Keeps the last carry only, and rebuilds the others on the way back."""
    compiling = torch.compiler.is_compiling()
    if compiling and not _can_be_traced(problem):
        return solve_checkpoint(problem, state, args, counter)  # exact as well
    if not torch.is_grad_enabled():
        return solve_backprop(problem, state, args, counter)
    parameters = problem.parameters()
    if not any(t.requires_grad for t in (*state, *argument_tensors(args), *parameters)):
        # Nothing to rebuild for, unless the field hides a tensor that requires grad.
        end = solve_backprop(problem, state, args, counter)
        if any(t.requires_grad for t in end):
            raise RuntimeError(captured_message(problem.name))
        return end
    if compiling:  # what is compiled has no second derivatives anyway, and says so
        return reversible_end(problem, state, args, parameters, counter)
    refuse_transforms(problem, "reversible", state)
    end = reversible_end(problem, state, args, parameters, counter)
    refuse_second_derivatives(problem, end, "reversible")
    return end


class _LooksAtModules(type):
    def __instancecheck__(cls, instance: object) -> bool:
        if not isinstance(instance, nn.Module):
            return False
        attributes = (value for module in instance.modules() for value in vars(module).values())
        return any(isinstance(value, Tensor) and value.requires_grad for value in attributes)


class _HidesGradients(metaclass=_LooksAtModules):
    """Stands for modules that have a tensor with a gradient besides their parameters.

    `isinstance` is how every version of torch.compile looks at the module itself: it asks once, while it traces. torch
    2.11 cannot trace a walk over a module's attributes. The answer needs no guard, because a compiled graph is used
    again only if the tensors in it require gradients as before.
    """


def _can_be_traced(problem: Problem) -> bool:
    """Returns whether the reversible solve of a field can be compiled.

    Tracing cannot walk the graph of autograd to find captured tensors, whose gradients would silently be lost. So only
    modules can be compiled, and only those that have no tensor with a gradient besides their parameters.
    """
    wanted = SplitFieldModule if problem.method.uses_terms else nn.Module
    return isinstance(problem.field, wanted) and not isinstance(problem.field, _HidesGradients)


def argument_tensors(args: tuple[object, ...]) -> list[Tensor]:
    """Returns the tensors among the field's arguments, those inside tuples, lists and dictionaries included."""
    return [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
