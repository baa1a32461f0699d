"""Makes plans for what a file says: the library call behind `cunet plan`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from continuous_unet.base.devices import pick_device
from continuous_unet.base.errors import InputError
from continuous_unet.base.files import check_output, replace_file
from continuous_unet.base.results import CallResult, counted
from continuous_unet.data.archives import open_archive
from continuous_unet.tasks.loading import set_solver_steps
from continuous_unet.tasks.plan.options import PlanOptions
from continuous_unet.tasks.plan.pipeline import load_planner
from continuous_unet.tasks.plan.receding import PlanShape, PolicyError, checked


@dataclass
class PlanResult(CallResult):
    """The plans that were made."""

    plans: int
    horizon: int
    file: str
    seconds: float

    def to_text(self) -> str:
        return f"{counted(self.plans, 'plan')} of {self.horizon} time steps in {self.seconds:.2f} s: {self.file}"


def make_plans(options: PlanOptions) -> PlanResult:
    """Makes plans with a trained planner, and writes them.

    Raises:
        InputError: for a model that is not a planner, for observations that do not fit it, and if the file cannot be
            written.
    """
    options.validate()
    target = check_output(options.output, overwrite=options.overwrite)
    if target.suffix.lower() != ".npz":
        raise InputError(f"--output {options.output} must end with .npz: plans are written as a NumPy archive")
    pipeline = load_planner(options.model, device=pick_device(options.device))
    set_solver_steps(pipeline.unet, options.solver_steps)
    shape = pipeline.shape
    observed, goal = read_observation(options.observation, shape)
    started = time.perf_counter()
    plans = pipeline(
        np.repeat(observed, options.num, axis=0),
        None if goal is None else np.repeat(goal, options.num, axis=0),
        num_inference_steps=options.steps,
        seed=options.seed,
    )
    seconds = time.perf_counter() - started
    parts = {"states": plans[:, :, : shape.num_states], "actions": plans[:, :, shape.num_states :]}
    content = {name: values for name, values in parts.items() if values.shape[2]}

    def write(aside: Path) -> None:
        with aside.open("wb") as file:
            np.savez_compressed(file, **content)  # type: ignore[arg-type]

    replace_file(target, write)
    return PlanResult(len(plans), shape.horizon, str(target), seconds)


def read_observation(path: str, shape: PlanShape) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns what a plan follows from: observations `(1, history, O)`, or a start `(1, 1, S)`, and a goal `(1, S)`.

    Raises:
        InputError: for a file that cannot be read, lacks an array, or holds values that do not fit the planner.
    """
    if not Path(path).exists():
        raise InputError(
            f"{path} does not exist; expected a .npz with observations, or for planners of trajectories with start and "
            "perhaps goal"
        )
    with open_archive(path) as archive:
        found = {name: archive[name] for name in archive}
    try:
        if shape.learned == "actions":
            observed = checked(_need(found, "observations", path), f"array of observations in {path}", shape.taken)[0]
            observed = observed[-shape.history :]
            missing = shape.history - len(observed)
            return np.concatenate([np.repeat(observed[:1], missing, axis=0), observed])[None], None
        names = ("start", "goal") if "goal" in found else ("start",)
        ends = {name: checked(_need(found, name, path), f"{name} of {path}", shape.taken)[0] for name in names}
    except PolicyError as error:
        raise InputError(str(error)) from error
    goal = ends.get("goal")
    return ends["start"][None, -1:], None if goal is None else goal[-1:]


def _need(found: Mapping[str, np.ndarray], name: str, path: str) -> np.ndarray:
    if name not in found:
        has = ", ".join(found) or "none"
        raise InputError(f"{path} has no array {name} (it has {has}), which this planner needs; add it")
    return found[name]
