"""What a planner knows besides its weights: what a plan consists of, and how its values are scaled."""

from dataclasses import dataclass
from typing import Any, cast

from continuous_unet.base.results import Json
from continuous_unet.data.trajectories.scaling import Scaling
from continuous_unet.data.trajectories.windows import Learned
from continuous_unet.tasks.section import Section

LEARNED = ("actions", "trajectory")
NOTHING = Scaling((), ())
"""The scaling of no numbers at all."""
MOST_STEPS = 65_536
"""The largest number of time steps of a plan or of what is observed."""


@dataclass(frozen=True)
class PlanFacts(Section):
    """What a plan is."""

    learned: str
    """`"actions"`, given observations, or `"trajectory"`: states and perhaps actions, between a start and a goal."""
    horizon: int
    """Number of time steps of a plan."""
    scaling: Scaling
    """The limits of each number of a plan: of the states first, then of the actions."""
    num_states: int = 0
    """How many of these numbers are the state; 0 for plans of actions."""
    history: int = 1
    """Number of observations that the model is given, up to the present one; of no use for trajectories."""
    observed: Scaling = NOTHING
    """The limits of each number that is observed; empty for trajectories."""

    def __post_init__(self) -> None:
        if self.learned not in LEARNED:
            raise ValueError(f"learned is {self.learned!r}; expected {' or '.join(LEARNED)}")
        if not (1 <= self.horizon <= MOST_STEPS and 1 <= self.history <= MOST_STEPS):
            raise ValueError(f"horizon is {self.horizon} and history {self.history}; expected 1 to {MOST_STEPS}")
        is_trajectory = self.learned == "trajectory"
        if not len(self.scaling) or not (1 if is_trajectory else 0) <= self.num_states <= len(self.scaling):
            raise ValueError(f"num_states is {self.num_states}, of {len(self.scaling)} numbers in all")
        if (self.num_states > 0) != is_trajectory or (len(self.observed) > 0) == is_trajectory:
            raise ValueError("num_states is for trajectories, and observed for plans of actions")

    @property
    def num_observed(self) -> int:
        """How many numbers the model is given as its condition."""
        return self.history * len(self.observed)

    def check_model(self, config: Any) -> None:
        given = getattr(config, "global_cond_dim", None) or 0
        if config.in_channels != len(self.scaling):
            raise ValueError(f"scaling has {len(self.scaling)} numbers, and the model {config.in_channels} channels")
        if given != self.num_observed:
            raise ValueError(
                f"observed has {len(self.observed)} numbers and history is {self.history}, and the model is given "
                f"{given} numbers"
            )

    @property
    def kind(self) -> Learned:
        """`learned`, for type checkers."""
        return cast(Learned, self.learned)

    def describe(self) -> Json:
        """Returns the facts as `receding.PlanShape` takes them: plain numbers, by name."""
        return {
            "learned": self.learned,
            "horizon": self.horizon,
            "history": self.history,
            "num_states": self.num_states,
            "plan_centre": self.scaling.centre.tolist(),
            "plan_width": self.scaling.width.tolist(),
            "observed_centre": self.observed.centre.tolist(),
            "observed_width": self.observed.width.tolist(),
        }
