"""What must not go on unnoticed while training: gradients that are not finite, and images that cannot be read."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from continuous_unet.base.errors import InputError, RunFailed
from continuous_unet.base.processes import Processes
from continuous_unet.data import TrainingData
from continuous_unet.data.dataset import too_many_bad
from continuous_unet.training.folder import RunFolder
from continuous_unet.training.state import TrainState


class TrainingDiverged(RunFailed):
    """Gradients were not finite for many steps in a row, or weights were not; the last good checkpoint stands."""


@dataclass
class Seen:
    """The images of one training step of this process."""

    indices: list[int] = field(default_factory=list)
    times: list[Tensor] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    unreadable: list[int] = field(default_factory=list)
    """Those in whose place another one was used."""

    def add(self, batch: dict[str, Tensor], times: Tensor, losses: Tensor) -> None:
        """Adds a batch, with the times and losses `(B,)` of its images."""
        self.indices += batch["index"].tolist()
        self.unreadable += batch["index"][batch["unreadable"]].tolist()
        self.times.append(times)
        self.losses.append(losses.detach())

    def mean_loss(self) -> Tensor:
        """Returns the mean loss, 0-d; batches count alike."""
        return torch.stack([losses.mean() for losses in self.losses]).mean()


@dataclass(frozen=True)
class GradientGuard:
    """Counts the steps in a row without a finite gradient, names their images, and gives up after too many."""

    limit: int
    data: TrainingData
    processes: Processes
    folder: RunFolder

    def check(self, state: TrainState, norm: Tensor, seen: Seen) -> bool:
        """Returns whether the gradient of step `state.step + 1` may be used.

        Args:
            state: counters of the run; `non_finite` is updated.
            norm: of the gradient summed over all processes, so that all of them decide alike.
            seen: the images of the step.

        Raises:
            TrainingDiverged: at the limit.
        """
        if bool(torch.isfinite(norm)):
            state.non_finite = 0
            return True
        state.non_finite += 1
        self._name_images(state.step + 1, seen)
        if state.non_finite >= self.limit:
            raise TrainingDiverged(
                f"the gradient was not finite in {state.non_finite} steps in a row, up to step {state.step + 1}; look "
                "at the images that metrics.jsonl names, or start a new run with a smaller --learning-rate; the last "
                "checkpoint is good"
            )
        return False

    def _name_images(self, step: int, seen: Seen) -> None:
        """Names the images, of all processes, whose loss is not finite; all images of the step if each loss is."""
        times, losses = torch.cat(seen.times).tolist(), torch.cat(seen.losses).tolist()
        rows = self.processes.gather(list(zip(seen.indices, times, losses, strict=True)))
        rows = [row for row in rows if not math.isfinite(row[2])] or rows
        names = [self.data.name_of(index) for index, _, _ in rows]
        shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        self.processes.say(f"step {step}: the gradient is not finite, so this update is left out ({shown})")
        if self.processes.main:
            # under the number that the step's other records have, so that a resumption drops it with them
            self.folder.record(step=step, non_finite=True, images=names, timesteps=[row[1] for row in rows])


@dataclass(frozen=True)
class ImageGuard:
    """Counts the images that turn out unreadable while training, and gives up when there are too many."""

    limit: float | None
    """Largest fraction of the images, one of which is always allowed; None to allow none."""
    data: TrainingData
    processes: Processes
    folder: RunFolder

    def check(self, state: TrainState, seen: Seen) -> None:
        """Adds the unreadable images of step `state.step + 1` to `state.unreadable`, and records their names.

        Raises:
            InputError: in all processes, above the limit.
        """
        new = sorted(set(seen.unreadable) - state.unreadable)
        if not any(count for (count,) in self.processes.gather_numbers([len(new)])):
            return
        new = sorted(set(self.processes.gather(new)))
        state.unreadable |= set(new)
        names = [self.data.name_of(index) for index in new]
        if self.processes.main:
            self.folder.record(step=state.step + 1, unreadable=True, images=names)
        num_images = self.data.report.num_images
        if self.limit is None or too_many_bad(len(state.unreadable), num_images, self.limit):
            raise InputError(
                f"{len(state.unreadable)} of {num_images} images can no longer be read ({', '.join(names[:3])}); put "
                "them back, or raise max_bad_images, and go on with --resume; the last checkpoint is good"
            )
