"""Right-hand sides with structure: accelerations that are linear in the velocity.

A *general* field is any callable `field(t, x, v, *args) -> acceleration`. A *split* field also offers
`field.terms(t, x, *args)`, which returns one of the forms below: everything that does not depend on the velocity. With
`x` frozen, such a form is solved exactly over a step (`kick`), and the solution can be undone (`inverse_kick`): this is
what the drift-kick methods of `methods.py` build on.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Relaxation(NamedTuple):
    """`x'' = rate * (target - x')`: the velocity relaxes towards a target velocity.

    `rate` (1/time, >= 0) broadcasts against `target`; both come from the field. An infinite rate is the first-order ODE
    `x' = target`, a rate of zero is ballistic motion.
    """

    target: Tensor
    rate: Tensor

    def acceleration(self, v: Tensor) -> Tensor:
        """Returns the right-hand side at velocity `v`."""
        return self.rate * (self.target - v)

    def kick(self, v: Tensor, h: float) -> Tensor:
        """Returns the exact velocity after time `h` with `x` frozen: `d v + (1 - d) target`, `d = exp(-rate h)`."""
        lost = torch.expm1(self.rate * -h)  # d - 1
        return torch.addcmul(v, lost.to(v.dtype), v - self.target.to(v.dtype))

    def inverse_kick(self, v: Tensor, h: float) -> Tensor:
        """Undoes `kick`. Rounding errors grow by `exp(rate h)`, so bound `rate * h` where this is used."""
        weight = -torch.expm1(-self.rate * h).to(v.dtype)
        return torch.addcmul(v, weight, self.target.to(v.dtype), value=-1) / (1 - weight)


class Damped(NamedTuple):
    """`x'' = force - damping * x'`, `damping >= 0` (1/time), broadcast against `force`.

    The same family as `Relaxation` with `force = rate * target`, but free of its limit: the force stays when the
    damping goes to zero.
    """

    force: Tensor
    damping: Tensor

    def acceleration(self, v: Tensor) -> Tensor:
        """Returns the right-hand side at velocity `v`."""
        return self.force - self.damping * v

    def _step_factors(self, v: Tensor, h: float) -> tuple[Tensor, Tensor]:
        ch = (self.damping * h).to(v.dtype)
        small = ch.abs() < 1e-3
        # (1 - exp(-ch)) / ch, by its series where the quotient would lose all digits (and divide by zero)
        safe = torch.where(small, torch.ones_like(ch), ch)
        phi = torch.where(small, 1 - ch / 2 + ch * ch / 6, -torch.expm1(-safe) / safe)
        return torch.exp(-ch), h * phi

    def kick(self, v: Tensor, h: float) -> Tensor:
        """Returns the exact velocity after time `h` with `x` frozen: `exp(-c h) v + (1 - exp(-c h)) / c * force`."""
        decay, gain = self._step_factors(v, h)
        return decay * v + gain * self.force.to(v.dtype)

    def inverse_kick(self, v: Tensor, h: float) -> Tensor:
        """Undoes `kick`. Rounding errors grow by `exp(damping h)`."""
        decay, gain = self._step_factors(v, h)
        return (v - gain * self.force.to(v.dtype)) / decay


Form = Relaxation | Damped


@runtime_checkable
class SplitField(Protocol):
    """A field that can be split: callable as a general one, and able to give its velocity-free terms."""

    def terms(self, t: float, x: Tensor, *args: Any) -> Form:
        """Returns the form at time `t` and position `x`."""
        ...

    def __call__(self, t: float, x: Tensor, v: Tensor, *args: Any) -> Tensor:
        """Returns the acceleration, so that every method can integrate a split field."""
        ...


class SplitFieldModule(nn.Module):
    """The base of split fields that are modules: a subclass defines `terms(t, x, *args) -> Form`.

    `forward(t, x, v, *args)` is the acceleration. With `v=None` it is the form itself, for tools that know no other
    method than `forward` (`torch.func.functional_call`, hooks).
    """

    def terms(self, t: float, x: Tensor, *args: Any) -> "Form":
        """Returns the form at time `t` and position `x`."""
        raise NotImplementedError

    def forward(self, t: float, x: Tensor, v: Tensor | None, *args: Any) -> "Tensor | Form":
        """Returns the acceleration at `(t, x, v)`, or the form at `(t, x)` if `v` is None."""
        form = self.terms(t, x, *args)
        return form if v is None else form.acceleration(v)


class _SplitFunction:
    def __init__(self, terms: Callable[..., Form]) -> None:
        self.terms = terms

    def __call__(self, t: float, x: Tensor, v: Tensor, *args: Any) -> Tensor:
        return self.terms(t, x, *args).acceleration(v)


def split_field(terms: Callable[..., Form]) -> SplitField:
    """Makes a split field of a function `terms(t, x, *args)` that returns a `Damped` or `Relaxation`."""
    return _SplitFunction(terms)
