"""Training at several numbers of solver steps, so that one model can be used at each of them: elastic depth.

Every training step evaluates the deepest model on the whole batch, and one shallower model on half of it. The shallow
one learns from the data at first, and later from the deepest one's predictions. The loss is, for depths n below N,

    L(out_N) + lam L(out_n) + (1 - lam) |out_n - sg out_N|^2

where `lam` falls from 1 to 0 over the first third of the training, `sg` stops the gradient, and the integration time
stays the same. This is the recipe of nested models that share their weights (slimmable networks, arXiv 1812.08928; ELT,
arXiv 2604.09168; LoopFormer, arXiv 2602.11451), applied to the steps of a solver. We divide by `1 + lam`, so that a
recorded loss compares with that of other trainings.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from continuous_unet.base.errors import InputError
from continuous_unet.diffusion.draws import Stream, uniform
from continuous_unet.models.build import extended
from continuous_unet.models.unet_2d import ContinuousUNet2DModel
from continuous_unet.tasks.network import Network, Prediction

if TYPE_CHECKING:
    from continuous_unet.models.config import SavedConfig
    from continuous_unet.tasks.base import StepContext

SHALLOW_SHARE = 2
"""A shallow depth is trained on one of so many images of the data's sequence."""
LAST_DATA_SHARE, RAMP = 0.0, 1 / 3
"""The share of the data in a shallow depth's loss falls from 1 to the first, over the second's share of a training.
With one of four images and a last share of 0.3, losses were 1.6 to 3.0 % above those of models of one depth."""


class Attempt(NamedTuple):
    """What a model predicts for a batch, and what it should."""

    prediction: Tensor
    target: Tensor
    weight: Tensor | None = None
    """Weights `(B,)` of the images; None if all are 1."""


@dataclass(frozen=True)
class Shallow:
    """The shallow depth of one training step."""

    num_solver_steps: int
    data_share: float
    """The share of the data in its loss; the rest is for the deepest model's predictions."""
    first: int = 0
    """The first image of the batch that it is trained on; after it comes every other one."""

    @property
    def chosen(self) -> slice:
        """The images of the batch that it is trained on."""
        return slice(self.first, None, SHALLOW_SHARE)

    def part(self, step: "StepContext") -> "StepContext":
        """Returns these images as a batch of their own, with the model at this depth."""
        return replace(
            step,
            model=AtDepth(step.model, self.num_solver_steps),
            clean=step.clean[self.chosen],
            noise=step.noise[self.chosen],
            times=step.times[self.chosen],
            conditions={name: values[self.chosen] for name, values in step.conditions.items()},
            positions=step.positions[self.chosen],
            shallow=None,
        )


@dataclass(frozen=True)
class AtDepth:
    """A continuous U-Net with another number of solver steps; it shares the weights."""

    network: Network
    num_solver_steps: int

    @property
    def config(self) -> "SavedConfig":
        return self.network.config

    @property
    def dtype(self) -> torch.dtype:
        return self.network.dtype

    @property
    def device(self) -> torch.device:
        return self.network.device

    def __call__(self, sample: Tensor, timestep: Tensor | float, **conditions: object) -> Prediction:
        return self.network(sample, timestep, num_solver_steps=self.num_solver_steps, **conditions)


def draw_shallow(depths: tuple[int, ...], *, seed: int, step: int, progress: float, positions: range) -> Shallow | None:
    """Returns the shallow depth of a training step, which all processes agree on; None without one.

    Args:
        depths: the numbers of solver steps of the training, ascending.
        seed: the seed of the run.
        step: number of training steps that were taken before.
        progress: the fraction of the training that they are.
        positions: those of the batch in the data's sequence, which decide the images that it is trained on.
    """
    if len(depths) < 2:
        return None
    number = int(float(uniform(seed, Stream.DEPTHS, [step])) * (len(depths) - 1))
    data_share = 1 - (1 - LAST_DATA_SHARE) * min(1.0, progress / RAMP)
    return Shallow(depths[number], data_share, -positions.start % SHALLOW_SHARE)


def loss_over_depths(
    step: "StepContext", attempt: Callable[["StepContext"], Attempt], distance: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Returns the loss of each image, `(B,)`: at the model's own depth, and at the step's shallow one if it has one.

    Args:
        step: the batch.
        attempt: evaluates the model of the batch that it is given.
        distance: the loss of predictions, given what they should be, both `(B, C, H, W)`: `(B,)`.
    """

    def measured(predicted: Attempt, target: Tensor) -> Tensor:
        losses = distance(predicted.prediction, target)
        return losses if predicted.weight is None else losses * predicted.weight

    deep = attempt(step)
    losses, shallow = measured(deep, deep.target), step.shallow
    if shallow is None:
        return losses
    further = torch.zeros_like(losses)
    chosen = shallow.chosen
    if len(further[chosen]):  # a small batch may have none
        own, share = attempt(shallow.part(step)), shallow.data_share
        lessons = (own.target, share), (deep.prediction[chosen].detach(), 1 - share)
        taught = torch.zeros_like(further[chosen])
        for goal, weight in lessons:
            if weight:
                taught = taught + weight * measured(own, goal)
        # the mean over these images is to count as much as the other one over all of them
        further[chosen] = SHALLOW_SHARE * taught
    return (losses + further) / (1 + shallow.data_share)


def mean_over_depths(step: "StepContext", loss: Callable[["StepContext"], Tensor]) -> Tensor:
    """Returns the loss of each image, `(B,)`, at both depths, for a loss that already has a teacher for the model.

    Args:
        step: the batch.
        loss: evaluates the model of the batch that it is given, and returns the loss of each of its images.
    """
    losses, shallow = loss(step), step.shallow
    if shallow is None:
        return losses
    further = torch.zeros_like(losses)
    if len(further[shallow.chosen]):
        further[shallow.chosen] = SHALLOW_SHARE * loss(shallow.part(step))
    return (losses + further) / 2


def with_depths(model: nn.Module, depths: tuple[int, ...]) -> nn.Module:
    """Returns a model to be trained at these depths, the last of which becomes its own; its integration time stays.

    A model that is to have several gets embeddings of the length of its solver steps, which start at zero.

    Raises:
        InputError: for a model without solver steps, or with a solver that chooses their number.
    """
    if not depths:
        return model
    if not isinstance(model, ContinuousUNet2DModel):
        raise InputError(f"--solver-steps is for continuous U-Nets, and this model is a {type(model).__name__}")
    try:
        if len(depths) > 1 and not model.config.elastic_depth:
            model = extended(model, elastic_depth=True)
        return model.set_solver(num_steps=depths[-1])
    except ValueError as error:
        raise InputError(f"--solver-steps: {error}") from error
