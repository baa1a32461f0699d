"""Problems with exact solutions, and the methods that solve them: the one list to extend for a new method."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from continuous_unet.ode import METHODS, Damped, Relaxation, State, split_field

ALL_METHODS = sorted(METHODS)
GENERAL_METHODS = [name for name in ALL_METHODS if not METHODS[name].uses_terms]
SPLIT_METHODS = [name for name in ALL_METHODS if METHODS[name].uses_terms]
REVERSIBLE_METHODS = [name for name in ALL_METHODS if METHODS[name].reversible]


@dataclass(frozen=True)
class Problem:
    """A field, split where its form allows it, and its exact solution from t = 0."""

    field: Any
    start: tuple[float, float]
    t1: float
    end: tuple[float, float]

    def state(self, dtype: torch.dtype = torch.float64) -> State:
        return State(*(torch.tensor([value], dtype=dtype) for value in self.start))


def _damped_oscillator() -> Problem:
    """x'' = -x - c x', c = 0.8: depends on the velocity, where the textbook velocity Verlet falls to order 1."""
    c, t = 0.8, 2.0
    w = math.sqrt(1 - c * c / 4)
    decay, cos, sin = math.exp(-c * t / 2), math.cos(w * t), math.sin(w * t)
    x = decay * (cos + c / (2 * w) * sin)
    v = -decay * sin / w
    field = split_field(lambda t, x: Damped(-x, torch.full_like(x, c)))
    return Problem(field, (1.0, 0.0), t, (x, v))


def _driven_relaxation() -> Problem:
    """x'' = rate (target - x') with a target that makes x = sin t + t/2 the solution: time and position matter."""
    t = 1.5

    def terms(t: float, x: torch.Tensor) -> Relaxation:
        rate = 1.0 + 0.5 * torch.sin(x)
        on_solution = 1.0 + 0.5 * math.sin(math.sin(t) + t / 2)
        pull = math.sin(t) + t / 2 - x
        return Relaxation(math.cos(t) + 0.5 - math.sin(t) / on_solution + pull, rate)

    return Problem(split_field(terms), (0.0, 1.5), t, (math.sin(t) + t / 2, math.cos(t) + 0.5))


def _nonlinear_drag() -> Problem:
    """x'' = -x'^2, quadratic drag: x = ln(1 + t)."""
    t = 2.0
    return Problem(lambda t, x, v: -v * v, (0.0, 1.0), t, (math.log(1 + t), 1 / (1 + t)))


PROBLEMS = {
    "damped_oscillator": _damped_oscillator(),
    "driven_relaxation": _driven_relaxation(),
    "nonlinear_drag": _nonlinear_drag(),
}
SPLIT_PROBLEMS = ("damped_oscillator", "driven_relaxation")
SOLVABLE = [
    (problem, method)
    for problem in PROBLEMS
    for method in ALL_METHODS
    if problem in SPLIT_PROBLEMS or not METHODS[method].uses_terms
]
