"""What a caller may do after each sampling step: diffusers' `callback_on_step_end`."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from continuous_unet.base.errors import InputError

TENSOR_INPUTS = ("latents",)
"""The tensors that a callback may ask for. `latents` is the sampler's state, `(B, C, H, W)`."""
StepCallback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any] | None]
"""`callback(pipeline, step, timestep, tensors) -> tensors`, as the pipelines of diffusers call it."""
AfterStep = Callable[[int, Any, Tensor], Tensor]
"""`after_step(step, timestep, state) -> state`."""


def unchanged(step: int, timestep: Any, state: Tensor) -> Tensor:
    """Returns the state as it is: what follows a step if there is no callback."""
    return state


def after_each_step(
    pipeline: Any, callback: StepCallback | None, tensor_inputs: Sequence[str] = TENSOR_INPUTS
) -> AfterStep:
    """Returns what a pipeline does with its state after each step.

    Args:
        pipeline: the one that the callback is given.
        callback: called with the pipeline, the number of the step, its timestep and a dict of tensors. The `latents` in
            the dict that it returns replace the state. An exception that it raises ends the sampling.
        tensor_inputs: names of the tensors in the dict. A callback with names of its own, such as diffusers'
            `PipelineCallback`, takes precedence.

    Raises:
        InputError: for a tensor that no callback is given, and later for latents of another shape.
    """
    if callback is None:
        return unchanged
    names = list(getattr(callback, "tensor_inputs", tensor_inputs))
    unknown = [name for name in names if name not in TENSOR_INPUTS]
    if unknown:
        allowed = ", ".join(TENSOR_INPUTS)
        raise InputError(f"callback_on_step_end_tensor_inputs has {unknown[0]!r}; expected names of {allowed}")

    def after_step(step: int, timestep: Any, state: Tensor) -> Tensor:
        answer = callback(pipeline, step, timestep, {name: state for name in names}) or {}
        changed: Tensor = answer.get("latents", state)
        if changed.shape != state.shape:
            given = f"latents of shape {tuple(changed.shape)}"
            raise InputError(f"callback_on_step_end returned {given}; expected {tuple(state.shape)}")
        return changed

    return after_step
