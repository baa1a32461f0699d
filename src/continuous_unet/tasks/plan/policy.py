"""A policy on a trained planner: from observations to actions, in a loop."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from continuous_unet.tasks.plan.pipeline import Cost, PlanningPipeline, load_planner
from continuous_unet.tasks.plan.receding import PlanShape, RecedingHorizon


class TorchPlanner:
    """Makes plans with a pipeline in PyTorch.

    Args:
        pipeline: the planner.
        options: further arguments of its call, such as `cost`.
    """

    def __init__(self, pipeline: PlanningPipeline, **options: Any) -> None:
        self.pipeline, self.options = pipeline, options

    @property
    def shape(self) -> PlanShape:
        return self.pipeline.shape

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
        return self.pipeline(
            observed,
            goal,
            num_inference_steps=steps,
            seed=seed,
            numbers=numbers,
            previous=previous,
            strength=strength,
            **self.options,
        )


class Policy(RecedingHorizon):
    """A policy on a trained planner: `policy(observation)` returns the next actions.

    Args:
        model: a run folder of `cunet train --task plan`, a saved planner, or a pipeline.
        execute: number of actions to execute before the next plan, 1 to the horizon (default: half of the horizon).
        num_inference_steps: number of sampling steps of a plan from noise.
        warm_start: start from the previous plan, and take this fraction of the sampling steps, above 0 and at most 1;
            None starts from noise.
        seed: seed of the noise.
        num_solver_steps: number of solver steps in each block; as trained if None.
        cost: the cost of plans, whose gradient leads the sampling to better ones; see `PlanningPipeline`.
        cost_scale: how far each sampling step follows the gradient.
        device: where to compute; where the pipeline is if None.

    Raises:
        InputError, PolicyError: for a model that is not a planner, and settings that do not fit it.
    """

    def __init__(
        self,
        model: str | os.PathLike | PlanningPipeline,
        *,
        execute: int | None = None,
        num_inference_steps: int = 10,
        warm_start: float | None = None,
        seed: int = 0,
        num_solver_steps: int | None = None,
        cost: Cost | None = None,
        cost_scale: float = 1.0,
        device: str | None = None,
    ) -> None:
        pipeline = model if isinstance(model, PlanningPipeline) else load_planner(model, device=device)
        options = {"num_solver_steps": num_solver_steps, "cost": cost, "cost_scale": cost_scale}
        planner = TorchPlanner(pipeline, **options)
        super().__init__(planner, execute=execute, steps=num_inference_steps, warm_start=warm_start, seed=seed)
