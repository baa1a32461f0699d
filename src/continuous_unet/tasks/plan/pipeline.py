"""Makes plans with a trained model: actions given observations, or trajectories between a start and a goal."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.draws import normal
from continuous_unet.diffusion.process import process_of
from continuous_unet.diffusion.table import make_rows
from continuous_unet.tasks.facts import Facts, read_facts, write_facts
from continuous_unet.tasks.network import Network, Pipeline
from continuous_unet.tasks.plan.facts import PlanFacts
from continuous_unet.tasks.plan.receding import STREAM, PlanShape, rows_to_take
from continuous_unet.tasks.saved import load_parts, model_folder, trained_for

Cost = Callable[[Tensor], Tensor]
"""The cost of plans `(B, H, D)` in the units of the data, `(B,)`; differentiable."""


class PlanningPipeline(Pipeline):
    """A planner: a 1-D U-Net, its noise process, and what its plans are.

    Args:
        unet: a model of `(B, D, H)`, with a global condition if it is given observations.
        scheduler: the scheduler of the process that it was trained with.
        facts: what is saved with the model; `facts.plan` says what a plan is.

    Raises:
        InputError: if the facts do not fit the U-Net, or do not say what a plan is.
    """

    task = "plan"

    def __init__(self, unet: Network, scheduler: Any, facts: Facts | None = None) -> None:
        super().__init__(unet, scheduler)
        facts = Facts() if facts is None else facts
        facts.check_model(unet.config)
        self.facts = facts
        self.shape = PlanShape(self.plan.describe())

    @property
    def plan(self) -> PlanFacts:
        """What a plan consists of."""
        if self.facts.plan is None:
            raise InputError("this model is not a planner: nothing says what its plans are")
        return self.facts.plan

    @torch.no_grad()
    def __call__(
        self,
        observed: np.ndarray,
        goal: np.ndarray | None = None,
        *,
        num_inference_steps: int = 10,
        seed: int = 0,
        numbers: Sequence[int] | None = None,
        previous: np.ndarray | None = None,
        strength: float = 1.0,
        num_solver_steps: int | None = None,
        cost: Cost | None = None,
        cost_scale: float = 1.0,
    ) -> np.ndarray:
        """Returns plans `(B, H, D)` in the units of the data: states, if the planner knows them, and then actions.

        Args:
            observed: observations `(B, history, O)` up to the present, or the present states `(B, 1, S)`.
            goal: states `(B, S)` that trajectories end with; None leaves the end open.
            num_inference_steps: number of sampling steps from noise.
            seed: seed of the noise.
            numbers: the number of each plan, which its noise follows from; 0, 1, … if None.
            previous: plans `(B, H, D)` in the units of the data to start from, which get noise; None starts from noise.
            strength: the fraction of the sampling steps that change `previous`, above 0 and at most 1.
            num_solver_steps: number of solver steps in each block; as trained if None.
            cost: returns the costs `(B,)` of plans `(B, H, D)` in the units of the data. Each sampling step moves its
                estimate of the plans against the gradient, which is not taken through the network.
            cost_scale: factor of the gradient with respect to the plans as the network makes them, in [-1, 1].

        Raises:
            InputError: for a cost that is not one finite number per plan, and a number of steps that is not possible.
        """
        shape, process, device = self.shape, process_of(self.scheduler), self.unet.device
        if not 1 <= num_inference_steps <= process.num_train_timesteps:
            raise InputError(
                f"{num_inference_steps} sampling steps of a plan: expected 1 to {process.num_train_timesteps}"
            )
        conditions: dict[str, Any] = {} if num_solver_steps is None else {"num_solver_steps": num_solver_steps}
        held: tuple[Tensor, Tensor] | None = None
        if shape.learned == "actions":
            condition = torch.from_numpy(shape.condition(observed))
            conditions["global_cond"] = condition.to(device, self.unet.dtype)
        else:
            known, where = (torch.from_numpy(part.copy()).to(device) for part in shape.held(observed[:, -1], goal))
            held = known, where
        numbers = range(len(observed)) if numbers is None else numbers
        rows = make_rows(process, process.sampling_times(num_inference_steps))
        x = normal(seed, STREAM, numbers, (shape.channels, shape.horizon), device)
        if previous is not None:
            rows = rows[-rows_to_take(len(rows), strength) :]
            x = rows[0].signal * torch.from_numpy(shape.normalise(previous)).to(device) + rows[0].noise * x
        for row in rows:
            x = _hold(x, held)
            time = torch.full((len(x),), row.timestep, device=device)
            prediction = self.unet(x.to(self.unet.dtype), time, **conditions).sample.to(x.dtype)
            clean, noise = row.parts(process, x, prediction)
            if cost is not None:
                clean = clean - cost_scale * self._gradient(cost, clean)
            x = row.next_signal * clean + row.next_noise * noise
        return shape.restore(_hold(x, held).cpu().numpy())

    def _gradient(self, cost: Cost, clean: Tensor) -> Tensor:
        """Returns the gradient of the cost with respect to the scaled plans, `(B, D, H)`."""
        with torch.enable_grad():
            leaf = clean.detach().requires_grad_()
            values = cost(self.plan.scaling.restore(leaf.transpose(1, 2)))
            if values.shape != (len(clean),) or not bool(values.isfinite().all()):
                raise InputError(
                    f"the cost has shape {tuple(values.shape)}, or values that are not finite; expected "
                    f"({len(clean)},), a finite number for each plan: sum over dimensions 1 and 2 alone"
                )
            gradient: Tensor = torch.autograd.grad(values.sum(), leaf)[0]
        return gradient

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:  # type: ignore[override]
        """Saves the parts as diffusers does, and what a plan is beside them."""
        super().save_pretrained(save_directory, **kwargs)
        write_facts(Path(save_directory), self.facts)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **kwargs: Any) -> "PlanningPipeline":  # type: ignore[override]
        """Loads a run folder or a saved planner; see `load_planner`."""
        return load_planner(path, **kwargs)


PlanningPipeline.__module__ = "continuous_unet"


def _hold(x: Tensor, held: tuple[Tensor, Tensor] | None) -> Tensor:
    """Returns trajectories with their known numbers in place, without noise, as in training."""
    return x if held is None else torch.where(held[1], held[0], x)


def load_planner(
    path: str | os.PathLike,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    variant: str | None = None,
) -> PlanningPipeline:
    """Loads a planner.

    Args:
        path: a run folder of `cunet train --task plan`, or a saved planner.
        device: where to put it; the CPU if None.
        dtype: type of the weights; as saved if None.
        variant: name of the variant of the weights; the only one if None.

    Raises:
        InputError: if there is nothing to load, or a file is damaged, or the model is not a planner.
    """
    unet, scheduler, index = load_parts(Path(path), variant)
    facts = read_facts(model_folder(Path(path)))
    if trained_for(index) != "plan" or facts.plan is None:
        raise InputError(f"{path} is not a planner; expected a model of `cunet train --task plan`")
    return PlanningPipeline(unet, scheduler, facts).to(device=device, dtype=dtype)
