"""Guards against faults that would go unnoticed in training: gradients that are not finite, unreadable images."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from continuous_unet.base.errors import InputError, RunFailed
from continuous_unet.base.processes import Processes
from continuous_unet.data import TrainingData
from continuous_unet.data.dataset import too_many_bad
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.state import TrainState


class TrainingDiverged(RunFailed):
    """Gradients were not finite for many steps in a row, or weights were not; the last checkpoint is still good."""


class Seen(NamedTuple):
    """A batch of this process that a training step used."""

    numbers: Tensor
    """Indices of the images in the data, `(B,)`."""
    unreadable: Tensor
    """Whether another image was used in the place of one, `(B,)`."""
    times: Tensor
    losses: Tensor


@dataclass(frozen=True)
class Guard:
    """Watches the steps of a run, records what went wrong by the names of the images, and gives up after too much."""

    config: TrainConfig
    data: TrainingData
    processes: Processes
    folder: RunFolder

    def check_gradient(self, state: TrainState, finite: bool, seen: list[Seen], step: int | None = None) -> None:
        """Counts in `state.non_finite` the steps in a row whose gradient is not finite, up to `step`.

        If `step` is None, it is the one that is being taken, `state.step + 1`.

        The images, of all processes, whose loss is not finite are named; all images of the step if each loss is.

        Raises:
            TrainingDiverged: after `max_non_finite_steps` of them.
        """
        state.non_finite = 0 if finite else state.non_finite + 1
        if finite:
            return
        step = state.step + 1 if step is None else step
        parts = ((part.numbers, part.times, part.losses) for part in seen)
        rows = self.processes.gather([row for part in parts for row in zip(*map(Tensor.tolist, part), strict=True)])
        rows = [row for row in rows if not math.isfinite(row[2])] or rows
        names = [self.data.name_of(index) for index, _, _ in rows]
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        self.processes.say(f"step {step}: the gradient is not finite, so this update is left out ({shown})")
        if self.processes.main:
            # under the number that the step's other records have, so that a resumption drops it with them
            self.folder.record(step=step, non_finite=True, images=names, timesteps=[row[1] for row in rows])
        if state.non_finite >= self.config.optimizer.max_non_finite_steps:
            raise TrainingDiverged(
                f"the gradient was not finite in {state.non_finite} steps in a row, up to step {step}; look at the "
                "images that metrics.jsonl names, or start a new run with a smaller --learning-rate; the last "
                "checkpoint is good"
            )

    def check_images(self, state: TrainState, seen: list[Seen]) -> None:
        """Adds the images that became unreadable up to step `state.step + 1` to `state.unreadable`, and records them.

        Raises:
            InputError: in all processes, if there are more than `max_bad_images`, or any with `on_bad_image: error`.
        """
        new = [number for part in seen for number in part.numbers[part.unreadable].tolist()]
        new = sorted(set(new) - state.unreadable)
        if not any(count for (count,) in self.processes.gather_numbers([len(new)])):
            return
        new = sorted(set(self.processes.gather(new)))
        state.unreadable |= set(new)
        names = [self.data.name_of(index) for index in new]
        if self.processes.main:
            self.folder.record(step=state.step + 1, unreadable=True, images=names)
        settings, num_bad, num_images = self.config.data, len(state.unreadable), self.data.report.num_images
        if settings.on_bad_image == "error" or too_many_bad(num_bad, num_images, settings.max_bad_images):
            remedy = "give --on-bad-image skip" if settings.on_bad_image == "error" else "raise --max-bad-images"
            raise InputError(
                f"{num_bad} of {num_images} images can no longer be read ({', '.join(names[:3])}); put them back, or "
                f"{remedy}, and continue with --resume; the last checkpoint is good"
            )
