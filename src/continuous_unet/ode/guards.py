"""Guards around solves that are one node of autograd's graph: what would silently be wrong raises or warns.

Such a solve gives gradients only to the tensors that it is given. These functions find other tensors that need one,
parameters whose place in the graph has changed, derivatives that are unavailable, and rebuilt states that have drifted.
"""

from __future__ import annotations  # torch.compile cannot trace the annotations of inner functions

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.graph import GradientEdge, get_gradient_edge

from continuous_unet.ode.loop import Problem
from continuous_unet.ode.state import State

DRIFT_TOLERANCE = 1e-3
"""Largest difference between the first state and its reconstruction (root mean square, relative) before a warning."""


def find_edges(problem: Problem, outputs: Iterable[Tensor], inputs: Sequence[Tensor]) -> list[tuple[int, GradientEdge]]:
    """Finds where `inputs` enter the graph of `outputs`, as pairs of an input's number and an edge.

    An input without a pair is not used. An input may have several: a hook that changes the dtype of a parameter's data
    (diffusers' layerwise casting) gives it another accumulator at every use, and autograd would find only the last.

    Raises:
        RuntimeError: if `outputs` depend on a tensor that requires grad and is not among `inputs`. The field captures
            such a tensor (a timestep embedding used inside a closure, say), which would silently get no gradient.
    """
    numbers = {id(tensor): number for number, tensor in enumerate(inputs)}
    # A node and which of its outputs: of the two halves of `emb.chunk(2)`, one may be an input and the other captured.
    made = {(t.grad_fn, t.output_nr): number for number, t in enumerate(inputs) if t.grad_fn is not None}
    found = []
    seen = set()
    # an output may be a parameter itself, a constant rate for example
    roots = (get_gradient_edge(output) for output in outputs if output.requires_grad)
    stack = [(root.node, root.output_nr) for root in roots]
    while stack:
        edge = stack.pop()
        if edge in seen:
            continue
        seen.add(edge)
        node, output_nr = edge
        variable = getattr(node, "variable", None)
        if variable is not None and id(variable) not in numbers:
            raise RuntimeError(captured_message(problem.name))
        number = made.get(edge) if variable is None else numbers[id(variable)]
        if number is None:
            stack.extend((following, nr) for following, nr in node.next_functions if following is not None)
        else:
            found.append((number, GradientEdge(node, output_nr)))
    return found


def refuse_lost_gradients(problem: Problem, outputs: Iterable[Tensor], inputs: Sequence[Tensor]) -> None:
    """Raises if `torch.autograd.grad(outputs, inputs)` would miss a tensor that `outputs` depend on.

    For torchdiffeq's adjoint, which asks for the gradients of `inputs` and takes unconnected ones for zero.
    """
    for number, edge in find_edges(problem, outputs, inputs):
        if edge.node is not get_gradient_edge(inputs[number]).node:
            raise RuntimeError(
                f"the field of {problem.name!r} changes the data of its parameters while it runs (layerwise casting "
                "does), so that gradient='adjoint' would lose their gradients; use gradient='reversible', 'checkpoint' "
                "or 'backprop'"
            )


def captured_message(name: str) -> str:
    """Returns the error for a field that hides a tensor that requires grad."""
    return (
        f"the field of {name!r} uses a tensor that requires grad and is neither its parameter nor one of its "
        "arguments; it would get no gradient. Pass it through `integrate(..., args=(tensor,))`, or make the field an "
        "nn.Module that owns it, or use gradient='backprop' or 'checkpoint'."
    )


def refuse_transforms(problem: Problem, gradient: str, state: State) -> None:
    """Raises inside a transform of `torch.func` (grad, vmap, jvp …), which cannot see through one node of the graph."""
    if torch._C._are_functorch_transforms_active() or any(unpack_dual(x).tangent is not None for x in state):
        raise RuntimeError(
            f"gradient={gradient!r} of {problem.name!r} does not work inside transforms of torch.func (grad, vmap, "
            "jvp, …) or in forward mode; use gradient='backprop'"
        )


def refuse_second_derivatives(problem: Problem, end: State, gradient: str) -> None:
    """Makes a backward pass with `create_graph=True` raise at `end`.

    Without it the gradient of, say, `end.x.sum()` would come back without a graph, and a penalty on it would have no
    effect.
    """

    def refuse(_: Tensor) -> None:
        if torch.is_grad_enabled():  # in a backward pass: with create_graph=True
            raise RuntimeError(
                f"gradient={gradient!r} of {problem.name!r} has no second derivatives (create_graph=True); use "
                "gradient='backprop' or 'checkpoint'"
            )

    for tensor in end:
        if tensor.requires_grad:
            tensor.register_hook(refuse)


_warned: set[str] = set()
_backward_passes = 0


def sample_values(tensor: Tensor) -> Tensor:
    """Copies at most 1,024 evenly spaced values: enough to see a drift, next to nothing to keep."""
    flat = tensor.detach().reshape(-1)
    return flat[:: max(1, flat.numel() // 1024)][:1024].clone()


def should_check_drift(device: torch.device) -> bool:
    """Returns whether to compare now. Reading the result waits for the device, so a GPU compares every 64th time."""
    global _backward_passes
    if device.type == "meta":
        return False
    _backward_passes += 1
    return device.type == "cpu" or _backward_passes % 64 == 1


def warn_if_drifted(
    problem: Problem, rebuilt: State, samples: Sequence[Tensor], autocast_dtype: torch.dtype | None
) -> None:
    """Warns, once for each name, if the rebuilt first state is not the one that `samples` were taken from.

    `autocast_dtype` is the dtype of the forward pass's autocast, None without it.
    """
    if problem.name in _warned:
        return
    before = torch.cat([s.double() for s in samples])
    after = torch.cat([sample_values(r).double() for r in rebuilt])
    scale = max(float(before.square().mean().sqrt()), 1e-30)
    drift = float((after - before).square().mean().sqrt()) / scale
    tolerance = DRIFT_TOLERANCE
    if autocast_dtype is not None:
        # A half-precision field is a staircase: a rebuilt point that falls on another stair differs by a rounding.
        tolerance = max(tolerance, 4 * torch.finfo(autocast_dtype).eps)
    if not drift <= tolerance:  # also true for NaN
        _warned.add(problem.name)
        warnings.warn(
            f"the reversible backward pass of {problem.name!r} ({problem.method.name}, {problem.num_steps} steps of "
            f"{problem.step_size:g}) rebuilt its first state with a relative error of {drift:.1e}: its gradients are "
            "inexact. Use gradient='checkpoint', fewer or smaller steps, less damping, or keep the state in float32 "
            "(autocast does).",
            stacklevel=2,
        )
