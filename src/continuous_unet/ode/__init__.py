"""Second-order ODEs `x'' = f(t, x, x')`: methods made for few steps, and exact gradients at constant memory.

Imports torch and nothing else of this project; knows nothing about images.
"""

from continuous_unet.ode.adaptive import ADAPTIVE_METHODS
from continuous_unet.ode.forms import Damped, Relaxation, SplitField, SplitFieldModule, split_field
from continuous_unet.ode.integrate import GRADIENTS, check_solver, integrate
from continuous_unet.ode.loop import Solution
from continuous_unet.ode.methods import METHODS, Method
from continuous_unet.ode.state import State

__all__ = [
    "ADAPTIVE_METHODS",
    "GRADIENTS",
    "METHODS",
    "Damped",
    "Method",
    "Relaxation",
    "Solution",
    "SplitField",
    "SplitFieldModule",
    "State",
    "check_solver",
    "integrate",
    "split_field",
]
