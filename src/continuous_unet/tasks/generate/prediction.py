"""The evaluations of the model during sampling: with what was asked for, guided, and with precomputed embeddings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.models.conditioning import shared
from continuous_unet.models.saved import LARGEST
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.facts import Facts, SolverStepFacts
from continuous_unet.tasks.generate.options import AUTO
from continuous_unet.tasks.generate.request import Asked, Conditions
from continuous_unet.tasks.generate.speed import CapturedEvaluation, capture_pays

FEWEST_PRECOMPUTED = 4
"""Sampling steps from which it pays to precompute the embeddings, which costs about one step."""
MOST_PRECOMPUTED = 10_000
"""Rows of a table of embeddings, up to which it is worth its memory."""


SolverSteps = int | SolverStepFacts | None
"""One number of solver steps for all evaluations, or one by noise level; None for the model's own."""


def find_solver_steps(unet: Any, facts: Facts, num_solver_steps: int | str | None) -> SolverSteps:
    """Returns the solver steps of a call, which names a number, or `"auto"` for those saved with the model.

    Raises:
        InputError: for another kind of model, a number that is not possible, or a model that has no table.
    """
    if num_solver_steps is None:
        return None
    if not isinstance(unet, ContinuousUNet2DModel):
        raise InputError(f"solver steps are for continuous U-Nets, and this model is a {type(unet).__name__}")
    if num_solver_steps == AUTO:
        if facts.solver_steps is None:
            raise InputError(
                f"solver steps {AUTO!r} need a table of them by noise level, and this model has none; measure it with "
                "`cunet depths MODEL --data DATA`, or give a number"
            )
        return facts.solver_steps
    whole = isinstance(num_solver_steps, int) and not isinstance(num_solver_steps, bool)
    if not whole or not 1 <= int(num_solver_steps) <= LARGEST["num_solver_steps"]:
        raise InputError(
            f"num_solver_steps={num_solver_steps!r} must be 1 to {LARGEST['num_solver_steps']}, or {AUTO!r}"
        )
    return int(num_solver_steps)


def field_evaluations(unet: Any, timesteps: Sequence[float], solver_steps: SolverSteps) -> int | None:
    """Returns how many times the fields of a U-Net, all together, are evaluated for one image.

    Guidance, which evaluates the U-Net twice, doubles this.

    Args:
        unet: the U-Net; None is returned for one without solver steps, or with a solver that chooses their number.
        timesteps: those of all evaluations of the U-Net.
        solver_steps: their solver steps.
    """
    if not isinstance(unet, ContinuousUNet2DModel):
        return None
    depths = Counter(_depth(solver_steps, timestep) for timestep in timesteps)
    return unet.field_evaluations(depths)


def _depth(solver_steps: SolverSteps, timestep: float) -> int | None:
    return solver_steps.at(timestep) if isinstance(solver_steps, SolverStepFacts) else solver_steps


class Predictor:
    """Evaluates a U-Net at each sampling step of one call of a pipeline.

    Args:
        unet: the U-Net.
        asked: what the call asks for.
        timesteps: those of all steps, `(S,)`.
        num_train_timesteps: number of timesteps of the noise process.
        batch_size: number of images.
        solver_steps: number of solver steps in each block.
        next_timesteps: where each step leads, `(S,)`, for models that are told it.
    """

    def __init__(
        self,
        unet: Any,
        asked: Asked,
        timesteps: Tensor,
        num_train_timesteps: int,
        batch_size: int,
        solver_steps: SolverSteps = None,
        next_timesteps: Tensor | None = None,
    ) -> None:
        self.unet, self.guidance, self.num_train_timesteps = unet, asked.guidance, num_train_timesteps
        self.solver_steps = solver_steps
        self.following: dict[float, Tensor] = {}
        if next_timesteps is not None and unet.config.get("next_timestep_embedding"):
            self.following = dict(zip(timesteps.tolist(), next_timesteps, strict=True))
        both = joined(asked.free, asked.conditions) if asked.free else {}
        kinds = [self._kind(float(timestep)) for timestep in timesteps]
        self.arguments: dict[tuple[bool, int | None], Json] = {}
        """Those of the evaluations, with and without guidance, by number of solver steps."""
        self.captured: dict[tuple[bool, int | None], CapturedEvaluation] = {}
        """Those of which there are so many that they are captured."""
        for guided, depth in dict.fromkeys(kinds):
            chosen = timesteps[torch.tensor([kind == (guided, depth) for kind in kinds])]
            solver: Json = {} if depth is None else {"num_solver_steps": depth}
            what, batch = (both, 2 * batch_size) if guided else (asked.conditions, batch_size)
            self.arguments[guided, depth] = self._arguments(what, chosen, batch, solver)
            if not self.following and capture_pays(timesteps.device, len(chosen)):
                self.captured[guided, depth] = CapturedEvaluation(unet, self.arguments[guided, depth])

    def __call__(self, model_input: Tensor, timestep: Tensor) -> Tensor:
        """Returns the prediction `(B, C, H, W)`, float32, for the model's input of that shape."""
        kind = self._kind(float(timestep))
        if not kind[0]:
            return self._evaluate(model_input, timestep, kind)
        both = torch.cat([model_input, model_input])
        return self.guidance.combine(self._evaluate(both, timestep, kind))

    def _evaluate(self, model_input: Tensor, timestep: Tensor, kind: tuple[bool, int | None]) -> Tensor:
        if kind in self.captured:
            return self.captured[kind](model_input, timestep).float()
        told = {"next_timestep": self.following[float(timestep)]} if self.following else {}
        return self.unet(model_input, timestep, **self.arguments[kind], **told).sample.float()

    def _kind(self, timestep: float) -> tuple[bool, int | None]:
        """Returns whether an evaluation is guided, and its number of solver steps."""
        guided = self.guidance.applies(timestep, self.num_train_timesteps)
        return guided, _depth(self.solver_steps, timestep)

    def _arguments(self, conditions: Conditions, timesteps: Tensor, batch: int, solver: Json) -> Json:
        """Returns the arguments of the evaluations at some timesteps: a table of embeddings where that pays.

        It pays on a CPU, whose time goes into many small operations.
        """
        rows = max((len(value) for value in conditions.values()), default=1)
        pays = (
            isinstance(self.unet, ContinuousUNet2DModel)
            and self.unet.config.class_embed_type is None
            and self.unet._compiled_call_impl is None
            and timesteps.device.type == "cpu"
            and not self.following
            and FEWEST_PRECOMPUTED <= len(timesteps) <= MOST_PRECOMPUTED // rows
        )
        if pays:
            return {"embeddings": self.unet.precompute_embeddings(timesteps, **solver, **conditions), **solver}
        given = {name: shared(value, batch).expand(batch, *value.shape[1:]) for name, value in conditions.items()}
        return {**given, **solver}


def joined(free: Conditions, asked: Conditions) -> Conditions:
    """Returns the conditions of a batch without and with what was asked for: 2 rows, or 2B if images differ."""
    count = max(len(value) for part in (free, asked) for value in part.values())
    return {
        name: torch.cat([part.expand(count, *part.shape[1:]) for part in (free[name], asked[name])]) for name in asked
    }
