"""The evaluations of the model during sampling: with what was asked for, guided, and with precomputed embeddings."""

from typing import Any

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError
from continuous_unet.base.results import Json
from continuous_unet.models.conditioning import shared
from continuous_unet.models.saved import LARGEST
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.generate.request import Asked, Conditions

FEWEST_PRECOMPUTED = 4
"""Sampling steps from which it pays to precompute the embeddings, which costs about one step."""
MOST_PRECOMPUTED = 10_000
"""Rows of a table of embeddings, up to which it is worth its memory."""


def check_solver_steps(unet: Any, num_solver_steps: int | None) -> None:
    """Checks the number of solver steps of a call; None is always fine.

    Raises:
        InputError: for another kind of model, or a number that is not possible.
    """
    if num_solver_steps is None:
        return
    if not isinstance(unet, ContinuousUNet2DModel):
        raise InputError(f"solver steps are for continuous U-Nets, and this model is a {type(unet).__name__}")
    if isinstance(num_solver_steps, bool) or not 1 <= num_solver_steps <= LARGEST["num_solver_steps"]:
        raise InputError(f"num_solver_steps={num_solver_steps} must be 1 to {LARGEST['num_solver_steps']}")


class Predictor:
    """Evaluates a U-Net at each sampling step of one call of a pipeline.

    Args:
        unet: the U-Net.
        asked: what the call asks for.
        timesteps: those of all steps, `(S,)`.
        num_train_timesteps: number of timesteps of the noise process.
        batch_size: number of images.
        num_solver_steps: number of solver steps in each block; the model's own if None.
        next_timesteps: where each step leads, `(S,)`, for models that are told it.
    """

    def __init__(
        self,
        unet: Any,
        asked: Asked,
        timesteps: Tensor,
        num_train_timesteps: int,
        batch_size: int,
        num_solver_steps: int | None = None,
        next_timesteps: Tensor | None = None,
    ) -> None:
        self.unet, self.guidance, self.num_train_timesteps = unet, asked.guidance, num_train_timesteps
        self.solver: Json = {} if num_solver_steps is None else {"num_solver_steps": num_solver_steps}
        self.following: dict[float, Tensor] = {}
        if next_timesteps is not None and unet.config.get("next_timestep_embedding"):
            self.following = dict(zip(timesteps.tolist(), next_timesteps, strict=True))
        guided = torch.tensor([self._guides(float(t)) for t in timesteps], dtype=torch.bool)
        self.asked = self._arguments(asked.conditions, timesteps[~guided], batch_size)
        both = joined(asked.free, asked.conditions) if asked.free else {}
        self.both = self._arguments(both, timesteps[guided], 2 * batch_size)

    def __call__(self, model_input: Tensor, timestep: Tensor) -> Tensor:
        """Returns the prediction `(B, C, H, W)`, float32, for the model's input of that shape."""
        if not self._guides(float(timestep)):
            return self._evaluate(model_input, timestep, self.asked)
        return self.guidance.combine(self._evaluate(torch.cat([model_input, model_input]), timestep, self.both))

    def _evaluate(self, model_input: Tensor, timestep: Tensor, arguments: Json) -> Tensor:
        told = {"next_timestep": self.following[float(timestep)]} if self.following else {}
        return self.unet(model_input, timestep, **arguments, **told, **self.solver).sample.float()

    def _guides(self, timestep: float) -> bool:
        return self.guidance.applies(timestep, self.num_train_timesteps)

    def _arguments(self, conditions: Conditions, timesteps: Tensor, batch: int) -> Json:
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
            return {"embeddings": self.unet.precompute_embeddings(timesteps, **self.solver, **conditions)}
        return {name: shared(value, batch).expand(batch, *value.shape[1:]) for name, value in conditions.items()}


def joined(free: Conditions, asked: Conditions) -> Conditions:
    """Returns the conditions of a batch without and with what was asked for: 2 rows, or 2B if images differ."""
    count = max(len(value) for part in (free, asked) for value in part.values())
    return {
        name: torch.cat([part.expand(count, *part.shape[1:]) for part in (free[name], asked[name])]) for name in asked
    }
