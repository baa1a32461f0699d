"""Training steps that do not wait for each other's results: the GPU computes, and the process prepares what follows.

Whether a gradient is finite is decided on the device, which leaves the update out if it is not. What the process needs
to know about the steps is kept there too, and read every so often: see `DeviceTrainer.settle`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from continuous_unet.base.devices import sent
from continuous_unet.diffusion.draws import halves
from continuous_unet.training.captured import CapturedStep
from continuous_unet.training.config import TrainConfig
from continuous_unet.training.guards import Seen
from continuous_unet.training.state import Learner
from continuous_unet.training.trainer import Batch, Trainer

WINDOW = 50
"""The largest number of steps between two readings of what the device has noted."""


def trains_on_device(config: TrainConfig, accelerator: Accelerator) -> bool:
    """Returns whether a run is trained by `DeviceTrainer`: by one process, on a GPU, and without a gradient scaler."""
    precision = config.optimizer.mixed_precision
    return accelerator.device.type == "cuda" and accelerator.num_processes == 1 and precision != "fp16"


def has_graphs(device: torch.device) -> bool:
    """Returns whether steps on a device can be CUDA graphs."""
    return device.type == "cuda"


class Ledger:
    """What a device notes about the steps since the process last read it, and what the steps need to know.

    Args:
        learner: gives the learning rates and the decays of the average that follow.
        images: number of images in a training step.
        device: where the steps are computed.
    """

    def __init__(self, learner: Learner, images: int, device: torch.device) -> None:
        self.learner = learner
        self.step = torch.zeros(1, dtype=torch.long, device=device)
        """Number of steps since the last reading."""
        self.updates = torch.zeros(1, dtype=torch.long, device=device)
        """Number of those whose gradient was finite."""
        self.schedule = torch.zeros(2, WINDOW, device=device)
        """Learning rate, and one minus the decay of the average, by number of updates since the last reading."""
        self.finite = torch.zeros(WINDOW, dtype=torch.bool, device=device)
        self.losses = torch.zeros(WINDOW, images, device=device)
        self.times = torch.zeros(WINDOW, images, device=device)
        self.plan()

    def plan(self) -> None:
        """Starts anew, with the schedule that follows from the state of the learner."""
        scheduler: Any = self.learner.lr_scheduler
        base, rate_of, ema = scheduler.base_lrs[0], scheduler.lr_lambdas[0], self.learner.ema
        rates = [base * rate_of(scheduler.last_epoch + k) for k in range(WINDOW)]
        weights = [0.0 if ema is None else 1 - ema.get_decay(ema.optimization_step + 1 + k) for k in range(WINDOW)]
        self.schedule.copy_(sent(torch.tensor([rates, weights]), self.schedule.device))
        self.step.zero_()
        self.updates.zero_()

    def note(self, finite: Tensor, losses: Tensor, times: Tensor) -> Tensor:
        """Notes a step, and returns its learning rate and its weight of the average, `(2,)`."""
        values = self.schedule.index_select(1, self.updates)[:, 0]
        for table, row in ((self.finite, finite), (self.losses, losses), (self.times, times)):
            table.index_copy_(0, self.step, row[None].to(table.dtype))
        self.step += 1
        self.updates += finite
        return values


class DeviceTrainer(Trainer):
    """Trains a run whose device is faster than this process would be if it waited for each result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        optimizer = self.config.optimizer
        self.parts = optimizer.gradient_accumulation_steps
        self.unread: list[list[Seen]] = []
        self.ledger: Ledger | None = None
        self.captured: CapturedStep | None = None
        capturable = self.task.capturable and self.parts == 1 and len(self.depths) < 2
        if capturable and has_graphs(self.accelerator.device):
            self.captured = CapturedStep(self._compute_one, self.processes.say)

    def take_step(self, batches: Iterator[Batch]) -> Tensor:
        """Lets the device change the weights once, and counts it; returns the norm of the gradient, on the device."""
        state, config, device = self.state, self.config, self.accelerator.device
        images = config.optimizer.batch_size * self.parts
        if self.ledger is None:
            self.ledger = Ledger(self.learner, images, device)
            for group in self.learner.optimizer.param_groups:
                group["lr"] = torch.tensor(float(group["lr"]), device=device)
        pairs = [next(batches) for _ in range(self.parts)]
        if self.captured is not None:
            ((positions, batch),) = pairs
            tensors = {
                name: sent(value, device) for name, value in batch.items() if name not in ("index", "unreadable")
            }
            self.seed_dropout(0)
            norm = self.captured({"positions": halves(positions, device), **tensors})
        else:
            norm = self._compute(pairs)
        seen = [Seen(batch["index"], batch["unreadable"], torch.empty(0), torch.empty(0)) for _, batch in pairs]
        self.unread.append(seen)
        self.guard.check_images(state, seen)
        state.step += 1
        state.images_seen += images
        if len(self.unread) == WINDOW:
            self.settle()
        return norm

    def _compute_one(self, inputs: Mapping[str, Tensor]) -> Tensor:
        positions, batch = inputs["positions"], {name: inputs[name] for name in inputs if name != "positions"}
        return self._compute([(positions, batch)], seeded=True)

    def _compute(self, pairs: list[tuple[Any, Any]], seeded: bool = False) -> Tensor:
        """Computes one step; nothing in here waits for the device.

        Args:
            pairs: positions and tensors of each batch.
            seeded: whether dropout is seeded already.
        """
        losses, times = [], []
        for part, (positions, batch) in enumerate(pairs):
            step = self.context(positions, batch)
            if not seeded:
                self.seed_dropout(part)
            with self.accelerator.autocast():
                own = self.task.loss(step)
            (own.mean() / len(pairs)).backward()
            losses.append(own.detach())
            times.append(step.times)
        return self._update(torch.cat(losses), torch.cat(times))

    @torch.no_grad()
    def _update(self, losses: Tensor, times: Tensor) -> Tensor:
        """Changes the weights and their average if the gradient is finite, and returns its norm."""
        assert self.ledger is not None
        learner, limit = self.learner, self.config.optimizer.gradient_clip
        parameters: Any = list(learner.model.parameters())
        norm = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if limit is None else limit)
        finite = norm.isfinite()
        learning_rate, weight = self.ledger.note(finite, losses, times)
        optimizer: Any = getattr(learner.optimizer, "optimizer", learner.optimizer)
        for group in optimizer.param_groups:
            group["lr"].copy_(learning_rate)
        optimizer.grad_scale, optimizer.found_inf = None, (~finite).float()  # the fused kernel leaves all as it is then
        optimizer.step()
        optimizer.zero_grad()
        if learner.ema is not None:
            averages = learner.ema.shadow_params
            differences = torch._foreach_sub(averages, parameters)
            torch._foreach_mul_(differences, torch.where(finite, weight, 0.0))
            torch._foreach_sub_(averages, differences)
        return norm

    def settle(self) -> None:
        """Reads what the device has noted, and brings the state of the run up to date with it.

        Raises:
            TrainingDiverged: as after each step of `Trainer`, some steps later.
        """
        unread, self.unread = self.unread, []
        if not unread or self.ledger is None:
            return
        count, ledger, state = len(unread), self.ledger, self.state
        finite = ledger.finite[:count].tolist()
        losses, times = ledger.losses[:count].clone(), ledger.times[:count].tolist()
        state.losses.extend(losses.mean(dim=1).unbind())
        for _ in range(sum(finite)):
            self.learner.lr_scheduler.step()
            if self.learner.ema is not None:
                self.learner.ema.optimization_step += 1
        ledger.plan()
        for place, seen in enumerate(unread):
            if finite[place]:
                self.guard.check_gradient(state, True, seen)
                continue
            own = zip(
                seen, losses[place].cpu().chunk(len(seen)), torch.tensor(times[place]).chunk(len(seen)), strict=True
            )
            named = [part._replace(losses=part_losses, times=part_times) for part, part_losses, part_times in own]
            self.guard.check_gradient(state, False, named, step=state.step - count + place + 1)
