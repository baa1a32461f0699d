"""Runs an exported planner as a policy, with NumPy and ONNX Runtime alone.

`cunet export` writes this file into the folder of a planner, beside `runtime.py` and `receding.py`, which it uses:

    policy = Policy("exported", execute=8, steps=4, threads=1)
    actions = policy(observation)

    python policy.py observation.npz --output plan.npz     # one plan for a file, and how long plans take
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

if __package__:
    from continuous_unet.deploy.standalone import runtime
    from continuous_unet.tasks.plan import receding
else:
    import receding  # type: ignore[import-not-found, no-redef]
    import runtime  # type: ignore[import-not-found, no-redef]

LEARNED = ("actions", "trajectory")
MOST_STEPS = 65_536
"""The largest number of time steps of a plan or of what is observed."""
TIMED = 100
"""Number of plans that are timed."""


def read_planner(folder: Path) -> dict[str, Any]:
    """Reads the `export.json` of a planner, and compares the network with its checksum.

    Raises:
        runtime.ExportedModelError: if the export is missing, damaged, or that of another model.
    """
    path = folder / runtime.INFO_FILE
    if not path.is_file():
        raise runtime.ExportedModelError(f"{folder} holds no exported model ({runtime.INFO_FILE} is missing)")
    try:
        info: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, task, name = info["format_version"], info["task"], info["network"]
        if version != runtime.FORMAT_VERSION:
            raise ValueError(f"it is of format version {version}; expected {runtime.FORMAT_VERSION}")
        if task != "plan":
            raise ValueError(f"it is a model for {task}; expected one for plan")
        shape = receding.PlanShape(info["plan"])
        inputs = ["sample", "timestep", *(["global_cond"] if shape.num_observed else [])]
        sizes: tuple[list[int], ...] = [shape.channels, shape.horizon], [], [shape.history * shape.num_observed]
        entries = [(entry["name"], entry["shape"][1:]) for entry in info["inputs"]]
        known = shape.learned in LEARNED and 1 <= shape.horizon <= MOST_STEPS and 1 <= shape.history <= MOST_STEPS
        if not known or entries != list(zip(inputs, sizes)):
            raise ValueError("its plan and its inputs do not fit")
        runtime.read_schedule(info)
        if Path(name).name != name:
            raise ValueError(f"it names the file {name!r} outside its folder")
        digest, found = info["files"][name]["sha256"], hashlib.sha256((folder / name).read_bytes()).hexdigest()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else repr(error)
        raise runtime.ExportedModelError(f"{path} cannot be used: {reason}; export again") from error
    if digest != found:
        raise runtime.ExportedModelError(f"{folder / name} is not as it was exported; export again")
    return info


def rows_of(schedule: runtime.AnySchedule, steps: int) -> list[runtime.Row]:
    """Returns the steps from noise to a plan, evenly spread over the process."""
    if not 1 <= steps <= schedule.num_timesteps:
        raise receding.PolicyError(f"steps={steps} must be 1 to {schedule.num_timesteps}")
    if isinstance(schedule, runtime.FlowSchedule):
        t = 1 - np.arange(steps) / steps
        times = (schedule.shift * t / (1 + (schedule.shift - 1) * t) * schedule.num_timesteps).tolist()
    else:
        total = schedule.num_timesteps
        times = [float(round(total - k * total / steps) - 1) for k in range(steps)]
    return [schedule.row(*pair) for pair in zip(times, [*times[1:], None])]


def open_network(path: Path, info: dict[str, Any], threads: int | None) -> runtime.Network:
    """Opens the network of a planner, and evaluates it once, to check that `export.json` describes it.

    Raises:
        runtime.ExportedModelError: for another network, or if ONNX Runtime is missing.
    """
    shapes = [[1, *entry["shape"][1:]] for entry in info["inputs"]]
    try:
        network = runtime.open_onnx(path, threads, [entry["name"] for entry in info["inputs"]])
        made = network(*(np.zeros(shape, np.float32) for shape in shapes))
        problem = "" if list(made.shape) == shapes[0] else f"it makes {list(made.shape)}, not {shapes[0]}"
    except (MemoryError, runtime.ExportedModelError):
        raise
    except Exception as error:  # every runtime has classes of its own
        problem = " ".join(str(error).split())[:300] or type(error).__name__
    if problem:
        raise runtime.ExportedModelError(f"{path} is not the network that {runtime.INFO_FILE} describes ({problem})")
    return network


class OnnxPlanner:
    """Makes plans with an exported network.

    Args:
        network: `network(sample, timestep, global_cond) -> prediction`.
        info: the contents of `export.json`.
    """

    def __init__(self, network: runtime.Network, info: dict[str, Any]) -> None:
        self.network = network
        self.info = info
        self.shape = receding.PlanShape(info["plan"])
        self.schedule = runtime.read_schedule(info)

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
        """Returns plans `(B, H, D)` in the units of the data; see `receding.Planner`."""
        shape, schedule, rows = self.shape, self.schedule, rows_of(self.schedule, steps)
        held = None if shape.learned == "actions" else shape.held(observed[:, -1], goal)
        conditions = [shape.condition(observed)] if shape.num_observed else []
        size = shape.channels, shape.horizon
        x = np.stack([runtime.normal_noise(seed, number, size, receding.STREAM) for number in numbers])
        if previous is not None:
            rows = rows[-receding.rows_to_take(len(rows), strength) :]
            x = (rows[0].signal * shape.normalise(previous) + rows[0].noise * x).astype(np.float32)
        for row in rows:
            x = x if held is None else np.where(held[1], held[0], x)
            times = np.full(len(x), row.timestep, dtype=np.float32)
            prediction = self.network(np.ascontiguousarray(x, dtype=np.float32), times, *conditions)
            clean, noise = schedule.image_and_noise(x, prediction, row.signal, row.noise)
            x = (row.next_signal * schedule.limited(clean) + row.next_noise * noise).astype(np.float32)
        return shape.restore(x if held is None else np.where(held[1], held[0], x))


class Policy(receding.RecedingHorizon):
    """A policy on an exported planner: `policy(observation)` returns the next actions.

    Args:
        folder: what `cunet export` wrote.
        execute: number of actions that are executed before the next plan (default: half of the horizon).
        steps: number of sampling steps of a plan from noise, each with one evaluation of the network.
        warm_start: start from the previous plan, and take this fraction of the sampling steps; None starts from noise.
        seed: seed of the noise.
        threads: number of threads of an evaluation; 1 keeps the rate steady beside other work. One per core if None.

    Raises:
        runtime.ExportedModelError: if the export is missing or damaged, or ONNX Runtime is missing.
        receding.PolicyError: for settings that do not fit the planner.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        execute: int | None = None,
        steps: int = 10,
        warm_start: float | None = None,
        seed: int = 0,
        threads: int | None = 1,
    ) -> None:
        if threads is not None and not 1 <= threads <= runtime.MOST_THREADS:
            raise receding.PolicyError(f"threads={threads} must be 1 to {runtime.MOST_THREADS}, or None")
        info = read_planner(Path(folder))
        planner = OnnxPlanner(open_network(Path(folder) / info["network"], info, threads), info)
        super().__init__(planner, execute=execute, steps=steps, warm_start=warm_start, seed=seed)
        rows_of(planner.schedule, steps)


def main(argv: Sequence[str] | None = None) -> int:
    """Makes a plan for what a file says, writes it, and says how long plans take."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("observation", help=".npz with observations (time steps, numbers), or with start and goal")
    parser.add_argument("--output", default="plan.npz", help="where the plan goes (default: plan.npz)")
    parser.add_argument("--steps", type=int, default=10, help="number of sampling steps (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that exists")
    options = parser.parse_args(argv)
    try:
        output = Path(options.output)
        if output.exists() and not options.overwrite:
            raise receding.PolicyError(f"{output} exists already; choose another --output, or add --overwrite")
        policy = Policy(Path(__file__).parent, steps=options.steps, seed=options.seed)
        observed, goal = read_observation(options.observation, policy.planner.shape)
        *before, present = observed
        for observation in before:
            policy.observe(observation)
        policy(present, goal)
        made, seconds = policy.plans, []
        for _ in range(TIMED):
            started = time.perf_counter()
            policy(present, goal)
            seconds.append(time.perf_counter() - started)
        assert made is not None
        number = policy.planner.shape.num_states
        parts = {"states": made[:, :, :number], "actions": made[:, :, number:]}
        runtime.write_aside(output, lambda aside: _save(aside, {n: v for n, v in parts.items() if v.shape[2]}))
    except (runtime.ExportedModelError, receding.PolicyError) as error:
        print(f"policy.py: error: {error}", file=sys.stderr)
        return 2
    middle, slow = np.percentile(seconds, [50, 95])
    print(
        f"{options.output}: a plan takes {middle * 1e3:.2f} ms in the median and {slow * 1e3:.2f} ms at the 95th "
        "percentile"
    )
    return 0


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:  # savez would add .npz to a name
        np.savez(file, **arrays)


def read_observation(path: str, shape: "receding.PlanShape") -> tuple[np.ndarray, np.ndarray | None]:
    """Returns what a plan follows from: observations `(T, O)`, the last of which is present, or a start, and a goal.

    Raises:
        receding.PolicyError: for a file that cannot be read, or lacks an array.
    """
    name = "observations" if shape.learned == "actions" else "start"
    try:
        with np.load(path, allow_pickle=False) as archive:
            values = np.atleast_2d(archive[name])
            return values, archive.get("goal")
    except Exception as error:
        raise receding.PolicyError(f"{path} cannot be used ({error}); expected a .npz with {name}") from error


if __name__ == "__main__":
    sys.exit(main())
