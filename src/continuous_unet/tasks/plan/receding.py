"""The control loop of a policy: it plans, executes the first part of the plan, and plans again.

It needs NumPy alone, because exported policies use this file too. What makes the plans is a `Planner`: a model in
PyTorch (`policy.py` here), or an exported network.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

STREAM = 10
"""The stream of random numbers that the noise of plans is drawn from."""


class PolicyError(ValueError):
    """Bad input: an observation or a setting that does not fit the planner. The message is one line for a person."""

    exit_code = 2


class PlanShape:
    """What a plan consists of, and how its values become numbers in [-1, 1]: the facts of a planner, in NumPy."""

    def __init__(self, about: Mapping[str, Any]) -> None:
        self.learned: str = about["learned"]
        """`"actions"` or `"trajectory"`."""
        self.horizon, self.history = int(about["horizon"]), int(about["history"])
        self.num_states = int(about["num_states"])
        """How many numbers of each time step are the state; they come first."""
        self._plan, self._observed = (
            tuple(np.asarray(about[f"{name}_{part}"], dtype=np.float32) for part in ("centre", "width"))
            for name in ("plan", "observed")
        )
        self.channels, self.num_observed = len(self._plan[0]), len(self._observed[0])

    @property
    def has_actions(self) -> bool:
        """Whether plans have actions, and not states alone."""
        return self.channels > self.num_states

    @property
    def taken(self) -> int:
        """How many numbers a policy is given at each time step: those observed, or those of the state."""
        return self.num_observed or self.num_states

    def condition(self, observed: np.ndarray) -> np.ndarray:
        """Returns observations `(B, history, O)` as the network is given them, `(B, history * O)`."""
        centre, width = self._observed
        return ((observed - centre) / width).reshape(len(observed), -1).astype(np.float32)

    def normalise(self, plans: np.ndarray) -> np.ndarray:
        """Returns plans `(B, H, D)` as the network makes them, `(B, D, H)`."""
        centre, width = self._plan
        return np.ascontiguousarray(((plans - centre) / width).transpose(0, 2, 1), dtype=np.float32)

    def restore(self, x: np.ndarray) -> np.ndarray:
        """Returns what the network makes, `(B, D, H)`, as plans `(B, H, D)` in the units of the data."""
        centre, width = self._plan
        return x.transpose(0, 2, 1) * width + centre

    def held(self, start: np.ndarray, goal: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Returns the numbers of a trajectory that are given, `(B, D, H)`, and where they are, of that shape.

        Args:
            start: the first state, `(B, S)`.
            goal: the last state, `(B, S)`; None leaves it open.
        """
        known = np.zeros((len(start), self.horizon, self.channels), dtype=np.float32)
        where = np.zeros(known.shape, dtype=bool)
        known[:, 0, : self.num_states], where[:, 0, : self.num_states] = start, True
        if goal is not None:
            known[:, -1, : self.num_states], where[:, -1, : self.num_states] = goal, True
        return self.normalise(known), where.transpose(0, 2, 1)


class Planner(Protocol):
    """What makes plans."""

    @property
    def shape(self) -> PlanShape:
        """What its plans consist of."""

    def make(
        self,
        observed: np.ndarray,
        goal: np.ndarray | None,
        *,
        steps: int,
        seed: int,
        numbers: Sequence[int],
        previous: np.ndarray | None,
        strength: float,
    ) -> np.ndarray:
        """Returns plans `(B, H, D)` in the units of the data.

        Args:
            observed: observations `(B, history, O)`, or the present states `(B, 1, S)`.
            goal: states `(B, S)` that trajectories end with, or None.
            steps: number of sampling steps from noise.
            seed: seed of the noise.
            numbers: the number of each plan, which its noise follows from.
            previous: plans `(B, H, D)` to start from, in place of noise alone.
            strength: the fraction of the sampling steps that change them.
        """


class RecedingHorizon:
    """A policy: `policy(observation)` returns the next actions.

    Several robots are served at once if observations are `(B, O)`; actions are then `(B, k, A)`. An object serves one
    control loop: it remembers what was observed and planned.

    Args:
        planner: makes the plans.
        execute: number of actions to execute before the next plan, 1 to the horizon (default: half of the horizon).
        steps: number of sampling steps of a plan from noise, each with one evaluation of the network.
        warm_start: start from the previous plan, and take this fraction of the sampling steps, above 0 and at most 1;
            None starts from noise.
        seed: seed of the noise.

    Raises:
        PolicyError: for settings that do not fit the planner.
    """

    def __init__(
        self,
        planner: Planner,
        *,
        execute: int | None = None,
        steps: int = 10,
        warm_start: float | None = None,
        seed: int = 0,
    ) -> None:
        self.planner = planner
        shape = planner.shape
        self.execute = max(1, shape.horizon // 2) if execute is None else execute
        for name, number in (("execute", self.execute), ("steps", steps), ("seed", seed)):
            if not hasattr(number, "__index__"):
                raise PolicyError(f"{name}={number!r} must be a whole number")
        if not 1 <= self.execute <= shape.horizon:
            raise PolicyError(f"execute={self.execute} must be 1 to {shape.horizon}, the horizon of the planner")
        if steps < 1:
            raise PolicyError(f"steps={steps} must be at least 1")
        if warm_start is not None and not 0 < warm_start <= 1:
            raise PolicyError(f"warm_start={warm_start} must be above 0 and at most 1, or None")
        self.steps, self.warm_start, self.seed = steps, warm_start, seed
        self._calls = 0
        self._history: deque[np.ndarray] = deque(maxlen=shape.history)
        self._previous: np.ndarray | None = None
        self._ready: deque[np.ndarray] = deque()

    def reset(self) -> None:
        """Forgets what was observed and planned: a new episode begins. The noise goes on, so that episodes differ."""
        self._history.clear()
        self._ready.clear()
        self._previous = None

    @property
    def plans(self) -> np.ndarray | None:
        """The last plans, `(B, H, D)`, in the units of the data; None before the first one."""
        return self._previous

    def observe(self, observation: ArrayLike) -> None:
        """Takes note of an observation without planning, for planners with a history of several time steps."""
        self._history.append(self._checked(observation, "observation")[0])

    def __call__(self, observation: ArrayLike, goal: ArrayLike | None = None) -> np.ndarray:
        """Makes a plan, and returns its first `execute` actions, `(k, A)` or `(B, k, A)`.

        A planner without actions returns the states after the present one, at most `horizon - 1` of them.

        Args:
            observation: what is observed now, `(O,)` or `(B, O)`; the present state for planners of trajectories.
            goal: the state that trajectories end with, of that shape.

        Raises:
            PolicyError: for values that are not finite, or of other dimensions than the planner's.
        """
        values, single = self._checked(observation, "observation")
        target, shape = None, self.planner.shape
        if goal is not None:
            if shape.learned != "trajectory":
                raise PolicyError(
                    "a goal was given, and this planner makes no trajectories; leave it out, or train a planner with "
                    "--learn trajectory"
                )
            target = self._checked(goal, "goal")[0]
            if target.shape != values.shape:
                raise PolicyError(
                    f"the goal has shape {target.shape} and the observation {values.shape}; give one goal for each "
                    "observation"
                )
        if self._history and self._history[-1].shape != values.shape:
            raise PolicyError(
                f"{len(values)} observations were given after {len(self._history[-1])}; give as many as before, or "
                "call reset() first"
            )
        self._history.append(values)
        seen = [self._history[0]] * (shape.history - len(self._history)) + list(self._history)
        count, first = len(values), self._calls * len(values)
        made = self.planner.make(
            np.stack(seen if shape.learned == "actions" else seen[-1:], axis=1),
            target,
            steps=self.steps,
            seed=self.seed,
            numbers=range(first, first + count),
            previous=self._shifted(),
            strength=1.0 if self.warm_start is None else self.warm_start,
        )
        self._calls += 1
        self._previous = made
        part = made[:, : self.execute, shape.num_states :] if shape.has_actions else made[:, 1 : self.execute + 1]
        return part[0] if single else part

    def step(self, observation: ArrayLike, goal: ArrayLike | None = None) -> np.ndarray:
        """Returns the next action, `(A,)` or `(B, A)`, for loops that ask at every time step; plans when it must."""
        if self._ready:
            self.observe(observation)
        else:
            actions = self(observation, goal)
            self._ready.extend(np.moveaxis(actions, -2, 0))
        return self._ready.popleft()

    def _shifted(self) -> np.ndarray | None:
        """Returns the previous plans as they look after what was executed; their last time step is repeated."""
        if self.warm_start is None or self._previous is None:
            return None
        rest = self._previous[:, self.execute :]
        last = self._previous[:, -1:]
        return np.concatenate([rest, np.repeat(last, self.execute, axis=1)], axis=1)

    def _checked(self, values: ArrayLike, what: str) -> tuple[np.ndarray, bool]:
        """Returns an observation as `(B, O)`, and whether it was `(O,)`."""
        return checked(values, what, self.planner.shape.taken)


def checked(values: ArrayLike, what: str, width: int) -> tuple[np.ndarray, bool]:
    """Returns values `(width,)` or `(B, width)` as `(B, width)`, float32, and whether they were one vector.

    Raises:
        PolicyError: for other shapes, and for values that are not finite.
    """
    try:
        found = np.asarray(values)
    except ValueError as error:
        raise PolicyError(f"the {what} is not an array of numbers: its rows have different lengths") from error
    if found.dtype.kind not in "iuf":
        raise PolicyError(f"the {what} is of type {found.dtype}; expected real numbers")
    with np.errstate(over="ignore"):
        found = found.astype(np.float32)
    if found.ndim not in (1, 2) or found.shape[-1] != width or not len(found):
        raise PolicyError(f"the {what} has shape {found.shape}; this planner takes ({width},), or (B, {width})")
    if not np.isfinite(found).all():
        first = np.argwhere(~np.isfinite(found))[0].tolist()
        raise PolicyError(f"the {what} has a value that is not finite at {first}: {found[tuple(first)]}")
    return np.atleast_2d(found), found.ndim == 1


def rows_to_take(steps: int, strength: float) -> int:
    """Returns how many of the sampling steps change a plan that is started from."""
    return max(1, min(steps, math.ceil(steps * strength - 1e-9)))
