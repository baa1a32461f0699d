"""The options of planning. Imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from continuous_unet.base.errors import InputError
from continuous_unet.base.options import Options, option
from continuous_unet.tasks.training_options import SolverTraining

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class PlanTraining(SolverTraining):
    """Options of training a planner on episodes."""

    name = "plan"

    learn: Literal["actions", "trajectory"] = option(
        "actions",
        "actions: what to do next, given observations (Diffusion Policy, arXiv 2303.04137); trajectory: states and "
        "actions between a start and a goal (Diffuser, arXiv 2205.09991)",
    )
    horizon: int = option(16, "number of time steps of a plan", between=(1, 65_536))
    history: int = option(
        2, "number of observations, with the present one, that a plan of actions is conditioned on", between=(1, 1024)
    )
    goal_dropout: float = option(
        0.0,
        "fraction of the training trajectories without a goal, so that the planner can also be used with a start alone",
        between=(0, 1),
    )
    observation_keys: list[str] | None = option(
        None,
        "names of what is observed, in files of LeRobot, robomimic and zarr (default: all observed vectors; in a zarr "
        "obs, else state, else all vectors but action)",
        metavar="NAME",
    )

    def validate(self) -> "Self":
        super().validate()
        if self.goal_dropout and self.learn != "trajectory":
            raise InputError("--goal-dropout is for --learn trajectory; leave it out")
        return self


@dataclass
class PlanOptions(Options):
    """Options of `cunet plan`."""

    model: str = option(
        "",
        "a run folder of `cunet train --task plan`, or a saved planner",
        positional=True,
        required=True,
        metavar="RUN",
    )
    observation: str = option(
        "",
        ".npz with an array observations (T, O), whose last row is the present; or, for planners of trajectories, with "
        "the state to start from, start (S,), and perhaps goal (S,)",
        positional=True,
        required=True,
        metavar="FILE",
    )
    output: str = option(
        "plan.npz", ".npz for actions (num, horizon, A) and, of trajectories, states (num, horizon, S)", short="-o"
    )
    num: int = option(1, "number of plans", between=(1, 4096))
    steps: int = option(10, "number of sampling steps", between=(1, 1000))
    seed: int = option(0, "seed of the random numbers; plan k depends on the seed and k alone", at_least=0)
    solver_steps: int | None = option(None, "number of solver steps in each block (default: as trained)", at_least=1)
    device: str | None = option(None, "cpu, cuda or mps (default: the best one available)")
    overwrite: bool = option(False, "replace a file that exists already")
